//! The archive, the wheel and the packages for npm: built from the static binary, installed from local files into
//! directories of the test's own, without a network, and run.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::example::{python, venv};
use support::fixed::{static_console, static_rotad};
use support::site::finish;
use support::{Site, need, proc};

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("rt.")
        .tempdir_in("/tmp")
        .expect("a directory")
}

/// What a command prints, which has to succeed.
fn output(command: Command) -> String {
    let run = finish(command, 120);
    assert_eq!(run.code, 0, "{}", run.text());
    run.out
}

fn ok(program: impl AsRef<OsStr>, arguments: &[&dyn AsRef<OsStr>]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    output(command)
}

fn script(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("packaging").join(name)
}

/// The static binary as a release has it: without symbols, which are two thirds of it. In the directory of builds: a
/// static is not dropped, and would leave a temporary directory behind.
fn stripped() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stripped");
        fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("rotad");
        ok("strip", &[&"-o", &path, &static_rotad()]);
        let console = dir.join("rotad-console");
        ok("strip", &[&"-o", &console, &static_console()]);
        path
    })
}

/// Builds with packaging/NAME ROTAD [MORE] into a directory; the files.
fn packed(name: &str, more: &[&str], into: &Path) -> Vec<PathBuf> {
    let mut pack = Command::new(script(name));
    pack.arg(stripped()).args(more).arg(into);
    output(pack).lines().map(PathBuf::from).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a name")
}

/// A binary that needs a C library is not packed.
fn refuses_dynamic(name: &str) {
    let dir = directory();
    let mut pack = Command::new(script(name));
    pack.arg(support::rotad());
    if name == "archive" {
        pack.arg("x86_64");
    }
    pack.arg(dir.path());
    let run = finish(pack, 60);
    assert_ne!(run.code, 0);
    assert!(run.err.contains("not static"), "{}", run.err);
}

/// Everything below a directory, as paths relative to it.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).expect("a directory").flatten() {
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                dirs.push(path);
            } else {
                found.push(
                    path.strip_prefix(dir)
                        .expect("below it")
                        .display()
                        .to_string(),
                );
            }
        }
    }
    found.sort();
    found
}

/// The program is the process that was started: nothing stands between a master and who started it. TERM ends it with 0.
fn runs_by_itself(program: &Path, binary: &Path) {
    let mut site = Site::new(
        "[pool.web]\ncommand = [\"@WORKER@\", \"http\"]\nlisten = \"127.0.0.1:@PORT@\"\n",
    );
    let mut run = Command::new(program);
    run.args(["run", "-c"]).arg(&site.config);
    site.spawn(run);
    site.await_ready();
    let binary = binary.canonicalize().expect("the binary");
    let (master, guardian) = (site.pid(), site.guardian());
    assert_eq!(
        proc::parent(guardian),
        i32::try_from(std::process::id()).ok()
    );
    for pid in [master, guardian] {
        let program = fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
        assert_eq!(program, binary);
    }
    kill(Pid::from_raw(guardian), Signal::SIGTERM).expect("TERM");
    assert_eq!(site.await_exit(20).code(), Some(0));
}

#[test]
fn a_wheel_installs_runs_and_goes() {
    if !python("pip") {
        return;
    }
    let dir = directory();
    let wheels = packed("wheel", &[], dir.path());
    let arch = std::env::consts::ARCH;
    let version = env!("CARGO_PKG_VERSION");
    let tags = format!("manylinux_2_17_{arch}.manylinux2014_{arch}.musllinux_1_1_{arch}");
    assert_eq!(
        wheels
            .iter()
            .map(|path| file_name(path))
            .collect::<Vec<_>>(),
        [format!("rotad-{version}-py3-none-{tags}.whl")]
    );
    let again = directory();
    let second = packed("wheel", &[], again.path());
    assert!(
        fs::read(&wheels[0]).expect("a wheel") == fs::read(&second[0]).expect("a wheel"),
        "not the same bytes twice"
    );

    let home = dir.path().join("venv");
    ok(
        venv().join("bin/python"),
        &[&"-m", &"venv", &"--without-pip", &home],
    );
    let before = files(&home);
    let pip = |arguments: &[&str]| {
        let mut pip = Command::new(venv().join("bin/pip"));
        pip.arg("--python")
            .arg(home.join("bin/python"))
            .args(["--disable-pip-version-check", "--isolated"]);
        pip.args(arguments);
        output(pip)
    };
    pip(&[
        "install",
        "--no-index",
        "--find-links",
        dir.path().to_str().expect("a path"),
        "rotad",
    ]);
    let program = home.join("bin/rotad");
    assert_eq!(ok(&program, &[&"--version"]), format!("rotad {version}\n"));
    let shown = pip(&["show", "--files", "rotad"]);
    assert!(
        shown.contains(&format!("Version: {version}\n")) && shown.contains("bin/rotad-console"),
        "{shown}"
    );
    let schema =
        fs::read_to_string(home.join("share/rotad/rotad.schema.json")).expect("the schema");
    assert_eq!(schema, ok(&program, &[&"schema"]));
    assert!(home.join("share/man/man1/rotad.1").exists());
    runs_by_itself(&program, &program);
    pip(&["uninstall", "--yes", "rotad"]);
    assert_eq!(files(&home), before, "left behind");
}

