//! `rotad serve` sums the workers' own metrics: over slots, over workers that are gone, over masters and over itself.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use support::example::{node_modules, node_package, venv};
use support::{Load, Served, Site, alone, free_ports, need, until};

/// Two workers whose metrics have a port of their own. Asked to stop they answer what they have accepted, and leave once
/// what they have counted was read.
fn web(command: &str, file: &str, text: &str) -> Site {
    let mut site = Site::new(&format!(
        r#"
[pool.web]
command = {command}
count = 2
listen = "127.0.0.1:@PORT@"
ports = "{ports}"
env = {{ METRICS_PORT = "{{port}}", NODE_PATH = "{modules}" }}
[pool.web.reload]
soak = "10ms"
[pool.web.metrics]
scrape = "http://127.0.0.1:{{port}}/metrics"
gauges = "slot"
"#,
        ports = free_ports(8),
        modules = node_modules().display()
    ));
    site.write(file, text);
    site.run();
    site.await_ready();
    site
}

/// The sum of all samples whose line begins like this.
fn sum(page: &str, begin: &str) -> f64 {
    let values = page.lines().filter(|line| line.starts_with(begin));
    let value = |line: &str| {
        let value = line.rsplit_once(' ').map(|(_, value)| value.parse::<f64>());
        value.unwrap_or_else(|| panic!("no number: {line}"))
    };
    values.map(|line| value(line).expect("a number")).sum()
}

