//! The Debian package: built by cargo-deb, and installed, started, upgraded and removed under a real systemd, in the
//! box of `tests/systemd/box.sh`, whose file system goes with it. It is never installed on this machine.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::site::finish;
use support::systemd_box::{CONFIG, SystemdBox};
use support::{Load, alone, need, testworker};

const ADDRESS: &str = "127.0.0.1:8080";
const POOLS: &str = r#"
[pool.web]
command = ["/opt/testworker", "http"]
count = 2
listen = "127.0.0.1:8080"
user = "www-data"
"#;

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
/// the configuration stays. Purged: nothing is left.
#[test]
fn the_package_installs_upgrades_and_removes() {
    let _alone = alone();
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
    for unit in ["rotad.service", "rotad@shop.service"] {
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
    machine.write("/etc/rotad/shop.toml", &POOLS.replace("8080", "8081"));
    machine.ok(&[
        "systemctl",
        "enable",
        "--now",
        "rotad.service",
        "rotad@shop.service",
    ]);
    upgraded_under_load(&machine);

    dpkg(&machine, "--remove", "rotad");
    for unit in ["rotad.service", "rotad@shop.service"] {
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

fn upgraded_under_load(machine: &SystemdBox) {
    let master = machine.show("rotad.service", "MainPID");
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