#[test]
fn an_archive_has_what_is_installed_by_hand() {
    let dir = directory();
    let name = format!("{}-unknown-linux-gnu-static", std::env::consts::ARCH);
    let archives = packed("archive", &[&name], dir.path());
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("rotad-{version}-{name}");
    assert_eq!(archives, [dir.path().join(format!("{name}.tar.gz"))]);
    ok("tar", &[&"-C", &dir.path(), &"-xzf", &archives[0]]);
    let tree = dir.path().join(name);
    assert!(tree.join("rotad-console").exists());
    let program = tree.join("rotad");
    assert_eq!(ok(&program, &[&"--version"]), format!("rotad {version}\n"));
    for (file, verb) in [
        ("rotad.1", &["man"] as &[&str]),
        ("rotad.schema.json", &["schema"]),
        ("completions/rotad.bash", &["completions", "bash"]),
    ] {
        let mut command = Command::new(&program);
        command.args(verb);
        let text = fs::read_to_string(tree.join(file)).expect(file);
        assert_eq!(text, output(command), "{file}");
    }
    for file in ["systemd/rotad.service", "rotad.toml", "LICENSE-MIT"] {
        assert!(tree.join(file).exists(), "{file}");
    }
}

/// The workflow of a release cannot be run here; what it names can be looked for.
#[test]
fn every_script_and_action_of_the_release_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workflow = fs::read_to_string(root.join(".github/workflows/release.yml")).expect("it");
    let words = workflow.split(|c: char| !(c.is_ascii_alphanumeric() || "/-._".contains(c)));
    let named: BTreeSet<&str> = words
        .filter(|word| word.starts_with("packaging/") || word.starts_with("tests/"))
        .collect();
    let scripts = ["archive", "deb", "npm", "wheel", "image/Dockerfile"];
    for path in scripts.map(|name| format!("packaging/{name}")) {
        assert!(
            named.contains(path.as_str()),
            "the release does not call {path}"
        );
    }
    for path in named {
        let mode = fs::metadata(root.join(path)).unwrap_or_else(|_| panic!("{path} is not there"));
        let executable = mode.permissions().mode() & 0o111 == 0o111;
        let is_script =
            path.starts_with("packaging/") && !path.contains('.') && !path.ends_with("Dockerfile");
        assert!(executable || !is_script, "{path} cannot be executed");
    }
    for line in workflow
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- uses: "))
    {
        let (_, commit) = line.split_once('@').expect("a version");
        let commit: String = commit.chars().take_while(char::is_ascii_hexdigit).collect();
        assert_eq!(commit.len(), 40, "{line}: a tag can be moved");
    }
}

#[test]
fn a_dynamic_binary_is_not_packed() {
    for script in ["wheel", "npm", "archive"] {
        refuses_dynamic(script);
    }
}

#[test]
fn an_npm_package_runs_the_binary_without_node() {
    if !need::program("npm") || !need::program("node") {
        return;
    }
    let dir = directory();
    let tarballs = packed("npm", &[], dir.path());
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => panic!("no package for {other}"),
    };
    let version = env!("CARGO_PKG_VERSION");
    let names: Vec<&str> = tarballs.iter().map(|path| file_name(path)).collect();
    assert_eq!(
        names,
        [
            format!("rotad-linux-{cpu}-{version}.tgz"),
            format!("rotad-{version}.tgz")
        ]
    );

    let project = dir.path().join("project");
    fs::create_dir(&project).expect("a directory");
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        "--offline",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--ignore-scripts",
    ]);
    npm.arg("--cache")
        .arg(dir.path().join("cache"))
        .args(&tarballs)
        .current_dir(&project);
    npm.env("HOME", dir.path());
    output(npm);
    let program = project.join("node_modules/.bin/rotad");
    assert_eq!(ok(&program, &[&"--version"]), format!("rotad {version}\n"));
    runs_by_itself(
        &program,
        &project.join(format!("node_modules/@rotad/linux-{cpu}/bin/rotad")),
    );
    let mut init = Command::new(&program);
    init.args(["init", "--", "node", "server.js"])
        .current_dir(&project);
    output(init);
    let text = fs::read_to_string(project.join("rotad.toml")).expect("a configuration");
    assert!(
        text.starts_with("#:schema ./node_modules/rotad/rotad.schema.json\n"),
        "{text}"
    );

    // npm leaves out what is optional and cannot be had: then the command says what is missing.
    fs::remove_dir_all(project.join("node_modules/@rotad")).expect("the binary's package");
    let mut without = Command::new(&program);
    without.arg("--version");
    let run = finish(without, 20);
    assert_eq!(run.code, 1);
    assert!(
        run.err
            .contains(&format!("@rotad/linux-{cpu} is not installed")),
        "{}",
        run.err
    );
}
