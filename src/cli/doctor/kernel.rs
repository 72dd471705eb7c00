//! What the kernel offers. A system call may also be rejected by a seccomp filter, so each one is tried rather than
//! derived from the version.

use super::Finding;
use crate::process::cgroup;
use crate::process::procfs;
use crate::sys::descriptors;
use crate::sys::process::Process;
use crate::sys::shared_memory::SharedMemory;
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::utsname::uname;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The oldest kernel that rotad is made for.
const OLDEST: (u32, u32) = (5, 4);

pub(super) fn examine() -> Vec<Finding> {
    vec![
        version(),
        proc(),
        pidfd_open(),
        pidfd_getfd(),
        memfd(),
        close_range(),
        cgroup_kill(),
        inotify(),
    ]
}

fn version() -> Finding {
    let name = "Linux";
    let Ok(system) = uname() else {
        return Finding::less(name, "unknown", "uname(2) fails; 5.4 or newer is needed");
    };
    let release = system.release().to_string_lossy().into_owned();
    let machine = system.machine().to_string_lossy().into_owned();
    match numbers(&release) {
        Some(version) if version < OLDEST => Finding::missing(
            name,
            format!("{release} {machine}"),
            "5.4 or newer is needed",
        ),
        _ => Finding::works(name, format!("{release} {machine}")),
    }
}

/// Major and minor number of "6.1.0-13-amd64".
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn proc() -> Finding {
    let name = "/proc";
    if procfs::Stat::of(std::process::id() as i32).is_err() {
        let means = "rotad finds the processes of a worker there: mount it";
        return Finding::missing(name, "not mounted", means);
    }
    if procfs::Stat::of(1).is_err() {
        let means = "processes of other users are hidden (hidepid): rotad sees its own workers if they run as the same user, \
                     and cannot name other processes, for example the one that holds an address";
        return Finding::less(name, "mounted with hidepid", means);
    }
    Finding::works(name, "mounted")
}

fn pidfd_open() -> Finding {
    let name = "pidfd_open(2)";
    match Process::open_pid(std::process::id() as i32) {
        Ok(_) => Finding::works(name, "works"),
        Err(error) => Finding::less(
            name,
            error.to_string(),
            "exits are noticed by SIGCHLD, rotad signals only its own children, and there is no guardian: workers do not \
             outlive a killed master (Linux 5.3, or a newer container engine)",
        ),
    }
}

fn pidfd_getfd() -> Finding {
    let name = "pidfd_getfd(2)";
    let tried = File::open("/dev/null")
        .and_then(|file| Process::open_pid(std::process::id() as i32)?.dup_fd(file.as_raw_fd()));
    match tried {
        Ok(_) => Finding::works(name, "works"),
        Err(error) => Finding::less(
            name,
            error.to_string(),
            "if both processes of rotad are killed at once, the next start cannot take the listening sockets back from the \
             workers: it says so, and `--take-over` stops them first (Linux 5.6)",
        ),
    }
}

fn memfd() -> Finding {
    let name = "memfd_create(2)";
    match SharedMemory::new("rotad-doctor", 4096) {
        Ok(_) => Finding::works(name, "works"),
        Err(error) => Finding::less(
            name,
            error.to_string(),
            "there is no guardian: a master that is killed is not restarted by rotad itself",
        ),
    }
}

fn close_range() -> Finding {
    let name = "close_range(2)";
    if descriptors::can_keep_over_exec() {
        return Finding::works(name, "works");
    }
    let means = "a guardian that dies is not replaced (the master goes on alone), and `rotad upgrade` is refused (Linux 5.9)";
    Finding::less(name, "missing or filtered", means)
}

fn cgroup_kill() -> Finding {
    let name = "cgroup.kill";
    // The root of the hierarchy does not have the file.
    let here = cgroup::of(std::process::id() as i32).is_some_and(|dir| dir.join(name).exists());
    let known = uname().is_ok_and(|system| {
        numbers(&system.release().to_string_lossy()).is_some_and(|version| version >= (5, 14))
    });
    match here || known {
        true => Finding::works(name, "works"),
        false => Finding::less(
            name,
            "missing",
            "the processes of a worker's cgroup are killed one by one (Linux 5.14)",
        ),
    }
}

fn inotify() -> Finding {
    let name = "inotify(7)";
    let limit = |file: &str| {
        let path = Path::new("/proc/sys/fs/inotify").join(file);
        procfs::read(path).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
    };
    match Inotify::init(InitFlags::IN_CLOEXEC) {
        Ok(_) => {
            let watches = limit("max_user_watches");
            Finding::works(name, format!("works; {watches} directories can be watched"))
        }
        Err(error) => Finding::less(
            name,
            error.to_string(),
            format!(
                "watched files are compared every 5 s instead (fs.inotify.max_user_instances is {})",
                limit("max_user_instances")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_every_form_of_release() {
        assert_eq!(numbers("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(numbers("5.4"), Some((5, 4)));
        assert_eq!(numbers("5.15.0_custom"), Some((5, 15)));
        assert_eq!(numbers("custom"), None);
        assert!(numbers("5.3.18").unwrap() < OLDEST && numbers("10.0").unwrap() > OLDEST);
    }
}
