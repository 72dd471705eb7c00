//! Names of users and groups, looked up when the configuration is read.

use super::people::{self, Person};
use super::reader::{Located, Parser};
use super::report::shown;
use crate::plan::Account;
use nix::unistd::{Gid, Uid};

/// The user with this name or, in digits, this uid; a finding where there is none.
pub(super) fn user(cx: &mut Parser, name: &Located<String>) -> Option<Person> {
    found(cx, name, "user", people::user(&name.value))
}

/// The group with this name or, in digits, this gid; a finding where there is none.
pub(super) fn group(cx: &mut Parser, name: &Located<String>) -> Option<u32> {
    found(cx, name, "group", people::group(&name.value))
}

fn found<T>(cx: &mut Parser, name: &Located<String>, what: &str, looked_up: Result<Option<T>, String>) -> Option<T> {
    let shown = shown(&name.value);
    match looked_up {
        Ok(Some(found)) => return Some(found),
        Ok(None) => cx.error(&name.span, format!("unknown {what} `{shown}`")),
        Err(error) => cx.error(&name.span, format!("cannot look up the {what} `{shown}`: {error}")),
    }
    None
}

/// A pool's `user` and `group`.
pub(super) fn account(
    cx: &mut Parser,
    name: Option<&Located<String>>,
    group_name: Option<&Located<String>>,
) -> Option<Account> {
    let own_group = group_name.and_then(|name| Some((name, group(cx, name)?)));
    let Some(name) = name else {
        if let Some(group) = group_name {
            cx.idle(&group.span, "`group` without `user` does nothing", "add `user`");
        }
        return None;
    };
    let user = user(cx, name)?;
    let me = Uid::effective();
    if !me.is_root() && user.uid != me.as_raw() {
        let message = format!("only root can run workers as `{}`", shown(&user.name));
        cx.error_with(&name.span, message, "leave `user` out, or start the master as root");
        return None;
    }
    let gid = own_group.as_ref().map_or(user.gid, |(_, gid)| *gid);
    let groups = people::groups_of(&user.name, gid);
    if let Some((group, gid)) = own_group
        && !me.is_root()
        && !own_groups().contains(&gid)
    {
        cx.error(&group.span, format!("only root can take the group `{}`", shown(&group.value)));
    }
    Some(Account { name: user.name, uid: user.uid, gid, groups, home: user.home, shell: user.shell })
}

/// The groups that the master may give away without being root.
pub(super) fn own_groups() -> Vec<u32> {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    groups.into_iter().chain([Gid::effective()]).map(Gid::as_raw).collect()
}
