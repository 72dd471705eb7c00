//! The alerts and the dashboard: each alert is described and tested by Prometheus' own tool, and a real Prometheus that
//! scrapes a real master runs every query through a roll, a roll that fails, a crash loop and the way back.

mod support;

use rotad::observe::metrics::{FAMILIES, Type};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::site::finish;
use support::{Site, console, free_port, need, pool, until};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).expect(path)
}

const RULES: &str = "packaging/prometheus/rotad.rules.yml";
const DASHBOARD: &str = "packaging/grafana/rotad.json";

/// What follows `key: ` in each line that has it.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(key)).collect()
}

/// The names of metrics in an expression: those that begin with `rotad_`.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let words = text.split(|letter| !part(letter));
    words
        .filter(|word| word.starts_with("rotad_"))
        .map(str::to_owned)
        .collect()
}

fn known_metrics() -> BTreeSet<String> {
    let names = FAMILIES.iter().flat_map(|(family, _)| {
        let name = family.sample_name();
        match family.kind {
            Type::Histogram => vec![format!("{name}_bucket"), format!("{name}_count")],
            Type::Counter | Type::Gauge => vec![name],
        }
    });
    names.collect()
}

#[test]
fn each_alert_is_described_and_asks_for_what_is_there() {
    let rules = read(RULES);
    let alerts = values(&rules, "alert: ");
    let expected = [
        "RotadDown",
        "PoolBelowWanted",
        "CrashLoop",
        "RolledBack",
        "MixedGenerations",
        "JobsCutShort",
        "BacklogFilling",
        "LogLoss",
        "ConfigNotApplied",
    ];
    assert_eq!(alerts, expected);
    let page = read("docs/alerts.md");
    let sections: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(sections, expected);
    let runbooks = values(&rules, "runbook: ");
    let anchors = alerts.iter();
    let anchors = anchors.map(|alert| format!("docs/alerts.md#{}", alert.to_lowercase()));
    assert_eq!(runbooks, anchors.collect::<Vec<_>>());
    for section in page.split("\n## ").skip(1) {
        for part in ["**What happened.**", "**What serves.**", "**What to do.**"] {
            assert!(section.contains(part), "{part}: {section}");
        }
    }
    let unknown: Vec<String> = metrics_in(&rules)
        .difference(&known_metrics())
        .cloned()
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // An alert that nothing tests is as good as none.
    let tests = read("packaging/prometheus/rotad.rules.test.yml");
    for alert in alerts {
        let firing = format!("{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        assert!(tests.contains(&firing), "{alert}");
    }
}

#[test]
fn each_alert_fires_when_it_should_alone() {
    if !need::program("promtool") {
        return;
    }
    let rules = file(RULES);
    let tests = rules.with_file_name("rotad.rules.test.yml");
    for (what, path) in [("check", &rules), ("test", &tests)] {
        let mut command = Command::new("promtool");
        let run = finish(
            {
                command.args([what, "rules"]).arg(path);
                command
            },
            20,
        );
        assert_eq!(run.code, 0, "{what}: {}", run.text());
    }
}

/// All values of these keys in a document, wherever they stand.
fn found<'v>(value: &'v Value, key: &str, into: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if name == key {
                    into.push(value);
                }
                found(value, key, into);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| found(value, key, into)),
        _ => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("a dashboard")
}

/// The queries of the dashboard, as Grafana would send them for a range of five minutes and scrapes each second.
fn queries(dashboard: &Value) -> Vec<String> {
    let mut all = Vec::new();
    found(dashboard, "expr", &mut all);
    let filled = |query: &Value| {
        let query = query.as_str().expect("a query");
        let query = query
            .replace("$__rate_interval", "10s")
            .replace("$__range", "5m")
            .replace("$instance", ".*")
            .replace("$pool", ".*");
        assert!(!query.contains('$'), "{query}");
        query
    };
    all.into_iter().map(filled).collect()
}

/// What Grafana wants of a dashboard that is imported, and no panel over another one.
#[test]
fn the_dashboard_can_be_imported() {
    let dashboard = dashboard();
    let input = &dashboard["__inputs"][0];
    assert_eq!(input["type"], "datasource");
    let name = input["name"].as_str().expect("a name");
    let variables = dashboard["templating"]["list"]
        .as_array()
        .expect("variables");
    let names: Vec<&Value> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["datasource", "instance", "pool"]);
    assert_eq!(variables[0]["current"]["value"], format!("${{{name}}}"));
    let mut sources = Vec::new();
    found(&dashboard, "datasource", &mut sources);
    assert!(
        sources
            .iter()
            .all(|source| source["uid"] == "${datasource}"),
        "{sources:?}"
    );
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut taken = BTreeSet::new();
    for (at, panel) in panels.iter().enumerate() {
        assert_eq!(panel["id"], at + 1);
        for key in ["title", "description", "type"] {
            assert!(panel[key].as_str().is_some_and(|text| !text.is_empty()));
        }
        let of = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        for x in of("x")..of("x") + of("w") {
            for y in of("y")..of("y") + of("h") {
                assert!(x < 24 && taken.insert((x, y)), "{}", panel["title"]);
            }
        }
    }
    let asked: BTreeSet<String> = queries(&dashboard)
        .iter()
        .flat_map(|query| metrics_in(query))
        .collect();
    let known = known_metrics();
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // The version is what instances are found by; of histograms the buckets are enough.
    let shown = |name: &String| !name.ends_with("_count") && name != "rotad_build_info";
    let mut missing = known.clone();
    missing.retain(|name| shown(name) && !asked.contains(name));
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 2
listen = ["http"]
reload = { soak = "50ms" }
[listen.http]
address = "127.0.0.1:@PORT@"
[pool.sick]
command = ["sh", "-c", "sleep 0.1; exit 3"]
count = 2
ready = "notify"
"#;

