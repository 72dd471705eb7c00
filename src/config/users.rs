//! Users and groups by name and by number.
//!
//! A static binary reads only /etc/passwd and /etc/group. glibc's own look-up would load the modules that
//! /etc/nsswitch.conf names at run time, which works only with the same glibc and crashes with another one.

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const FILES_ALONE: bool = cfg!(target_feature = "crt-static");
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserEntry {
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// The user's first group.
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

impl From<User> for UserEntry {
    fn from(user: User) -> Self {
        Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            shell: user.shell,
        }
    }
}

/// The user with this name or, in digits, this number.
pub(super) fn user(name: &str) -> Result<Option<UserEntry>, String> {
    match name.parse() {
        Ok(uid) => user_of(uid),
        Err(_) if FILES_ALONE => Ok(Passwd::read()?.find(|user_entry| user_entry.name == name)),
        Err(_) => User::from_name(name)
            .map(|user| user.map(UserEntry::from))
            .map_err(said),
    }
}

/// The user with this number.
pub(crate) fn user_of(uid: u32) -> Result<Option<UserEntry>, String> {
    if FILES_ALONE {
        return Ok(Passwd::read()?.find(|user_entry| user_entry.uid == uid));
    }
    User::from_uid(Uid::from_raw(uid))
        .map(|user| user.map(UserEntry::from))
        .map_err(said)
}

/// The number of the group with this name or, in digits, this number.
pub(super) fn group(name: &str) -> Result<Option<u32>, String> {
    let number = name.parse::<u32>().ok();
    if FILES_ALONE {
        let groups = Groups::read()?;
        return Ok(groups
            .find(|entry| number.map_or(entry.name == name.as_bytes(), |gid| entry.gid == gid)));
    }
    let found = number.map_or_else(
        || Group::from_name(name),
        |gid| Group::from_gid(Gid::from_raw(gid)),
    );
    found
        .map(|group| group.map(|group| group.gid.as_raw()))
        .map_err(said)
}

/// All groups of a user, `first` among them, as initgroups(3) would set them.
pub(super) fn groups_of(name: &str, first: u32) -> Vec<u32> {
    if FILES_ALONE {
        return Groups::read().map_or_else(|_| vec![first], |groups| groups.of(name, first));
    }
    let groups = CString::new(name)
        .ok()
        .and_then(|name| getgrouplist(&name, Gid::from_raw(first)).ok());
    groups.map_or_else(
        || vec![first],
        |groups| groups.into_iter().map(Gid::as_raw).collect(),
    )
}

fn said(errno: Errno) -> String {
    errno.desc().to_owned()
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(Path::new(path)).map_err(|error: io::Error| format!("{path}: {error}"))
}

/// The fields of each line. Lines that are not entries (comments, NIS) have too few fields or no number.
fn entries(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b':').collect())
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The text of /etc/passwd (passwd(5)).
struct Passwd(Vec<u8>);

impl Passwd {
    fn read() -> Result<Self, String> {
        read(PASSWD).map(Self)
    }

    fn find(&self, is: impl Fn(&UserEntry) -> bool) -> Option<UserEntry> {
        entries(&self.0)
            .filter_map(|fields| user_entry(&fields))
            .find(is)
    }
}

fn user_entry(fields: &[&[u8]]) -> Option<UserEntry> {
    let [name, _, uid, gid, _, home, shell] = fields else {
        return None;
    };
    let path = |field: &[u8]| PathBuf::from(OsStr::from_bytes(field));
    // passwd(5): an empty field is /bin/sh.
    let shell = if shell.is_empty() { b"/bin/sh" } else { *shell };
    Some(UserEntry {
        name: std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty())?
            .to_owned(),
        uid: number(uid)?,
        gid: number(gid)?,
        home: path(home),
        shell: path(shell),
    })
}

/// The text of /etc/group (group(5)).
struct Groups(Vec<u8>);

struct Entry<'t> {
    name: &'t [u8],
    gid: u32,
    members: &'t [u8],
}

impl Groups {
    fn read() -> Result<Self, String> {
        read(GROUP).map(Self)
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        entries(&self.0).filter_map(|fields| {
            let [name, _, gid, members] = fields[..] else {
                return None;
            };
            Some(Entry {
                name,
                gid: number(gid)?,
                members,
            })
        })
    }

    fn find(&self, is: impl Fn(&Entry<'_>) -> bool) -> Option<u32> {
        self.entries().find(is).map(|entry| entry.gid)
    }

    fn of(&self, user: &str, first: u32) -> Vec<u32> {
        let mut groups = vec![first];
        for entry in self.entries() {
            let member = entry
                .members
                .split(|byte| *byte == b',')
                .any(|name| name == user.as_bytes());
            if member && !groups.contains(&entry.gid) {
                groups.push(entry.gid);
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\n# a comment\n+nis::::::\nshort:x:1\n\
                         www-data:x:33:33:a, b:/var/www:/usr/sbin/nologin\nbare:x:7:8:::\n:x:9:9:::\nbad:x:-1:x:::";
    const GROUPS: &str = "root:x:0:\nwww-data:x:33:\nlog:x:44:bare,www-data\nmore:x:45:www-data-2,\nagain:x:44:www-data\n\
                          +:::\n";

    #[test]
    fn people_are_read_from_the_file() {
        let users = Passwd(USERS.into());
        let www = users
            .find(|user_entry| user_entry.name == "www-data")
            .expect("www-data");
        let (home, shell) = ("/var/www".into(), "/usr/sbin/nologin".into());
        assert_eq!(
            www,
            UserEntry {
                name: "www-data".to_owned(),
                uid: 33,
                gid: 33,
                home,
                shell
            }
        );
        assert_eq!(
            users
                .find(|user_entry| user_entry.uid == 7)
                .map(|bare| bare.shell),
            Some("/bin/sh".into())
        );
        for none in ["+nis", "short", "bad", "", "www"] {
            assert_eq!(
                users.find(|user_entry| user_entry.name == none),
                None,
                "{none}"
            );
        }
    }

    #[test]
    fn groups_are_read_from_the_file() {
        let groups = Groups(GROUPS.into());
        assert_eq!(groups.find(|entry| entry.name == b"log"), Some(44));
        assert_eq!(groups.find(|entry| entry.gid == 33), Some(33));
        assert_eq!(groups.find(|entry| entry.name == b"+"), None);
        assert_eq!(groups.of("www-data", 33), [33, 44]);
        assert_eq!(groups.of("www-data", 44), [44]);
        assert_eq!(groups.of("nobody", 65534), [65534]);
    }

    /// The files and the C library know the same of those that stand in the files.
    #[test]
    fn the_files_say_what_the_c_library_says() {
        let Ok(users) = Passwd::read() else { return };
        let root = users.find(|user_entry| user_entry.uid == 0).expect("root");
        assert_eq!(
            User::from_uid(Uid::from_raw(0))
                .ok()
                .flatten()
                .map(UserEntry::from),
            Some(root.clone())
        );
        let groups = Groups::read().expect("the groups").of(&root.name, root.gid);
        assert!(
            groups_of(&root.name, root.gid).starts_with(&groups),
            "{groups:?}"
        );
    }
}
