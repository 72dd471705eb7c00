//! A Rust program that takes its listener by the crate listenfd: rolled under load.

mod support;

use std::fs;
use std::path::Path;
use support::{Site, alone, rotad};

#[test]
fn listenfd() {
    let built = rotad().with_file_name("examples").join("server");
    assert!(
        built.exists(),
        "{} is missing: `cargo build --example server`",
        built.display()
    );
    let _alone = alone();
    let mut site = Site::example("rust");
    fs::create_dir_all(site.path("target/release")).expect("a directory");
    fs::copy(built, site.path("target/release/server")).expect("the program in its place");
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(15);
}

/// What a user builds by config/rust/Cargo.toml is what the test built.
#[test]
fn its_manifest_asks_for_what_was_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let versions = |path: &str| {
        let text = fs::read_to_string(root.join(path)).expect("a manifest");
        let version = |line: &str| {
            let (name, value) = line.split_once(" = ")?;
            let version = value.split('"').nth(1)?;
            Some((name.to_owned(), version.to_owned()))
        };
        let dependencies = text
            .split("ependencies]\n")
            .skip(1)
            .flat_map(|part| part.lines().take_while(|line| !line.starts_with('[')));
        dependencies.filter_map(version).collect::<Vec<_>>()
    };
    let (theirs, ours) = (versions("config/rust/Cargo.toml"), versions("Cargo.toml"));
    assert_eq!(theirs.len(), 3, "{theirs:?}");
    assert!(
        theirs.iter().all(|one| ours.contains(one)),
        "{theirs:?} is not all of {ours:?}"
    );
}
