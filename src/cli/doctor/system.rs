//! cgroups, systemd and containers.

use super::Finding;
use crate::process::cgroup;
use crate::process::cgroup::NotDelegated;
use crate::process::procfs;
use std::path::Path;
use std::process::{Command, Stdio};

/// From here on `Type=notify-reload` is known.
const NOTIFY_RELOAD: u32 = 253;

pub(super) fn examine() -> Vec<Finding> {
    let mut found = vec![cgroups(), systemd()];
    found.extend(container());
    found
}

fn cgroups() -> Finding {
    let name = "a cgroup a worker";
    let instead =
        "the processes of a worker are found by their process group, session and environment";
    match cgroup::delegated() {
        Ok(own) => Finding::works(name, format!("can be made in {}", own.display())),
        Err(NotDelegated::NoHierarchy) => {
            Finding::less(name, "no cgroup version 2 hierarchy here", instead)
        }
        Err(NotDelegated::NotOurs(own)) => Finding::less(
            name,
            format!("{} is not delegated to this process", own.display()),
            format!(
                "{instead}. The shipped unit has `Delegate=yes`: under systemd each worker gets a cgroup of its own"
            ),
        ),
    }
}

fn systemd() -> Finding {
    let name = "systemd";
    if !Path::new("/run/systemd/system").is_dir() {
        let means = "`rotad start` and `rotad run` need none; for the start at boot use what this system has, or a container";
        return Finding::less(name, "does not run this machine", means);
    }
    let Some(version) = version() else {
        return Finding::works(name, "runs this machine; its version is not known");
    };
    let reload = match version >= NOTIFY_RELOAD {
        true => "knows",
        false => "does not know",
    };
    Finding::works(
        name,
        format!("{version} runs this machine; it {reload} Type=notify-reload"),
    )
}

/// Of "systemd 252 (252.39-1~deb12u1)".
fn version() -> Option<u32> {
    let output = Command::new("systemctl")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    number(&text)
}

fn number(text: &str) -> Option<u32> {
    let word = text.split_whitespace().nth(1)?;
    let digits = word.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn container() -> Option<Finding> {
    // systemd's container interface (systemd.io/CONTAINER_INTERFACE) sets $container for PID 1; engines leave a file.
    let marked = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|file| Path::new(file).exists());
    let engine = procfs::environment_value(1, "container");
    if !marked && engine.is_none() {
        return None;
    }
    let found = match engine.filter(|engine| !engine.is_empty()) {
        Some(engine) => format!("yes ({engine})"),
        None => "yes".to_owned(),
    };
    let found = format!("{found}; `rotad run` can be its PID 1");
    Some(Finding::works("container", found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_every_distribution_are_read() {
        assert_eq!(number("systemd 252 (252.39-1~deb12u1)\n+PAM …"), Some(252));
        assert_eq!(number("systemd 257.3-1-arch"), Some(257));
        assert_eq!(number(""), None);
    }
}
