//! The program itself. What it shows is tested with a real master, in tests/ of the package rotad; since this crate has a test
//! of its own, `cargo test --workspace` builds the program for those.

use std::process::Command;

#[test]
fn it_has_two_verbs() {
    let run = |words: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_rotad-console"))
            .args(words)
            .output()
            .expect("rotad-console")
    };
    let other = run(&["status"]);
    assert_eq!(other.status.code(), Some(2));
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(said.contains("`rotad serve` and `rotad top`"), "{said}");
    for verb in ["serve", "top"] {
        let help = run(&[verb, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{verb}");
        assert!(!help.stdout.is_empty(), "{verb}");
    }
}
