//! What a machine may lack. A test that cannot prove its promise is red, not green: with `ROTAD_ALLOW_MISSING=1`
//! (never in CI) it is passed over, with a line that says so.

use std::path::Path;
use std::process::Command;

/// True: go on. False: the component is missing and that was allowed.
pub fn need(what: &str, is_there: bool) -> bool {
    if is_there {
        return true;
    }
    let allowed =
        std::env::var_os("ROTAD_ALLOW_MISSING").is_some() && std::env::var_os("CI").is_none();
    assert!(
        allowed,
        "{what} is missing: tests/all.sh installs it, ROTAD_ALLOW_MISSING=1 passes over this test"
    );
    eprintln!("NOT PROVEN: {what} is missing");
    false
}

/// A program of $PATH.
pub fn program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    need(
        name,
        path.split(':')
            .any(|dir| Path::new(dir).join(name).exists()),
    )
}

/// The tests run as root.
pub fn root() -> bool {
    need("root", nix::unistd::geteuid().is_root())
}

/// strace may trace here.
pub fn strace() -> bool {
    let works = || {
        Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "true"])
            .status()
            .is_ok_and(|status| status.success())
    };
    program("strace") && need("permission to trace", works())
}
