//! The environment of a worker: what it inherits, and what the spawner adds.

use super::pinned::DEFAULT_PATH;
use crate::plan::Account;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// Variables that the master's own service manager addressed to the master alone.
const MASTERS_OWN: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];
/// Variables that survive `clear_env`.
const PLAIN: [&str; 3] = ["PATH", "LANG", "TZ"];
/// Set by the spawner alone.
const LISTEN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// Set by the spawner if there is a watchdog.
const WATCHDOG: [&str; 2] = ["WATCHDOG_USEC", "WATCHDOG_PID"];

/// The variables that a worker inherits: all but those addressed to the master; with `clear` only PATH, LANG, TZ and
/// those that `pass` names (a `*` at the end matches any rest). With an account, its HOME, USER, LOGNAME and SHELL
/// replace the inherited ones.
pub fn base(clear: bool, pass: &[String], account: Option<&Account>) -> Vec<(OsString, OsString)> {
    select(std::env::vars_os(), clear, pass, account)
}

/// The names of the variables that a worker with a cleared environment does not inherit; those of the master alone are not
/// among them.
pub fn cleared(pass: &[String]) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names
        .filter(|name| {
            let name = OsStr::new(name);
            inherits(name, false, pass) && !inherits(name, true, pass)
        })
        .collect()
}

fn select(
    own: impl Iterator<Item = (OsString, OsString)>,
    clear: bool,
    pass: &[String],
    account: Option<&Account>,
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<_> = own
        .filter(|(name, _)| inherits(name, clear, pass))
        .collect();
    if clear && !env.iter().any(|(name, _)| name == "PATH") {
        env.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    if let Some(account) = account.filter(|account| !account.group_alone) {
        let facts: [(&str, &OsStr); 4] = [
            ("HOME", account.home.as_os_str()),
            ("USER", OsStr::new(&account.name)),
            ("LOGNAME", OsStr::new(&account.name)),
            ("SHELL", account.shell.as_os_str()),
        ];
        env.retain(|(name, _)| !facts.iter().any(|(fact, _)| name == fact));
        env.extend(facts.map(|(name, value)| (name.into(), value.to_owned())));
    }
    env
}

fn inherits(name: &OsStr, clear: bool, pass: &[String]) -> bool {
    let bytes = name.as_bytes();
    if MASTERS_OWN.iter().any(|own| name == *own) || bytes.starts_with(b"ROTAD_") {
        return false;
    }
    !clear
        || PLAIN.iter().any(|plain| name == *plain)
        || pass.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => bytes.starts_with(prefix.as_bytes()),
            None => name == pattern.as_str(),
        })
}

/// `NAME=value` for execve(2), with LISTEN_FDS and LISTEN_FDNAMES if there are listeners, and WATCHDOG_USEC with a
/// watchdog (sd_watchdog_enabled(3)). The child adds LISTEN_PID and WATCHDOG_PID, since it knows the pid.
///
/// # Errors
/// A variable contains a NUL byte.
pub(super) fn finish(
    env: &[(OsString, OsString)],
    listeners: usize,
    names: &str,
    watchdog: Option<Duration>,
) -> Result<Vec<CString>, NulError> {
    let mut lines = Vec::with_capacity(env.len() + LISTEN.len() + WATCHDOG.len());
    let own = |name: &OsStr| {
        LISTEN.iter().any(|own| name == *own)
            || (watchdog.is_some() && WATCHDOG.iter().any(|own| name == *own))
    };
    for (name, value) in env.iter().filter(|(name, _)| !own(name)) {
        let mut line = name.clone().into_vec();
        line.push(b'=');
        line.extend_from_slice(value.as_bytes());
        lines.push(CString::new(line)?);
    }
    if listeners > 0 {
        lines.push(CString::new(format!("LISTEN_FDS={listeners}"))?);
        lines.push(CString::new(format!("LISTEN_FDNAMES={names}"))?);
    }
    if let Some(interval) = watchdog {
        lines.push(CString::new(format!(
            "WATCHDOG_USEC={}",
            interval.as_micros()
        ))?);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> impl Iterator<Item = (OsString, OsString)> {
        [
            "PATH=/bin",
            "HOME=/root",
            "LISTEN_FDS=1",
            "NOTIFY_SOCKET=/x",
            "ROTAD_SLOT=1",
            "APP_A=1",
            "APP=2",
            "TZ=UTC",
        ]
        .into_iter()
        .map(|line| {
            line.split_once('=')
                .map(|(name, value)| (name.into(), value.into()))
                .unwrap_or_default()
        })
    }

    fn names(env: &[(OsString, OsString)]) -> Vec<&str> {
        env.iter().filter_map(|(name, _)| name.to_str()).collect()
    }

    #[test]
    fn variables_for_the_master_are_not_inherited() {
        assert_eq!(
            names(&select(own(), false, &[], None)),
            ["PATH", "HOME", "APP_A", "APP", "TZ"]
        );
    }

    #[test]
    fn a_cleared_environment_keeps_what_is_passed() {
        assert_eq!(
            names(&select(own(), true, &["APP_*".into()], None)),
            ["PATH", "APP_A", "TZ"]
        );
        assert_eq!(
            names(&select(own(), true, &["APP".into()], None)),
            ["PATH", "APP", "TZ"]
        );
        assert_eq!(
            names(&select(
                own(),
                true,
                &["NOTIFY_SOCKET".into(), "*".into()],
                None
            ))
            .len(),
            5
        );
        let none = select(std::iter::empty(), true, &[], None);
        assert_eq!(
            none,
            [(OsString::from("PATH"), OsString::from(DEFAULT_PATH))]
        );
    }

    #[test]
    fn an_account_sets_home_user_logname_and_shell() {
        let account = Account {
            name: "www".into(),
            uid: 33,
            gid: 33,
            groups: vec![],
            home: "/var/www".into(),
            shell: "/bin/sh".into(),
            group_alone: false,
        };
        let env = select(own(), false, &[], Some(&account));
        let homes: Vec<_> = env.iter().filter(|(name, _)| name == "HOME").collect();
        assert_eq!(
            homes,
            [&(OsString::from("HOME"), OsString::from("/var/www"))]
        );
        assert_eq!(&names(&env)[4..], ["HOME", "USER", "LOGNAME", "SHELL"]);
    }

    #[test]
    fn listen_variables_are_set_only_with_listeners() {
        let env = [("LISTEN_FDS".into(), "7".into()), ("A".into(), "b".into())];
        assert_eq!(finish(&env, 0, "", None), Ok(vec![c"A=b".into()]));
        assert_eq!(
            finish(&env, 2, "a:b", None),
            Ok(vec![
                c"A=b".into(),
                c"LISTEN_FDS=2".into(),
                c"LISTEN_FDNAMES=a:b".into()
            ])
        );
        assert!(finish(&[("A".into(), "\0".into())], 0, "", None).is_err());
        let env = [
            ("WATCHDOG_PID".into(), "7".into()),
            ("A".into(), "b".into()),
        ];
        let lines = finish(&env, 0, "", Some(Duration::from_millis(1500)));
        assert_eq!(
            lines,
            Ok(vec![c"A=b".into(), c"WATCHDOG_USEC=1500000".into()])
        );
    }
}
