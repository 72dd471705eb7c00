//! deny.toml, by cargo-deny: this workspace passes, and what it is to forbid is refused. Without the list of known
//! vulnerabilities, which only .github/workflows/ci.yml downloads.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::example::venv;
use support::need;
use support::site::{Run, finish};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The checks of this workspace. None: cargo-deny is missing, and that was allowed.
fn check(workspace: &Path, options: &[&str]) -> Option<Run> {
    let program = venv().join("bin/cargo-deny");
    if !need("cargo-deny (target/venv)", program.exists()) {
        return None;
    }
    // Those of other systems too, which no build has brought.
    let mut fetch = Command::new(env!("CARGO"));
    fetch.args(["fetch", "--locked"]).current_dir(ROOT);
    let fetched = finish(fetch, 120);
    assert_eq!(fetched.code, 0, "{}", fetched.text());
    let mut command = Command::new(program);
    command
        .args(["--color", "never", "--workspace"])
        .args(options)
        .args(["check", "bans", "licenses", "sources"])
        .env("CARGO", env!("CARGO"))
        .current_dir(workspace);
    Some(finish(command, 120))
}

/// What cargo reads of this workspace to find its dependencies, with this line among those of a crate.
fn workspace_with(manifest: &str, dependency: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = |name: &str, change: &dyn Fn(String) -> String| {
        let text = fs::read_to_string(Path::new(ROOT).join(name)).expect(name);
        let to = dir.path().join(name);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        fs::write(to, change(text)).expect(name);
    };
    for name in ["Cargo.lock", "deny.toml"] {
        copy(name, &|text| text);
    }
    for name in [
        "Cargo.toml",
        "bench/engine/Cargo.toml",
        "src/core/Cargo.toml",
        "src/console/Cargo.toml",
    ] {
        copy(name, &|text| match name == manifest {
            true => text.replacen(
                "\n[dependencies]\n",
                &format!("\n[dependencies]\n{dependency}\n"),
                1,
            ),
            false => text,
        });
    }
    // It refuses a package without them, and reads none.
    for name in [
        "bench/engine/engine.rs",
        "src/lib.rs",
        "src/core/lib.rs",
        "tests/process_tree.rs",
    ] {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        fs::write(file, "").expect(name);
    }
    dir
}

#[test]
fn the_workspace_passes() {
    let Some(run) = check(Path::new(ROOT), &["--locked"]) else {
        return;
    };
    assert_eq!(run.code, 0, "{}", run.text());
    // A rule that matches nothing protects from nothing: it is misspelt, or what it spoke of is gone.
    assert!(!run.text().contains("warning["), "{}", run.text());
}

#[test]
fn the_master_takes_nothing_of_the_console_and_the_benchmark() {
    for (manifest, name, dependency) in [
        (
            "Cargo.toml",
            "tokio",
            r#"tokio = { version = "1", default-features = false, features = ["rt"] }"#,
        ),
        (
            "src/core/Cargo.toml",
            "tokio",
            r#"tokio = { version = "1", default-features = false }"#,
        ),
        (
            "Cargo.toml",
            "hyper",
            r#"hyper = { version = "1", default-features = false }"#,
        ),
        (
            "Cargo.toml",
            "hyper-util",
            r#"hyper-util = { version = "0.1", default-features = false, features = ["tokio"] }"#,
        ),
        (
            "Cargo.toml",
            "ratatui-crossterm",
            r#"ratatui-crossterm = "0.1""#,
        ),
        (
            "Cargo.toml",
            "criterion",
            r#"criterion = { version = "0.8", default-features = false }"#,
        ),
    ] {
        let workspace = workspace_with(manifest, dependency);
        let Some(run) = check(workspace.path(), &["--offline"]) else {
            return;
        };
        let text = run.text();
        assert_ne!(run.code, 0, "{manifest} may have {name}: {text}");
        let refused = text
            .lines()
            .any(|line| line.starts_with(&format!("error[banned]: crate '{name} =")));
        assert!(refused, "{manifest}, {name}: {text}");
    }
}

#[test]
fn another_licence_is_refused() {
    let workspace = workspace_with("Cargo.toml", r#"copyleft = { path = "copyleft" }"#);
    let source = workspace.path().join("copyleft/src");
    fs::create_dir_all(&source).expect("a directory");
    fs::write(source.join("lib.rs"), "").expect("a file");
    let write = |license: &str| {
        let manifest = format!(
            "[package]\nname = \"copyleft\"\nversion = \"1.0.0\"\nedition = \"2024\"\nlicense = \"{license}\"\n"
        );
        fs::write(workspace.path().join("copyleft/Cargo.toml"), manifest).expect("a file");
        check(workspace.path(), &["--offline"])
    };
    let Some(free) = write("MIT") else { return };
    assert_eq!(free.code, 0, "{}", free.text());
    let refused = write("GPL-3.0-only").expect("it was there");
    let text = refused.text();
    assert!(
        refused.code != 0
            && text.contains("error[rejected]: failed to satisfy license requirements"),
        "{text}"
    );
}
