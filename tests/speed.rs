//! The figures of docs/specification.md, in the short form of bench/run: the binary under test (or ROTAD_SPEED_BINARY)
//! beside the floor, under a scheduling class in which other programs do not disturb it; busy neighbours and heavy boots
//! under the default one. It takes about 90 seconds: a figure is the best of two rounds, and 1000 workers are started ten
//! times. A binary that was built without optimisation
//! does not pass.

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::site::{Run, finish};
use support::{alone, need};

const PAGE: &str = "docs/specification.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The results that all tests judge, and their tables. None: the machine lacks something, and that was allowed.
fn results() -> Option<&'static (Value, String)> {
    static RESULTS: OnceLock<Option<(Value, String)>> = OnceLock::new();
    RESULTS
        .get_or_init(|| {
            if !need::program("cc") || !need::program("python3") || !may_have_priority() {
                return None;
            }
            let _alone = alone();
            let (mut results, table) = bench(&["--realtime"]);
            let (more, more_table) = bench(&["--figures", "busy,heavy"]);
            let rows = results["results"].as_array_mut().expect("results");
            rows.extend(more["results"].as_array().expect("results").clone());
            Some((results, table + &more_table))
        })
        .as_ref()
}

/// The results of a short run, and their table.
fn bench(options: &[&str]) -> (Value, String) {
    let dir = directory();
    let file = dir.path().join("results.json");
    let mut bench = Command::new(root().join("bench/run"));
    bench.arg("--short").args(options).arg("--rotad");
    let given = std::env::var_os("ROTAD_SPEED_BINARY").map(PathBuf::from);
    bench.arg(given.unwrap_or_else(support::rotad));
    bench.arg("--json").arg(&file);
    let run = finish(bench, 240);
    assert_eq!(run.code, 0, "{}", run.text());
    let text = std::fs::read_to_string(file).expect("results");
    (serde_json::from_str(&text).expect("JSON"), run.out)
}

/// The scheduling class of the run needs CAP_SYS_NICE (sched(7)).
fn may_have_priority() -> bool {
    let works = || {
        Command::new("chrt")
            .args(["-r", "1", "true"])
            .status()
            .is_ok_and(|status| status.success())
    };
    need::program("chrt") && need("permission for SCHED_RR", works())
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("rt.")
        .tempdir()
        .expect("a directory")
}

/// What bench/limits says of results.
fn judge(results: &Value) -> Run {
    let dir = directory();
    let file: PathBuf = dir.path().join("results.json");
    std::fs::write(&file, results.to_string()).expect("a file");
    let mut limits = Command::new(root().join("bench/limits"));
    limits.arg(file).arg(root().join(PAGE));
    finish(limits, 20)
}

/// The figures that docs/specification.md limits.
fn figures() -> Vec<String> {
    let page = std::fs::read_to_string(root().join(PAGE)).expect(PAGE);
    let rows = page
        .lines()
        .filter(|line| line.contains("speed::no_figure"));
    rows.filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect()
}

#[test]
fn no_figure_is_lost() {
    let Some((results, table)) = results() else {
        return;
    };
    let run = judge(results);
    assert!(run.code == 0, "{}\n{table}", run.text());
}

/// Each row of the page is a limit: a value a hundred times worse is named, and so is one that was not measured.
#[test]
fn a_lost_figure_is_named() {
    let Some((results, _)) = results() else {
        return;
    };
    let figures = figures();
    assert!(figures.len() >= 21, "{figures:?}");
    for figure in figures {
        let more_is_better =
            ["log.lines", "log.blocks"].contains(&&*figure) || figure.starts_with("fewest");
        let mut worse = results.clone();
        let mut without = results.clone();
        let rows = worse["results"].as_array_mut().expect("results");
        let of_rotad = |row: &Value| row["figure"] == *figure && row["master"] == "rotad";
        for row in rows.iter_mut().filter(|row| of_rotad(row)) {
            let value = row["value"].as_f64().expect("a number");
            let factor = if more_is_better { 0.01 } else { 100.0 };
            row["value"] = (value * factor).into();
        }
        let rows = without["results"].as_array_mut().expect("results");
        rows.retain(|row| !of_rotad(row));
        for (changed, why) in [(worse, "and the limit is"), (without, "not measured")] {
            let run = judge(&changed);
            let named = format!("{figure}: ");
            assert!(
                run.code == 1
                    && run
                        .out
                        .lines()
                        .any(|line| line.starts_with(&named) && line.contains(why)),
                "{figure}, {why}: {}",
                run.text()
            );
        }
    }
}
