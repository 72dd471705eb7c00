//! When the script is written.

use super::*;
use crate::plan::Plan;

/// The recipe of a pool with this command.
fn recipe(directory: &Path, command: &str) -> Recipe {
    let file = directory.join("rotad.toml");
    fs::write(&file, format!("[pool.web]\ncommand = {command}\n")).unwrap();
    let loaded = crate::config::load(&file).unwrap();
    let plan: Plan = loaded.plan;
    plan.pools[0].recipe.clone()
}

#[test]
fn the_script_is_written_when_it_is_needed_and_again_when_it_was_removed() {
    let directory = tempfile::tempdir().unwrap();
    let mut preload = NodePreload::new(directory.path(), Path::new("/opt/it's \"here\"/rotad"));
    let plain = recipe(directory.path(), "[\"node\", \"a.js\"]");
    preload.provide(&plain).unwrap();
    assert!(!preload.path().exists());
    let needs = recipe(
        directory.path(),
        "[\"node\", \"--require\", \"{preload:node}\", \"a.js\"]",
    );
    // What a master of another version has left is replaced.
    fs::write(preload.path(), "old").unwrap();
    for _ in 0..2 {
        preload.provide(&needs).unwrap();
        let text = fs::read_to_string(preload.path()).unwrap();
        assert!(
            text.contains("const ROTAD = \"/opt/it's \\\"here\\\"/rotad\";"),
            "{text}"
        );
        let mode = preload.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        fs::remove_file(preload.path()).unwrap();
    }
}
