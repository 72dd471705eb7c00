//! The Debian package: built by cargo-deb, and installed, started, upgraded and removed under a real systemd, in the
//! box of `tests/systemd/box.sh`, whose file system goes with it. It is never installed on this machine.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::load::get;
use support::site::finish;
use support::systemd_box::{CONFIG, SystemdBox};
use support::{Load, alone, console, need, testworker, until};

const ADDRESS: &str = "127.0.0.1:8080";
/// `rotad serve` of rotad@shop, and where it listens.
const SERVE: &str = "rotad-serve@shop.service";
const SERVED: &str = "127.0.0.1:9180";
const POOLS: &str = r#"
[pool.web]
command = ["/opt/testworker", "http"]
count = 2
listen = "127.0.0.1:8080"
user = "www-data"
"#;

/// A pool with metrics of its own, and its program: each worker has counted to 7.
const METERED: &str = r#"
[pool.meter]
command = ["python3", "/opt/meter", "{port}"]
ports = "9400-9403"
ready = { connect = "127.0.0.1:{port}" }
metrics = { scrape = "http://127.0.0.1:{port}/metrics" }
user = "www-data"
"#;
const METER: &str = r##"
import http.server, sys
PAGE = b"# TYPE shop_requests counter\nshop_requests_total 7\n# EOF\n"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"##;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn ok(mut command: Command, dir: &Path) -> String {
    command.current_dir(dir);
    let run = finish(command, 120);
    assert_eq!(run.code, 0, "{}", run.text());
    run.out
}

/// Builds the package of this tree, with the binary under test, once for each version.
struct Packages {
    dir: tempfile::TempDir,
}

