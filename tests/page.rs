//! The page of `rotad serve`, in a real browser: tests/browser/page.mjs drives it.

mod support;

use std::path::Path;
use std::process::Command;
use support::example::{node_modules, node_package};
use support::site::finish;
use support::{Site, alone, free_port, need, rotad};

/// The page is one file without dependencies, and stays small.
const MAX_PAGE: usize = 60 << 10;

/// A name for each thing that the page has to show: workers that serve, that print, and that can be made to fail.
const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code", "--drain-ms", "600", "--start-ms", "100"]
count = 4
listen = "127.0.0.1:@PORT@"
reload = { soak = "600ms" }

[pool.loud]
kind = "task"
command = ["sh", "-c", "while :; do echo '<img src=x onerror=\"window.owned = 1\">'; sleep 0.2; done"]
ready = "spawned"
stop = [{ signal = "TERM", wait = "1s" }]

[pool.flaky]
kind = "task"
command = ["@WORKER@", "http", "--code", "@DIR@/flaky"]
count = 2
listen = "unix:@DIR@/flaky.sock"
restart = { delay = "100ms", max_delay = "400ms", stable_after = "300ms" }
"#;

#[test]
fn the_page_in_a_browser() {
    let is_there = need(
        "/usr/bin/chromium (chromium)",
        Path::new("/usr/bin/chromium").exists(),
    );
    if !is_there || !node_package("playwright-core") || !node_package("axe-core") {
        return;
    }
    // Chromium takes both processors while it starts.
    let _alone = alone();
    let mut site = Site::new(POOLS);
    site.write("code", "ok\n1");
    site.write("flaky", "ok\n1");
    site.run();
    site.await_ready();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("node");
    command
        .arg(root.join("tests/browser/page.mjs"))
        .current_dir(site.path(""))
        .env("ROTAD", rotad())
        .env("CONSOLE", support::console())
        .env("CONFIG", &site.config)
        .env("PORT", free_port().to_string())
        .env("MODULES", node_modules())
        .env("HOME", site.path(""));
    let run = finish(command, 90);
    assert_eq!(run.code, 0, "{}", run.text());
}

/// What comes from workers is put in as text, and nothing comes from elsewhere.
#[test]
fn the_page_is_one_small_file_that_writes_no_html() {
    let page = include_str!("../src/console/page/index.html");
    assert!(
        page.len() <= MAX_PAGE,
        "the page has {} bytes, and may have {MAX_PAGE}",
        page.len()
    );
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "https://",
        "@import",
        "style=",
    ] {
        assert!(!page.contains(word), "{word} in the page");
    }
}
