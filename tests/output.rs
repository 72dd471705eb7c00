//! Promise 8: no byte that a worker printed is lost, not even at its death.

mod support;

use support::{Site, until};

/// 3000 numbered lines and an immediate end: all are in the log, once each, in order.
#[test]
fn the_last_lines_are_all_logged() {
    let mut site = Site::new(
        r#"
[pool.talk]
command = ["@WORKER@", "lines", "--lines", "3000"]
ready = "spawned"
restart = { policy = "never" }
"#,
    );
    site.run();
    site.await_log("line 2999", 20);
    let log = site.log();
    let number = |line: &str| {
        let digits: String = line
            .split_once("line ")?
            .1
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<u32>().ok()
    };
    let numbers: Vec<u32> = log
        .lines()
        .filter(|line| line.contains("talk"))
        .filter_map(number)
        .collect();
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
}

/// A line without an end at a worker's death, and bytes that are no text: told, and the master's log stays whole.
#[test]
fn odd_output_is_sanitized() {
    let script = r"printf 'half a line'; printf 'bad \377\376 \033[31m bytes\n' >&2";
    let mut site = Site::new(&format!(
        "[pool.odd]\ncommand = [\"sh\", \"-c\", '''{script}''']\nready = \"spawned\"\nrestart = {{ policy = \"never\" }}\n"
    ));
    site.run();
    site.await_log("half a line", 10);
    site.await_log("bytes", 10);
    let log = std::fs::read(site.path("master.log")).expect("a log");
    assert!(!log.contains(&0x1b), "an escape sequence reached the log");
    assert!(std::str::from_utf8(&log).is_ok(), "the log is no text");
}

/// Everything that the master logs is one JSON object a line.
#[test]
fn the_log_is_json() {
    let site = Site::up("[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    assert_eq!(site.rotad(&["roll"]).code, 0);
    let log = until("some log", 5, || {
        Some(site.read("master.log")).filter(|log| log.lines().count() > 3)
    });
    // The last line may be half written.
    let whole = &log[..log.rfind('\n').expect("a line") + 1];
    for line in whole.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{line}");
    }
}
