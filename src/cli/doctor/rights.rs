//! What this user may do: capabilities(7), Yama, seccomp, and the default directories.

use super::Finding;
use crate::config::default_dirs;
use crate::process::procfs;
use nix::unistd::{AccessFlags, Uid, access};
use std::path::Path;

/// Numbers of capabilities (include/uapi/linux/capability.h).
const CHOWN: u32 = 0;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_BIND_SERVICE: u32 = 10;
const SYS_PTRACE: u32 = 19;
const SYS_RESOURCE: u32 = 24;

pub(super) fn examine() -> Vec<Finding> {
    let status = procfs::read("/proc/self/status").unwrap_or_default();
    let rights = Rights::of(&status);
    let mut found = vec![
        user(&rights),
        ports(&rights),
        limits(&rights),
        tracing(&rights),
    ];
    found.extend(confinement(&status));
    let (runtime, log) = default_dirs();
    found.push(directory(
        "runtime directory",
        &runtime,
        "set `[master] runtime_dir` to a directory that this user may write",
    ));
    found.push(directory(
        "log directory",
        &log,
        "set `[master] log_file` to a file that this user may write, or use `rotad run`, which logs to stderr",
    ));
    found
}

/// The effective capabilities.
struct Rights(u64);

impl Rights {
    fn of(status: &str) -> Self {
        let effective = field(status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        Self(effective.unwrap_or(0))
    }

    fn may(&self, capability: u32) -> bool {
        self.0 >> capability & 1 == 1
    }
}

/// The value of a line of /proc/PID/status (proc_pid_status(5)).
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn user(rights: &Rights) -> Finding {
    let name = "`user` of a pool";
    let uid = Uid::effective();
    let lacks: Vec<&str> = [
        (SETUID, "CAP_SETUID"),
        (SETGID, "CAP_SETGID"),
        (CHOWN, "CAP_CHOWN"),
    ]
    .into_iter()
    .filter(|(number, _)| !rights.may(*number))
    .map(|(_, name)| name)
    .collect();
    match (uid.is_root(), lacks.is_empty()) {
        (_, true) => Finding::works(name, "workers can run as any user"),
        (false, false) => Finding::works(
            name,
            format!("workers run as this user (uid {uid}); another one needs root"),
        ),
        (true, false) => Finding::less(
            name,
            format!("root without {}", lacks.join(", ")),
            "workers run as root; a pool with `user` cannot start (CapabilityBoundingSet=, --cap-add)",
        ),
    }
}

fn ports(rights: &Rights) -> Finding {
    let name = "ports";
    let first = procfs::read("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok())
        .unwrap_or(1024);
    if rights.may(NET_BIND_SERVICE) || first <= 1 {
        return Finding::works(name, "any port can be opened");
    }
    Finding::less(
        name,
        format!("ports from {first} on can be opened"),
        format!(
            "below {first}: start rotad as root with `user` in the pools, give it CAP_NET_BIND_SERVICE \
             (AmbientCapabilities=), or let systemd open the socket"
        ),
    )
}

fn limits(rights: &Rights) -> Finding {
    let name = "`limits` and `nice`";
    match rights.may(SYS_RESOURCE) {
        true => Finding::works(name, "can be raised"),
        false => Finding::less(
            name,
            "can be lowered only",
            "a pool's `limits` above this user's hard limits cannot be set (CAP_SYS_RESOURCE)",
        ),
    }
}

/// What rotad may see of its workers from outside.
fn tracing(rights: &Rights) -> Finding {
    let name = "tracing of workers";
    let yama = procfs::read("/proc/sys/kernel/yama/ptrace_scope")
        .ok()
        .and_then(|text| text.trim().parse::<u8>().ok())
        .unwrap_or(0);
    match (rights.may(SYS_PTRACE), yama) {
        (true, 0..=2) => Finding::works(name, "works, for workers of any user"),
        (false, 0) => Finding::works(name, "works, for workers of this user"),
        (false, 1) => Finding::less(
            name,
            "kernel.yama.ptrace_scope is 1",
            "whether a worker accepts is seen; but if both processes of rotad are killed at once, the next start cannot take \
             the listening sockets back from the workers: it says so, and `--take-over` stops them first",
        ),
        (_, scope) => Finding::less(
            name,
            format!("kernel.yama.ptrace_scope is {scope}"),
            "whether a worker accepts is seen only where it uses epoll, else READY=1 is waited for, or one second of life; \
             listening sockets cannot be taken back from workers after both processes of rotad were killed at once",
        ),
    }
}

/// Sandboxes that the processes below inherit.
fn confinement(status: &str) -> Option<Finding> {
    let is = |name: &str, value: &str| field(status, name) == Some(value);
    let found = match (is("NoNewPrivs:", "1"), is("Seccomp:", "2")) {
        (false, false) => return None,
        (true, false) => "no_new_privs",
        (false, true) => "a seccomp filter",
        (true, true) => "no_new_privs and a seccomp filter",
    };
    Some(Finding::less(
        "confinement",
        format!("{found} holds for this process"),
        "workers inherit it: sudo, ping and sendmail may fail in them, and system calls that the filter rejects",
    ))
}

/// Whether a file can be made in `wanted`, or the directory itself where it is missing.
fn directory(name: &'static str, wanted: &Path, instead: &str) -> Finding {
    let shown = wanted.display();
    let existing = wanted.ancestors().find(|path| path.exists());
    let writable = |path: &&Path| {
        path.is_dir() && access(*path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    };
    match existing.filter(writable) {
        Some(dir) if dir == wanted => Finding::works(name, format!("{shown}")),
        Some(_) => Finding::works(name, format!("{shown}, which is made at the first start")),
        None => Finding::less(
            name,
            format!("{shown} cannot be written by this user"),
            instead,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_hexadecimal_field() {
        let rights = Rights::of("Name:\tx\nCapEff:\t00000000000000c1\nSeccomp:\t0\n");
        assert!(rights.may(CHOWN) && rights.may(SETUID) && rights.may(SETGID));
        assert!(!rights.may(SYS_PTRACE));
        assert!(!Rights::of("").may(CHOWN));
    }

    #[test]
    fn a_sandbox_is_named() {
        assert!(confinement("NoNewPrivs:\t0\nSeccomp:\t0\n").is_none());
        let found = confinement("NoNewPrivs:\t1\nSeccomp:\t2\n").unwrap().found;
        assert!(
            found.starts_with("no_new_privs and a seccomp filter"),
            "{found}"
        );
    }

    #[test]
    fn a_directory_that_can_be_made_is_told_from_one_that_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let found = directory("x", &dir.path().join("a/b"), "no");
        assert_eq!(found.verdict, super::super::Verdict::Works);
        let found = directory("x", Path::new("/dev/null/a"), "use another");
        assert_eq!(found.verdict, super::super::Verdict::Less);
        assert_eq!(found.means, "use another");
    }
}
