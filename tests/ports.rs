//! A port of its own for each worker, and a proxy in front that loses nothing while they change.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use support::{Load, Site, Watch, alone, load, need, pids, pool, until};

const API: &str = r#"
[pool.api]
command = ["@WORKER@", "http", "--bind", "127.0.0.1:{port}"@KNOBS@]
count = 2
ports = "@PORTS@"
env = { OWN = "{port}" }
ready = { connect = "127.0.0.1:{port}" }
stop = "10s"
[pool.api.reload]
surge = 1
max_draining = 2
"#;

fn api(knobs: &str, ports: &str) -> String {
    API.replace("@KNOBS@", knobs).replace("@PORTS@", ports)
}

fn first_of(ports: &str) -> u16 {
    ports
        .split('-')
        .next()
        .and_then(|first| first.parse().ok())
        .expect("a port")
}

/// The ports of the pool's workers, by slot.
fn ports_of(status: &Value) -> Vec<u16> {
    let workers = pool(status, "api")["workers"].as_array().expect("workers");
    workers
        .iter()
        .filter_map(|worker| worker["port"].as_u64().map(|port| port as u16))
        .collect()
}

fn rolled(status: &Value, generation: u64) -> bool {
    let api = pool(status, "api");
    api["reload"]["state"] == "done"
        && api["generation"] == generation
        && api["alive"] == api["wanted"]
}

#[test]
fn each_worker_has_its_own_port() {
    let ports = support::free_ports(5);
    let site = Site::up(&api("", &ports));
    let status = site.await_ready();
    let first = first_of(&ports);
    assert_eq!(ports_of(&status), [first, first + 1], "{status}");
    for (pid, port) in pids(&status, "api").into_iter().zip(ports_of(&status)) {
        let body = load::get(&format!("127.0.0.1:{port}"), "/").expect("an answer");
        assert!(body.starts_with(&format!("{pid} ")), "{body}");
        let environment =
            std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("an environment");
        let has = |line: String| environment.split('\0').any(|one| one == line);
        assert!(
            has(format!("ROTAD_PORT={port}")) && has(format!("OWN={port}")),
            "{environment}"
        );
    }
    assert_eq!(site.rotad(&["roll", "api"]).code, 0);
    let after = site.await_status("the old ones are gone", 20, |status| rolled(status, 2));
    let now: BTreeSet<u16> = ports_of(&after).into_iter().collect();
    assert_eq!(now.len(), 2, "{after}");
    assert!(
        !now.contains(&first),
        "the successor of a living worker has another port: {after}"
    );
}

/// A port that another program listens on is not given to a worker.
#[test]
fn ports_of_other_programs_are_skipped() {
    let ports = support::free_ports(4);
    let first = first_of(&ports);
    let _stranger = TcpListener::bind(("127.0.0.1", first)).expect("a listener");
    let site = Site::up(&api("", &ports));
    assert_eq!(ports_of(&site.await_ready()), [first + 1, first + 2]);
}

/// Old workers hold their ports while they finish: the rolling restart waits for them, says so, and fails for nothing.
#[test]
fn a_spawn_waits_for_a_port() {
    let _alone = alone();
    let ports = support::free_ports(3);
    // A successor that had to be ready 2 s after its order would fail: the old ones need 4 s to leave.
    let site = Site::up(
        &api(", \"--drain-ms\", \"4000\"", &ports)
            .replace("stop =", "ready_timeout = \"2s\"\nstop ="),
    );
    let run = site.rotad(&["roll", "api"]);
    assert_eq!(run.code, 0, "{run:?}");
    let after = site.await_status("the old ones are gone", 20, |status| rolled(status, 2));
    assert_eq!(
        ports_of(&after)
            .into_iter()
            .collect::<BTreeSet<u16>>()
            .len(),
        2,
        "{after}"
    );
    site.await_log_times("waits for a free port", 1);
    let events = site.events();
    let waits: Vec<usize> = (0..events.len())
        .filter(|at| events[*at]["event"] == "ports-exhausted")
        .collect();
    let [at] = waits[..] else {
        panic!("one wait: {events:?}");
    };
    let wait = &events[at];
    assert_eq!(
        (&wait["pool"], &wait["generation"]),
        (&"api".into(), &2.into())
    );
    let ends = |event: &Value| event["event"] == "spawn" && event["worker"] == wait["worker"];
    assert!(
        events[at..].iter().any(ends),
        "its start ends it: {events:?}"
    );
    assert!(
        !site.log().contains("was not ready in time"),
        "{}",
        site.log()
    );
}