impl Packages {
    /// None: the machine lacks something, and that was allowed.
    fn build(versions: &[&str]) -> Option<Self> {
        let cargo_deb = support::rotad()
            .ancestors()
            .nth(2)
            .expect("the target directory")
            .join("tools/bin/cargo-deb");
        if !need("cargo-deb (target/tools)", cargo_deb.exists()) || !need::program("dpkg-shlibdeps")
        {
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("rt.")
            .tempdir_in("/tmp")
            .expect("a directory");
        for version in versions {
            let mut generate = Command::new(root().join("packaging/generate"));
            generate.arg(support::rotad()).arg(format!("{version}-1"));
            ok(generate, root());
            let mut build = Command::new(&cargo_deb);
            build.args([
                "--no-build",
                "--profile",
                "dev",
                "--locked",
                "--offline",
                "--strip",
                "--fast",
            ]);
            build.args(["--deb-version", &format!("{version}-1"), "--output"]);
            build.arg(dir.path().join(format!("{version}.deb")));
            ok(build, root());
        }
        Some(Self { dir })
    }

    fn path(&self, version: &str) -> PathBuf {
        self.dir.path().join(format!("{version}.deb"))
    }
}

/// What the package holds is what this tree and this binary say, and Debian's checker finds no error in it.
#[test]
fn the_package_has_the_documented_files() {
    let _alone = alone();
    let Some(packages) = Packages::build(&["0.1.0"]) else {
        return;
    };
    let tree = packages.dir.path().join("tree");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(packages.path("0.1.0")).arg(&tree);
    ok(unpack, root());
    let said = |arguments: &[&str]| {
        let mut rotad = Command::new(support::rotad());
        rotad.args(arguments);
        ok(rotad, root())
    };
    let read = |name: &str| {
        fs::read_to_string(tree.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/rotad"),
        ("zsh", "usr/share/zsh/vendor-completions/_rotad"),
        ("fish", "usr/share/fish/vendor_completions.d/rotad.fish"),
    ] {
        assert_eq!(read(file), said(&["completions", shell]), "{file}");
    }
    assert_eq!(read("usr/share/rotad/rotad.schema.json"), said(&["schema"]));
    for file in ["prometheus/rotad.rules.yml", "grafana/rotad.json"] {
        let source = fs::read_to_string(root().join("packaging").join(file)).expect(file);
        assert_eq!(read(&format!("usr/share/rotad/{file}")), source);
    }
    let mut page = Command::new("gzip");
    page.arg("-dc")
        .arg(tree.join("usr/share/man/man1/rotad.1.gz"));
    assert_eq!(ok(page, root()), said(&["man"]));
    for entry in fs::read_dir(root().join("systemd"))
        .expect("units")
        .flatten()
        .filter(|entry| entry.path().is_file())
    {
        let name = entry.file_name().into_string().expect("a name");
        let dir = if name.ends_with(".conf") {
            "usr/lib/tmpfiles.d"
        } else {
            "usr/lib/systemd/system"
        };
        assert_eq!(
            read(&format!("{dir}/{name}")),
            fs::read_to_string(entry.path()).expect("a unit"),
            "{name}"
        );
    }
    assert!(
        tree.join("usr/share/doc/rotad/examples/rotad.toml")
            .exists()
    );
    assert!(
        !tree.join("etc/rotad/rotad.toml").exists(),
        "nothing that would start by itself"
    );

    assert!(
        tree.join("usr/share/doc/rotad/examples/drop-ins/hardened.conf")
            .exists()
    );

    if need::program("lintian") {
        let mut lintian = Command::new("lintian");
        lintian
            .args(["--fail-on", "error"])
            .arg(packages.path("0.1.0"));
        ok(lintian, root());
    }
}

/// dpkg(1) in the box, without waiting for a disk that is none.
fn dpkg(machine: &SystemdBox, action: &str, what: &str) -> String {
    machine.ok(&["dpkg", "--force-unsafe-io", action, what])
}

/// Installed: nothing runs. Started, rolled, upgraded in place in both directions: no request is lost, and MainPID is the same. Removed: stopped,
/// the configuration stays. Purged: nothing is left. `rotad serve` as a unit of its own goes along.
#[test]
fn the_package_installs_upgrades_and_removes() {
    let _alone = alone();
    console();
    let Some(packages) = Packages::build(&["0.1.0", "0.2.0"]) else {
        return;
    };
    let shown = [
        (packages.dir.path().to_owned(), "/opt/packages"),
        (testworker(), "/opt/testworker"),
    ];
    let Some(machine) = SystemdBox::boot_bare(&shown) else {
        return;
    };
    // The index of manual pages takes longer than all the rest.
    machine.shell("rm -f /var/lib/man-db/auto-update");

    dpkg(&machine, "--install", "/opt/packages/0.1.0.deb");
    for unit in ["rotad.service", "rotad@shop.service", SERVE] {
        assert_eq!(machine.show(unit, "LoadState"), "loaded", "{unit}");
        assert_eq!(machine.show(unit, "ActiveState"), "inactive", "{unit}");
    }
    assert_eq!(
        machine
            .run(&["systemctl", "is-enabled", "rotad.service"])
            .out
            .trim(),
        "disabled"
    );

    let first = machine
        .shell("cd $(mktemp -d) && rotad init -- sleep 1 >/dev/null && head -n 1 rotad.toml");
    assert_eq!(first.trim(), "#:schema /usr/share/rotad/rotad.schema.json");
    machine.write(CONFIG, POOLS);
    machine.write("/opt/meter", METER);
    let shop = format!("{}{METERED}", POOLS.replace("8080", "8081"));
    machine.write("/etc/rotad/shop.toml", &shop);
    machine.ok(&[
        "systemctl",
        "enable",
        "--now",
        "rotad.service",
        "rotad@shop.service",
    ]);
    served_in_a_sandbox(&machine);
    upgraded_under_load(&machine);

    dpkg(&machine, "--remove", "rotad");
    for unit in ["rotad.service", "rotad@shop.service", SERVE] {
        assert_ne!(machine.show(unit, "ActiveState"), "active", "{unit}");
    }
    assert_eq!(
        machine
            .run(&["pgrep", "-f", "/opt/testworker|/usr/bin/rotad"])
            .out,
        "",
        "something goes on"
    );
    machine.ok(&["test", "-e", CONFIG]);

    dpkg(&machine, "--purge", "rotad");
    let found = machine.shell(
        "find /etc /usr/bin /usr/lib /usr/share /var /run /lib/systemd/system -name '*rotad*'",
    );
    assert_eq!(found, "", "left after the purge");
    assert_eq!(
        machine.run(&["systemctl", "--failed", "--no-legend"]).out,
        ""
    );
}

/// rotad-serve@.service reaches the control socket and the workers' metrics through its sandbox, keeps its file in the
/// runtime directory, writes nowhere else, goes on over a restart of the master, and is started again when it dies.
fn served_in_a_sandbox(machine: &SystemdBox) {
    machine.ok(&["systemctl", "enable", "--now", SERVE]);
    let await_answer = |path: &str, text: &str| {
        until(&format!("{text} from {path}"), 10, || {
            get(SERVED, path)
                .ok()
                .filter(|answer| answer.contains(text))
        })
    };
    await_answer("/healthz", "ok");
    await_answer("/readyz", "ok");
    await_answer("/metrics", "rotad_pool_workers_ready{pool=\"web\"} 2");
    await_answer("/metrics", "shop_requests_total{pool=\"meter\"} 7");

    let console = machine.main_pid(SERVE);
    machine.ok(&["systemctl", "restart", "rotad@shop.service"]);
    await_answer("/metrics", "shop_requests_total{pool=\"meter\"} 14");
    await_answer("/readyz", "ok");
    assert_eq!(
        machine.main_pid(SERVE),
        console,
        "restarted with the master"
    );
    until("the sums in the runtime directory", 10, || {
        let kept = machine.run(&["test", "-s", "/run/rotad/shop/serve-metrics.json"]);
        (kept.code == 0).then_some(())
    });

    // As root with every capability of the box, in its mount namespace: what stops it here stops it there.
    let writable = machine.shell(&format!(
        "for dir in / /etc/rotad /home /opt /root /run /run/lock /srv /usr/bin /var/lib /var/log/rotad /dev/shm \\
             /sys/fs/cgroup /proc/sys/kernel /run/rotad; do
             nsenter --target {console} --mount -- sh -c \"touch $dir/probe && rm $dir/probe\" 2>/dev/null && echo $dir
         done; true"
    ));
    assert_eq!(writable, "/run/rotad\n");
    let status = machine.read(&format!("/proc/{console}/status"));
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let rated = machine.ok(&[
        "systemd-analyze",
        "security",
        "--threshold=25",
        "--no-pager",
        SERVE,
    ]);
    assert!(rated.contains("Overall exposure level"), "{rated}");

    machine.ok(&["kill", "-KILL", &console]);
    machine.await_shown(SERVE, "NRestarts", 10, |number| number == "1");
    await_answer("/readyz", "ok");
    // The workers before the restart of the master are in the sum still.
    await_answer("/metrics", "shop_requests_total{pool=\"meter\"} 14");
}

fn upgraded_under_load(machine: &SystemdBox) {
    let master = machine.show("rotad.service", "MainPID");
    let mut console = machine.main_pid(SERVE);
    let loads = [Load::on(ADDRESS, 2, 0), Load::on(ADDRESS, 0, 2)];
    let more = || loads.iter().for_each(|load| load.await_more(50));
    more();
    machine.ok(&["rotad", "roll", "-c", CONFIG]);
    more();
    // To the next version, back, and to it again.
    for version in ["0.2.0", "0.1.0", "0.2.0"] {
        let said = dpkg(
            machine,
            "--install",
            &format!("/opt/packages/{version}.deb"),
        );
        for unit in ["rotad.service", "rotad@shop.service"] {
            let upgraded = format!("{unit} runs the new version");
            assert!(said.contains(&upgraded), "{version}: {said}");
        }
        let next = machine.main_pid(SERVE);
        assert_ne!(next, console, "{version} left the console before");
        console = next;
        more();
        assert_eq!(
            machine.show("rotad.service", "MainPID"),
            master,
            "{version} has restarted it"
        );
        assert_eq!(
            machine
                .shell("readlink /proc/$(systemctl show -P MainPID rotad)/exe")
                .trim(),
            "/usr/bin/rotad"
        );
    }
    machine.ok(&["systemctl", "reload", "rotad.service"]);
    more();
    loads
        .map(Load::stop)
        .iter()
        .for_each(|report| report.assert_nothing_lost(200));
    let status = machine.ok(&["rotad", "status", "--json", "-c", CONFIG]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("a status");
    assert_eq!(support::pool(&status, "web")["generation"], 3);
}
