//! Looks up users and groups by name while the configuration is read.

use super::reader::{Located, Parser};
use super::report::shown;
use super::users::{self, UserEntry};
use crate::plan::Account;
use nix::unistd::{Gid, Uid};

/// The user with this name or, in digits, this uid; reports a finding if there is none.
pub(super) fn user(parser: &mut Parser, name: &Located<String>) -> Option<UserEntry> {
    found(parser, name, "user", users::user(&name.value))
}

/// The group with this name or, in digits, this gid; reports a finding if there is none.
pub(super) fn group(parser: &mut Parser, name: &Located<String>) -> Option<u32> {
    found(parser, name, "group", users::group(&name.value))
}

fn found<T>(
    parser: &mut Parser,
    name: &Located<String>,
    what: &str,
    looked_up: Result<Option<T>, String>,
) -> Option<T> {
    let shown = shown(&name.value);
    match looked_up {
        Ok(Some(found)) => return Some(found),
        Ok(None) => parser.error(&name.span, format!("unknown {what} `{shown}`")),
        Err(error) => parser.error(
            &name.span,
            format!("cannot look up the {what} `{shown}`: {error}"),
        ),
    }
    None
}

/// Resolves a pool's `user` and `group`.
pub(super) fn account(
    parser: &mut Parser,
    name: Option<&Located<String>>,
    group_name: Option<&Located<String>>,
) -> Option<Account> {
    let own_group = group_name.and_then(|name| Some((name, group(parser, name)?)));
    let Some(name) = name else {
        if let Some(group) = group_name {
            parser.unused_key(
                &group.span,
                "`group` without `user` does nothing",
                "add `user`",
            );
        }
        return None;
    };
    let user = user(parser, name)?;
    let me = Uid::effective();
    if !me.is_root() && user.uid != me.as_raw() {
        let message = format!("only root can run workers as `{}`", shown(&user.name));
        parser.error_with(
            &name.span,
            message,
            "leave `user` out, or start the master as root",
        );
        return None;
    }
    let gid = own_group.as_ref().map_or(user.gid, |(_, gid)| *gid);
    let groups = users::groups_of(&user.name, gid);
    if let Some((group, gid)) = own_group
        && !me.is_root()
        && !own_groups().contains(&gid)
    {
        parser.error(
            &group.span,
            format!("only root can take the group `{}`", shown(&group.value)),
        );
    }
    Some(Account {
        name: user.name,
        uid: user.uid,
        gid,
        groups,
        home: user.home,
        shell: user.shell,
    })
}

/// The groups that the master may use without being root.
pub(super) fn own_groups() -> Vec<u32> {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    groups
        .into_iter()
        .chain([Gid::effective()])
        .map(Gid::as_raw)
        .collect()
}