/// A worker that waits for a port is stopped like all others, and the stop does not wait for it.
#[test]
fn a_spawn_that_waits_can_be_stopped() {
    let _alone = alone();
    let ports = support::free_ports(3);
    let first = first_of(&ports);
    let strangers: Vec<TcpListener> = (first..first + 3)
        .map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a listener"))
        .collect();
    let mut site = Site::new(&api("", &ports));
    site.run();
    site.await_log("waits for a free port", 10);
    drop(strangers);
    site.await_ready();
    let again = TcpListener::bind(("127.0.0.1", first + 2)).expect("a listener");
    site.rotad(&["roll", "--no-wait", "api"]);
    until("the successor waits", 10, || {
        (site.log().matches("waits for a free port").count() == 2).then_some(())
    });
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(8).code(), Some(0));
    site.assert_empty();
    drop(again);
}

/// nginx as in docs/ports.md.
const NGINX: &str = r#"
daemon off;
pid @DIR@/nginx.pid;
error_log @DIR@/nginx.log;
worker_processes 1;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path @DIR@/body;
    proxy_temp_path @DIR@/proxy;
    fastcgi_temp_path @DIR@/fastcgi;
    uwsgi_temp_path @DIR@/uwsgi;
    scgi_temp_path @DIR@/scgi;
    upstream api {
@SERVERS@
    }
    server {
        listen 127.0.0.1:@PORT@;
        location / {
            proxy_pass http://api;
            proxy_next_upstream error timeout;
            proxy_connect_timeout 1s;
        }
    }
}
"#;

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn nginx(site: &Site, ports: &str) -> Nginx {
    let first = first_of(ports);
    let servers: Vec<String> = (first..first + 5)
        .map(|port| format!("        server 127.0.0.1:{port} max_fails=0;"))
        .collect();
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let file = site.write(
        "nginx.conf",
        &format!(
            "{user}{}",
            site.filled(NGINX).replace("@SERVERS@", &servers.join("\n"))
        ),
    );
    let mut command = Command::new("nginx");
    command
        .arg("-c")
        .arg(file)
        .arg("-p")
        .arg(site.path(""))
        .arg("-e")
        .arg(site.path("nginx.log"));
    let child = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx");
    let nginx = Nginx(child);
    until("nginx listens", 10, || load::get(&site.address(), "/").ok());
    nginx
}

/// Five rolling restarts behind nginx, which lists the whole range: not one request is lost.
#[test]
fn nginx_in_front_loses_nothing() {
    if !need(
        "nginx",
        ["/usr/sbin/nginx", "/usr/bin/nginx"]
            .iter()
            .any(|path| std::path::Path::new(path).exists()),
    ) {
        return;
    }
    let _alone = alone();
    let ports = support::free_ports(5);
    let site = Site::up(&api(", \"--work-ms\", \"5\"", &ports));
    let nginx = nginx(&site, &ports);
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(200);
    let watch = Watch::over(&site, "api");
    for generation in 2..=6 {
        site.signal(Signal::SIGUSR1);
        site.await_status(
            "the roll is done, and the old ones are gone",
            60,
            |status| rolled(status, generation),
        );
        load.await_more(200);
    }
    let (seen, report) = (watch.seen(), load.stop());
    drop(nginx);
    report.assert_nothing_lost(1000);
    assert!(
        report.by_worker.len() >= 12,
        "answers came from {} workers",
        report.by_worker.len()
    );
    assert!(seen.min_ready >= 2, "{seen:?}");
}