fn page(served: &Served) -> String {
    let answer = served.get("/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// So many rolls (`ROTAD_ROLLS`: others) under load, with other consoles and other masters in between: what is counted is
/// what the clients have had.
fn counts_are_exact(site: &Site, rolls: u64) {
    let mut served = Served::of(site, &[]);
    let load = Load::of(&site.address(), "/", 2, 2, Duration::from_millis(5));
    for roll in 0..support::asked_for("ROTAD_ROLLS").unwrap_or(rolls) {
        load.await_more(50);
        match roll % 10 {
            1 => {
                assert!(served.end(Signal::SIGTERM, 5).success());
                served = Served::of(site, &[]);
            }
            2 => kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("a master"),
            _ => {
                page(&served);
            }
        }
        let run = site.rotad(&["roll", "web"]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    let report = load.stop();
    report.assert_nothing_lost(100);
    let ok = report.ok as f64;
    let page = until("every request is counted", 10, || {
        let page = page(&served);
        let counted = sum(&page, "app_requests_total{pool=\"web\"");
        assert!(counted <= ok, "{counted} of {ok}");
        (counted == ok).then_some(page)
    });
    assert_eq!(sum(&page, "app_wait_seconds_count{pool=\"web\""), ok);
    let all = page
        .lines()
        .filter(|line| line.starts_with("app_wait_seconds_bucket"));
    let all: String = all.filter(|line| line.contains("+Inf")).collect();
    assert_eq!(sum(&all, "app_wait_seconds_bucket"), ok);
    for slot in [0, 1] {
        let own = format!("app_up{{pool=\"web\",slot=\"{slot}\"}} 1");
        assert!(page.lines().any(|line| line == own), "{own}\n{page}");
    }
    // While the console is there to read what they have counted last: without that they wait for it.
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let head = "# TYPE app_requests_total counter";
    assert!(page.lines().any(|line| line == head), "{page}");
}

#[test]
fn node_workers_with_prom_client() {
    if !need::program("node") || !node_package("prom-client") {
        return;
    }
    let _alone = alone();
    let site = web(r#"["node", "@DIR@/server.js"]"#, "server.js", NODE);
    // A roll takes as long as two boots of Node, one after another: half a second.
    counts_are_exact(&site, 5);
}

const NODE: &str = r"
const http = require('node:http');
const net = require('node:net');
const prometheus = require('prom-client');

prometheus.collectDefaultMetrics();
const requests = new prometheus.Counter({ name: 'app_requests_total', help: 'Requests.', labelNames: ['code'] });
const wait = new prometheus.Histogram({ name: 'app_wait_seconds', help: 'Wait.', buckets: [0.1, 1] });
new prometheus.Gauge({ name: 'app_up', help: 'Up.' }).set(1);

let stopping = false;
const server = http.createServer((request, answer) => {
  if (stopping) answer.setHeader('Connection', 'close');
  requests.inc({ code: '200' });
  wait.observe(0.01);
  answer.writeHead(200, { 'Content-Length': 5 });
  answer.end('node\n');
});

let finished = false;
http.createServer(async (request, answer) => {
  const last = finished;
  const page = await prometheus.register.metrics();
  answer.on('finish', () => last && process.exit(0));
  answer.setHeader('Content-Type', prometheus.register.contentType);
  answer.end(page);
}).listen(process.env.METRICS_PORT, '127.0.0.1', () => server.listen({ fd: 3 }));

process.on('SIGTERM', () => {
  stopping = true;
  net.Server.prototype.close.call(server, () => {
    finished = true;
    setTimeout(() => process.exit(0), 5000);
  });
  setTimeout(() => server.closeIdleConnections(), 200);
});
";

#[test]
fn python_workers_with_prometheus_client() {
    let python = venv().join("bin/python");
    let has = std::process::Command::new(&python)
        .args(["-c", "import prometheus_client"])
        .output();
    let has = has.is_ok_and(|run| run.status.success());
    if !need("prometheus_client (target/venv)", has) {
        return;
    }
    let _alone = alone();
    let command = format!(r#"["{}", "@DIR@/server.py"]"#, python.display());
    // Nine seconds: each roll waits for two boots of Python, one after another, and for requests in between.
    counts_are_exact(&web(&command, "server.py", PYTHON), 20);
}

const PYTHON: &str = r#"
import os, signal, socket, threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

requests = Counter("app_requests", "Requests.", ["code"])
wait = Histogram("app_wait_seconds", "Wait.", buckets=[0.1, 1])
Gauge("app_up", "Up.").set(1)
finished = threading.Event()
read = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class App(Handler):
    def do_GET(self):
        requests.labels(code="200").inc()
        wait.observe(0.01)
        self.reply(b"python\n", "text/plain")


class Metrics(Handler):
    def do_GET(self):
        last = finished.is_set()
        self.reply(generate_latest(), CONTENT_TYPE_LATEST)
        if last:
            read.set()


class Inherited(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, fd):
        super().__init__(("", 0), App, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)


metrics = HTTPServer(("127.0.0.1", int(os.environ["METRICS_PORT"])), Metrics)
threading.Thread(target=metrics.serve_forever, daemon=True).start()
app = Inherited(3)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=app.shutdown).start())
app.serve_forever(poll_interval=0.05)
app.server_close()
finished.set()
read.wait(5)
"#;

/// What does not answer, answers nonsense or never ends costs a second, and takes no numbers from the others.
#[test]
fn a_worker_that_does_not_answer_hides_no_other() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["python3", "@DIR@/worker.py", "@DIR@/metrics-{slot}-{generation}.sock"]
count = 4
ready = "notify"
[pool.web.metrics]
scrape = "unix:@DIR@/metrics-{slot}-{generation}.sock"
"#,
    );
    site.write("worker.py", UNEVEN);
    site.run();
    site.await_ready();
    let served = Served::of(&site, &[]);
    let begun = Instant::now();
    let page = page(&served);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    for line in [
        "jobs_total{pool=\"web\",exported_pool=\"x\"} 7",
        "depth{pool=\"web\"} 3",
        "rotad_worker_scrape_failures_total{pool=\"web\"} 3",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(
        served.said().contains("the metrics of web/"),
        "{}",
        served.said()
    );
    // A pool without metrics has none, at once.
    let without = site.read("rotad.toml");
    let without = without
        .split("[pool.web.metrics]")
        .next()
        .expect("the rest");
    site.write("rotad.toml", without);
    let run = site.rotad(&["reload", "--config"]);
    assert!(run.code == 0 && run.out.contains("metrics"), "{run:?}");
    let page = self::page(&served);
    assert!(
        !page.contains("jobs_total") && !page.contains("scrape_failures"),
        "{page}"
    );
}

const UNEVEN: &str = r##"
import os, socket, sys, threading

slot = int(os.environ["ROTAD_SLOT"])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])

OK = b"# TYPE jobs_total counter\njobs_total{pool=\"x\"} 7\n# TYPE depth gauge\ndepth 3\n"
kept = []
while True:
    client, _ = listener.accept()
    client.recv(65536)
    if slot == 0:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(OK), OK))
        client.close()
    elif slot == 1:
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>{{{\n")
        client.close()
    elif slot == 2:
        kept.append(client)
    else:
        def pour(client=client):
            try:
                client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                while True:
                    client.sendall(b"x" * 65536)
            except OSError:
                pass
        threading.Thread(target=pour, daemon=True).start()
"##;
