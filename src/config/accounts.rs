//! Names of users and groups, looked up when the configuration is read.

use super::reader::{At, Reader};
use super::report::shown;
use crate::plan::Account;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use std::ffi::CString;

/// The user with this name or, in digits, this uid; a finding where there is none.
pub(super) fn user(cx: &mut Reader, name: &At<String>) -> Option<User> {
    let looked_up = match name.value.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(&name.value),
    };
    match looked_up {
        Ok(Some(user)) => Some(user),
        Ok(None) => {
            cx.error(&name.span, format!("unknown user `{}`", shown(&name.value)));
            None
        }
        Err(error) => {
            cx.error(&name.span, format!("cannot look up the user `{}`: {}", shown(&name.value), error.desc()));
            None
        }
    }
}

/// The group with this name or, in digits, this gid; a finding where there is none.
pub(super) fn group(cx: &mut Reader, name: &At<String>) -> Option<u32> {
    let looked_up = match name.value.parse::<u32>() {
        Ok(gid) => Group::from_gid(Gid::from_raw(gid)),
        Err(_) => Group::from_name(&name.value),
    };
    match looked_up {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        Ok(None) => {
            cx.error(&name.span, format!("unknown group `{}`", shown(&name.value)));
            None
        }
        Err(error) => {
            cx.error(&name.span, format!("cannot look up the group `{}`: {}", shown(&name.value), error.desc()));
            None
        }
    }
}

/// A pool's `user` and `group`.
pub(super) fn account(cx: &mut Reader, name: Option<&At<String>>, group_name: Option<&At<String>>) -> Option<Account> {
    let own_group = group_name.and_then(|name| Some((name, group(cx, name)?)));
    let Some(name) = name else {
        if let Some(group) = group_name {
            cx.idle(&group.span, "`group` without `user` does nothing", "add `user`");
        }
        return None;
    };
    let user = user(cx, name)?;
    let me = Uid::effective();
    if !me.is_root() && user.uid != me {
        let message = format!("only root can run workers as `{}`", shown(&user.name));
        cx.error_with(&name.span, message, "leave `user` out, or start the master as root");
        return None;
    }
    let gid = own_group.as_ref().map_or(user.gid, |(_, gid)| Gid::from_raw(*gid));
    let groups = CString::new(user.name.clone()).ok().and_then(|name| getgrouplist(&name, gid).ok());
    let groups: Vec<u32> = groups.unwrap_or_else(|| vec![gid]).iter().map(|gid| gid.as_raw()).collect();
    if let Some((group, gid)) = own_group
        && !me.is_root()
        && !own_groups().contains(&gid)
    {
        cx.error(&group.span, format!("only root can take the group `{}`", shown(&group.value)));
    }
    Some(Account {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
        groups,
        home: user.dir,
        shell: user.shell,
    })
}

/// The groups that the master may give away without being root.
pub(super) fn own_groups() -> Vec<u32> {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    groups.into_iter().chain([Gid::effective()]).map(Gid::as_raw).collect()
}
