//! Looks up users and groups by name while the configuration is read.

use super::reader::{Located, Parser};
use super::report::shown;
use super::users::{self, UserEntry};
use crate::plan::Account;
use nix::unistd::{Gid, Uid};
use std::path::PathBuf;

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

/// The master's own user with the `group` of a pool without `user`. Its other groups are the master's.
fn own_user(parser: &mut Parser, name: &Located<String>) -> Option<Account> {
    let gid = group(parser, name)?;
    may_take(parser, name, gid);
    let uid = Uid::effective().as_raw();
    let groups = nix::unistd::getgroups().unwrap_or_default();
    Some(Account {
        // A user without an entry is known by the number.
        name: users::user_of(uid)
            .ok()
            .flatten()
            .map_or_else(|| uid.to_string(), |user| user.name),
        uid,
        gid,
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        home: PathBuf::new(),
        shell: PathBuf::new(),
        group_alone: true,
    })
}

/// Without the rights of root a process can take no other group, not even a supplementary one of its own
/// (setresgid(2)).
fn may_take(parser: &mut Parser, name: &Located<String>, gid: u32) {
    if !Uid::effective().is_root() && gid != Gid::effective().as_raw() {
        parser.error_with(
            &name.span,
            format!("only root can take the group `{}`", shown(&name.value)),
            "leave `group` out, or start the master as root",
        );
    }
}

/// Resolves a pool's `user` and `group`.
pub(super) fn account(
    parser: &mut Parser,
    name: Option<&Located<String>>,
    group_name: Option<&Located<String>>,
) -> Option<Account> {
    let Some(name) = name else {
        return own_user(parser, group_name?);
    };
    let own_group = group_name.and_then(|name| Some((name, group(parser, name)?)));
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
    if let Some((group, gid)) = own_group {
        may_take(parser, group, gid);
    }
    Some(Account {
        name: user.name,
        uid: user.uid,
        gid,
        groups,
        home: user.home,
        shell: user.shell,
        group_alone: false,
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