/// An answer of Prometheus.
fn ask(port: u16, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let answer: Value = serde_json::from_str(body).ok()?;
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    Some(answer["data"].clone())
}

fn query(port: u16, text: &str) -> Vec<Value> {
    let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let data = ask(port, &format!("/api/v1/query?query={encoded}"));
    let data = data.unwrap_or_else(|| panic!("no answer to {text}"));
    data["result"].as_array().expect("a result").clone()
}

fn prometheus(site: &Site, target: u16) -> (Running, u16) {
    let port = free_port();
    let rules = file(RULES).display().to_string();
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{rules}\"]\n\
         scrape_configs:\n  - job_name: rotad\n    static_configs: [{{ targets: [\"127.0.0.1:{target}\"] }}]\n"
    );
    let config = site.write("prometheus.yml", &config);
    let log = fs::File::create(site.path("prometheus.log")).expect("a log");
    let running = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            site.path("tsdb").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("prometheus");
    (Running(running), port)
}

#[test]
fn a_real_prometheus_answers_every_query() {
    if !need::program("prometheus") {
        return;
    }
    let mut site = Site::new(POOLS);
    site.write("code", "ok");
    let target = free_port();
    let _server = Running(
        Command::new(console())
            .args(["serve", "--pss", "--listen"])
            .args([&format!("127.0.0.1:{target}"), "-c"])
            .arg(&site.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rotad serve"),
    );
    let (_prometheus, port) = prometheus(&site, target);
    site.run();
    site.await_status("web serves, and sick is in a crash loop", 20, |status| {
        pool(status, "web")["ready"] == 2 && pool(status, "sick")["state"] == "crash-loop"
    });
    let holds = |text: &str| {
        let what = format!("{text}; {}", site.read("prometheus.log"));
        until(&what, 20, || {
            let answer = ask(port, "/api/v1/status/buildinfo").is_some();
            (answer && !query(port, text).is_empty()).then_some(())
        });
    };
    holds("rotad_pool_workers_ready{pool=\"web\"} == 2");
    // A roll, one that fails, and the way back; each is scraped before the next.
    site.edit(
        "count = 2\nlisten",
        "env = { RELEASE = \"2\" }\ncount = 2\nlisten",
    );
    assert_eq!(site.rotad(&["reload", "web", "--drained"]).code, 0);
    holds("rotad_rolls_total{pool=\"web\",outcome=\"done\"} == 1");
    site.write("code", "exit 3");
    assert_eq!(site.rotad(&["roll", "web"]).code, 10);
    site.write("code", "ok");
    let back = site.rotad(&["rollback", "web", "--to", "1", "--drained"]);
    assert_eq!(back.code, 0, "{back:?}");
    holds("rotad_rolls_total{pool=\"web\",outcome=\"done\"} == 2");
    holds("ALERTS{alertname=\"RolledBack\",alertstate=\"firing\",pool=\"web\"}");
    // It has to last for a minute.
    holds("ALERTS{alertname=\"CrashLoop\",alertstate=\"pending\",pool=\"sick\"}");
    for alert in [
        "PoolBelowWanted",
        "RotadDown",
        "JobsCutShort",
        "LogLoss",
        "ConfigNotApplied",
    ] {
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        assert!(query(port, &firing).is_empty(), "{alert}");
    }
    assert!(query(port, "ALERTS{pool=\"web\",alertname!=\"RolledBack\"}").is_empty());

    let all = queries(&dashboard());
    assert!(all.len() > 30, "{all:?}");
    // What shows trouble, or a moment of a roll, has nothing to show by now.
    let may_be_empty = [
        "starting",
        "draining",
        "recycled",
        "kills",
        "overflows",
        "lost_bytes",
        "replaced",
        "changes(",
        "retry_timestamp",
    ];
    let empty: Vec<&String> = all
        .iter()
        .filter(|text| query(port, text).is_empty())
        .filter(|text| !may_be_empty.iter().any(|part| text.contains(part)))
        .collect();
    assert!(empty.is_empty(), "{empty:#?}");
}
