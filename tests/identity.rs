//! One master for one configuration, and it can always be reached: by the path that was given and by the real one, over
//! turned links, removed directories and broken files, by other users; and nobody can keep it from starting.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::site::{finish, verb};
use support::{Run, Site, need, never, pids, pool, proc, until};

const NOBODY: u32 = 65534;
const GROUP: u32 = 33;
/// One that every user may run.
const PYTHON: &str = "/usr/bin/python3";

const JOBS: &str = r#"
[pool.jobs]
command = ["@COPY@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
stop = "2s"
"#;

/// A site whose files every user can read, with a binary that every user can run.
fn open_site(pools: &str) -> Site {
    let site = Site::new(pools);
    fs::copy(support::rotad(), site.path("rotad")).expect("a copy that every user may run");
    site
}

/// `rotad …` as this user, with a home of its own in the site.
fn as_user(site: &Site, uid: u32, groups: &str, arguments: &[&str]) -> Run {
    finish(user_command(site, uid, groups, arguments), 60)
}

fn user_command(site: &Site, uid: u32, groups: &str, arguments: &[&str]) -> Command {
    let home = site.path(&format!("home-{uid}"));
    if !home.exists() {
        fs::create_dir(&home).expect("a home");
        chown(&home, Some(uid), Some(uid)).expect("a home of its own");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.arg(site.path("rotad")).args(arguments);
    command
        .env("HOME", home)
        .env_remove("XDG_STATE_HOME")
        .env_remove("ROTAD_CONFIG");
    command
}

fn other_users() -> bool {
    need::root() && need::program("setpriv")
}

/// `shop/releases/N`, each with its configuration, and `shop/current`, a link to one of them.
struct Releases<'s> {
    site: &'s Site,
    shop: PathBuf,
    master: String,
}

impl<'s> Releases<'s> {
    /// `master`: keys of `[master]`.
    fn new(site: &'s Site, shop: &str, master: &str) -> Self {
        let releases = Self {
            site,
            shop: site.path(shop),
            master: site.filled(master),
        };
        releases.deploy(1);
        releases.turn(1);
        releases
    }

    fn deploy(&self, number: u32) {
        let dir = self.release(number);
        fs::create_dir_all(&dir).expect("a release");
        let text = format!(
            "[master]\n{}\n{JOBS}env = {{ RELEASE = \"{number}\" }}\n",
            self.master
        );
        fs::write(dir.join("rotad.toml"), self.site.filled(&text)).expect("a configuration");
    }

    fn release(&self, number: u32) -> PathBuf {
        self.shop.join(format!("releases/{number}"))
    }

    /// As a deploy does it: in one moment.
    fn turn(&self, number: u32) {
        symlink(format!("releases/{number}"), self.shop.join("next")).expect("a link");
        fs::rename(self.shop.join("next"), self.shop.join("current")).expect("a turned link");
    }

    /// `cd FOLDER; rotad …`, by a shell, or by a program that leaves $PWD alone.
    fn cd(&self, dir: &str, shell: bool, arguments: &[&str]) -> Run {
        let mut command = Command::new("sh");
        let script = "cd \"$1\" && shift && exec \"$@\"";
        command
            .args(["-c", script, "sh"])
            .arg(self.shop.join(dir))
            .arg(support::rotad())
            .args(arguments);
        if !shell {
            command = Command::new(support::rotad());
            command
                .current_dir(self.shop.join(dir))
                .env_remove("PWD")
                .args(arguments);
        }
        command.env_remove("ROTAD_CONFIG");
        finish(command, 60)
    }

    fn serves(&self, number: u32) {
        // Those of the release before may still be on their way out.
        let status = until("only those that stay", 20, || {
            let run = self.cd("current", true, &["status", "--json"]);
            assert_eq!(run.code, 0, "{run:?}");
            let status: serde_json::Value = serde_json::from_str(&run.out).expect("a status");
            let alone =
                support::pool(&status, "jobs")["alive"] == support::pool(&status, "jobs")["wanted"];
            alone.then_some(status)
        });
        assert_eq!(
            status["master"]["config"],
            self.shop.join("current/rotad.toml").display().to_string()
        );
        for pid in pids(&status, "jobs") {
            let environment = fs::read(format!("/proc/{pid}/environ")).expect("its environment");
            let wanted = format!("RELEASE={number}");
            assert!(
                environment
                    .split(|byte| *byte == 0)
                    .any(|one| one == wanted.as_bytes()),
                "not release {number}"
            );
            let dir = fs::read_link(format!("/proc/{pid}/cwd")).expect("its directory");
            assert_eq!(
                dir,
                self.release(number),
                "relative paths are the new release's"
            );
        }
    }
}

/// Deploys and turns a link: `cd current; rotad reload` brings the new release, also when the first one is gone.
fn a_deploy(releases: &Releases<'_>) {
    let run = releases.cd("current", true, &["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    releases.serves(1);
    releases.deploy(2);
    releases.turn(2);
    let run = releases.cd("current", true, &["reload"]);
    assert_eq!(run.code, 0, "{run:?}");
    releases.serves(2);
    // The directory by its real name, as a deploy tool goes there; also before the master has read it.
    assert_eq!(releases.cd("releases/2", false, &["status"]).code, 0);
    releases.deploy(3);
    releases.turn(3);
    fs::remove_dir_all(releases.release(1)).expect("the first release");
    fs::remove_dir_all(releases.release(2)).expect("the second release");
    let run = releases.cd("releases/3", false, &["reload"]);
    assert_eq!(run.code, 0, "{run:?}");
    releases.serves(3);
    for (dir, shell) in [
        ("current", true),
        ("releases/3", true),
        ("releases/3", false),
    ] {
        let run = releases.cd(dir, shell, &["start"]);
        assert_eq!(run.code, 75, "{dir}: {run:?}");
    }
    // And by the path, from anywhere.
    let path = releases.shop.join("current/rotad.toml");
    assert_eq!(verb(&path, &["roll"], 30).code, 0);
    let run = releases.cd("current", true, &["stop"]);
    assert_eq!((run.code, run.out.as_str()), (0, "stopped\n"), "{run:?}");
    releases.site.assert_empty();
}

#[test]
fn a_turned_link_brings_the_new_release() {
    let site = open_site(JOBS);
    let keys = "name = \"shop\"\nruntime_dir = \"@DIR@/run\"\nlog_file = \"@DIR@/master.log\"";
    a_deploy(&Releases::new(&site, "shop", keys));
}

/// A relative runtime directory is the release's own, and moves along with each reload.
#[test]
fn a_runtime_directory_in_the_release_moves_along() {
    let site = open_site(JOBS);
    let releases = Releases::new(
        &site,
        "shop",
        "name = \"shop\"\nruntime_dir = \"run\"\nlog_file = \"@DIR@/master.log\"",
    );
    let check = releases.cd("current", true, &["check"]);
    assert!(
        check.code == 0 && check.text().contains("part of the release"),
        "{check:?}"
    );
    a_deploy(&releases);
    assert!(releases.release(3).join("run/master.lock").exists());
    assert!(
        !releases.release(1).exists(),
        "a deleted release stays deleted"
    );
}

/// Without a name the directory above `current` gives it, and with it the place of the control socket.
#[test]
fn a_turned_link_brings_the_new_release_without_a_name() {
    if !need::root() {
        return;
    }
    let site = open_site(JOBS);
    let name = format!("rt-shop-{}", std::process::id());
    let releases = Releases::new(&site, &name, "log_file = \"@DIR@/master.log\"");
    let place = Path::new("/run/rotad").join(&name);
    a_deploy(&releases);
    assert!(
        place.join("master.lock").exists(),
        "named after the directory above the link"
    );
    fs::remove_dir_all(&place).expect("the runtime directory");
    for number in 1..=3 {
        assert!(
            !Path::new("/run/rotad").join(number.to_string()).exists(),
            "a refused start leaves nothing"
        );
    }
}

/// HUP reads the path that was given, whatever became of the file that it led to.
#[test]
fn hup_follows_a_turned_link() {
    let mut site = open_site(JOBS);
    let keys = "name = \"shop\"\nruntime_dir = \"@DIR@/run\"\npid_file = \"@DIR@/master.pid\"\nwatch_config = true";
    let releases = Releases::new(&site, "shop", keys);
    let (shop, first) = (releases.shop.clone(), releases.release(1));
    let status = |number: u32| {
        let run = verb(&shop.join("current/rotad.toml"), &["status", "--json"], 30);
        let status: serde_json::Value = serde_json::from_str(&run.out).ok()?;
        let pid = *pids(&status, "jobs").first()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let wanted = format!("RELEASE={number}");
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted.as_bytes())
            .then_some(())
    };
    drop(releases);
    let mut command = Command::new(support::rotad());
    command
        .arg("run")
        .arg("-c")
        .arg(shop.join("current/rotad.toml"));
    site.spawn(command);
    until("release 1", 20, || status(1));
    let releases = Releases {
        site: &site,
        shop: shop.clone(),
        master: site.filled(keys),
    };
    releases.deploy(2);
    // watch_config alone notices that the link was turned.
    releases.turn(2);
    until("release 2, by watch_config", 20, || status(2));
    fs::remove_dir_all(first).expect("the first release");
    releases.deploy(3);
    fs::remove_file(shop.join("current")).expect("no link");
    symlink("releases/3", shop.join("current")).expect("a link");
    site.signal(Signal::SIGHUP);
    until("release 3, by HUP", 20, || status(3));
}

/// A ConfigMap: the file is a link into `..data`, itself a link that is turned.
#[test]
fn a_config_map_is_followed() {
    let mut site = open_site(JOBS);
    let map = site.path("map");
    fs::create_dir(&map).expect("a directory");
    let keys =
        "[master]\nname = \"map\"\nruntime_dir = \"@DIR@/run\"\npid_file = \"@DIR@/master.pid\"\n";
    let filled = site.filled(&format!("{keys}{JOBS}"));
    let update = |version: u32, count: u32| {
        let dir = map.join(format!("..{version}"));
        fs::create_dir(&dir).expect("a version");
        let text = filled.replace("stop =", &format!("count = {count}\nstop ="));
        fs::write(dir.join("rotad.toml"), text).expect("a configuration");
        symlink(format!("..{version}"), map.join("..new")).expect("a link");
        fs::rename(map.join("..new"), map.join("..data")).expect("a turned link");
    };
    update(1, 1);
    symlink("..data/rotad.toml", map.join("rotad.toml")).expect("a link");
    let config = map.join("rotad.toml");
    let wanted = |count: u32| {
        let run = verb(&config, &["status", "--json"], 30);
        let status: serde_json::Value = serde_json::from_str(&run.out).ok()?;
        (pool(&status, "jobs")["ready"] == count).then_some(())
    };
    let mut command = Command::new(support::rotad());
    command.arg("run").arg("-c").arg(&config);
    site.spawn(command);
    until("one worker", 20, || wanted(1));
    update(2, 2);
    fs::remove_dir_all(map.join("..1")).expect("the version before");
    assert_eq!(
        verb(&config, &["status"], 30).code,
        0,
        "reached although the real path is another one"
    );
    site.signal(Signal::SIGHUP);
    until("two workers", 20, || wanted(2));
}

/// A link that others can turn would be turned to a file of theirs, which root reads at the next HUP.
#[test]
fn a_link_that_others_can_turn_is_refused() {
    if !need::root() {
        return;
    }
    let site = open_site(JOBS);
    for name in ["open", "release"] {
        fs::create_dir(site.path(name)).expect("a directory");
    }
    fs::copy(&site.config, site.path("release/rotad.toml")).expect("a configuration");
    symlink(site.path("release"), site.path("open/current")).expect("a link");
    let config = site.path("open/current/rotad.toml");
    assert_eq!(verb(&config, &["check"], 30).code, 0);
    fs::set_permissions(site.path("open"), fs::Permissions::from_mode(0o777)).expect("open to all");
    let run = verb(&config, &["check"], 30);
    assert_eq!(run.code, 78, "{run:?}");
    assert!(
        run.text().contains("writable by others") && run.text().contains("/open"),
        "{run:?}"
    );
}

/// A client that names a file that the master does not run is told which one it runs, and what to type.
#[test]
fn the_master_of_another_file_says_what_to_do() {
    let site = Site::up(&JOBS.replace("@COPY@", "@WORKER@"));
    let other = site.write("other.toml", &site.read("rotad.toml"));
    let run = verb(&other, &["stop"], 30);
    assert_eq!(run.code, 4, "{run:?}");
    for text in [
        format!("this is the master of {}", site.config.display()),
        "rotad stop -c".into(),
        "name".into(),
    ] {
        assert!(run.err.contains(&text), "{text}: {run:?}");
    }
}

/// A cleaner takes files of a living master, one by one and all together: they are there again immediately, nothing was
/// restarted, and a second master is refused at every moment.
#[test]
fn removed_runtime_files_are_restored() {
    let site = Site::up(&JOBS.replace("@COPY@", "@WORKER@"));
    let status = site.await_ready();
    let (master, workers) = (site.pid(), pids(&status, "jobs"));
    let run = site.path("run");
    let notify = run.join("notify").join(
        fs::read_dir(run.join("notify"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .file_name(),
    );
    let all = [
        "run/control.sock",
        "run/master.lock",
        "run/workers",
        "master.pid",
    ];
    let there = || all.iter().all(|name| site.path(name).exists()) && notify.exists();
    let back = |what: &str| {
        until(&format!("{what} is there again"), 90, || {
            there().then_some(())
        })
    };
    for name in all {
        fs::remove_file(site.path(name)).expect(name);
        back(name);
        assert_eq!(site.pid(), master);
    }
    fs::remove_file(&notify).expect("a worker's notify socket");
    back("a notify socket");
    fs::remove_dir_all(&run).expect("the runtime directory");
    assert_eq!(
        site.rotad(&["start"]).code,
        75,
        "in the moment without a directory"
    );
    assert_eq!(
        site.rotad(&["status"]).code,
        0,
        "reached without a directory"
    );
    back("everything");
    assert_eq!(site.rotad(&["run"]).code, 75);
    let lock = run.join("master.lock").metadata().expect("the lock");
    assert_eq!(lock.mode() & 0o777, 0o600);
    let journal = fs::read_to_string(run.join("workers")).expect("the list of workers");
    assert!(journal.contains(&workers[0].to_string()), "{journal}");
    let status = site.await_ready();
    assert_eq!(pids(&status, "jobs"), workers, "nobody was restarted");
    assert!(site.rotad(&["events"]).out.contains("restored"));
    let stop = site.rotad(&["stop"]);
    assert_eq!((stop.code, stop.out.as_str()), (0, "stopped\n"));
    site.assert_empty();
    assert!(!run.join("control.sock").exists() && !site.path("master.pid").exists());
}

/// A master that stops is found and reached until its last worker has ended: what of its files is removed meanwhile is made
/// again, although inotify is given up when the stop begins.
#[test]
fn files_removed_during_a_stop_are_restored() {
    let deaf = "[pool.deaf]\ncommand = [\"@WORKER@\", \"deaf\", \"--notify\"]\nready = \"notify\"\nstop = \"10m\"\n";
    let mut site = Site::up(deaf);
    let worker = pids(&site.await_ready(), "deaf")[0];
    site.signal(Signal::SIGTERM);
    until("the stop has begun", 10, || {
        let mut events = site.events().into_iter();
        events.find(|event| event["event"] == "master-stopping")
    });
    for name in ["master.pid", "run/control.sock"] {
        fs::remove_file(site.path(name)).expect(name);
        until(&format!("{name} is there again"), 30, || {
            site.path(name).exists().then_some(())
        });
    }
    let status = site.status().expect("a master that stops");
    assert_eq!(pids(&status, "deaf"), [worker]);
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("the worker");
    site.await_exit(10);
    site.assert_empty();
    assert!(!site.path("master.pid").exists());
}

/// Made again at HUP and RTMIN as well, where nothing was heard: the directory above was exchanged.
#[test]
fn a_moved_runtime_directory_is_restored_at_hup_and_rtmin() {
    let text = JOBS.replace("@COPY@", "@WORKER@");
    let mut site = Site::new(&text);
    fs::create_dir(site.path("above")).expect("a directory");
    site.configure(&format!(
        "{}{text}",
        support::site::MASTER.replace("@DIR@/run", "@DIR@/above/run")
    ));
    site.run();
    site.await_ready();
    for signal in [nix::libc::SIGHUP, nix::libc::SIGRTMIN()] {
        fs::rename(site.path("above"), site.path(&format!("moved-{signal}"))).expect("moved");
        assert_eq!(
            site.rotad(&["stop", "nobody"]).code,
            4,
            "reached nevertheless: no such pool"
        );
        let pid = site.pid().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status()
            .expect("kill");
        assert!(sent.success());
        until("a control socket", 10, || {
            site.path("above/run/control.sock").exists().then_some(())
        });
    }
}

/// A process that removes the directory again and again costs little, and a master that is left alone sleeps.
#[test]
fn repeated_removal_is_repaired_at_a_bounded_rate() {
    let site = Site::up(&JOBS.replace("@COPY@", "@WORKER@"));
    let master = site.pid();
    let ticks = || {
        let stat = proc::stat(master).expect("the master");
        // utime and stime of /proc/PID/stat, hundredths of a second.
        stat[11].parse::<u64>().unwrap_or(0) + stat[12].parse::<u64>().unwrap_or(0)
    };
    let before = ticks();
    never("nothing of it is ever an answer", 5.0, || {
        fs::remove_dir_all(site.path("run")).ok();
        None::<()>
    });
    assert!(ticks() - before < 100, "{} ticks in 5 s", ticks() - before);
    let log = site.log();
    let failed = log.matches("all pools serve, signals are heard").count();
    let tried = failed + site.rotad(&["events"]).out.matches("restored").count();
    assert!((1..=5).contains(&tried), "{tried} times: {log}");
    until("it is there again", 90, || {
        site.path("run/control.sock").exists().then_some(())
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// `stop` and `status` with a file that cannot be read, is broken above `[master]`, or is gone: the master is found by the
/// file's path. Where none is found, `stop` does not claim that nothing runs.
#[test]
fn a_broken_or_removed_file_finds_its_master() {
    let site = Site::up(&JOBS.replace("@COPY@", "@WORKER@"));
    let text = site.read("rotad.toml");
    for broken in ["", "foo = [\n", "# nothing\n"] {
        site.write("rotad.toml", broken);
        assert_eq!(site.rotad(&["status"]).code, 0, "{broken:?}");
    }
    site.write("rotad.toml", &format!("foo = [\n{text}"));
    assert_eq!(site.rotad(&["status"]).code, 0);
    fs::remove_file(&site.config).expect("the file");
    assert_eq!(site.rotad(&["status"]).code, 0, "a removed file");
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 78, "{run:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
    // Nobody runs now, but who could know?
    let run = site.rotad(&["stop"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err.contains("cannot be read") && run.err.contains("control.sock"),
        "{run:?}"
    );
    assert_eq!(
        site.rotad(&["status"]).code,
        78,
        "a name that means no file and no master"
    );
    for broken in ["", "foo = [\n"] {
        site.write("rotad.toml", broken);
        let run = site.rotad(&["stop"]);
        assert_eq!(run.code, 1, "{broken:?}: {run:?}");
        assert_eq!(site.rotad(&["status"]).code, 4);
    }
    site.write("rotad.toml", &text);
    let run = site.rotad(&["stop"]);
    assert_eq!(
        run.code, 0,
        "the file says where its master would be: {run:?}"
    );
    assert!(run.out.contains("nothing is running"), "{run:?}");
}

/// The configuration names another runtime directory: the master that runs in the old one is still found.
#[test]
fn a_changed_runtime_directory_finds_its_master() {
    let site = Site::up(&JOBS.replace("@COPY@", "@WORKER@"));
    site.edit(
        "@DIR@/run"
            .replace(
                "@DIR@",
                site.path("").display().to_string().trim_end_matches('/'),
            )
            .as_str(),
        "@DIR@/elsewhere",
    );
    assert_eq!(site.rotad(&["status"]).code, 0);
    assert_eq!(site.rotad(&["start"]).code, 75);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A master killed by -9: `stop` and `status` name the workers that it left.
#[test]
fn a_killed_masters_workers_are_named() {
    let site = Site::new(
        &JOBS
            .replace("@COPY@", "@WORKER@")
            .replace("stop =", "count = 2\nstop ="),
    );
    assert_eq!(site.rotad(&["start"]).code, 0);
    let (master, workers) = (site.pid(), pids(&site.await_ready(), "jobs"));
    proc::kill_with_guardian(master);
    for (arguments, code) in [(&["stop"][..], 1), (&["status"], 4)] {
        let run = site.rotad(arguments);
        assert_eq!(run.code, code, "{run:?}");
        assert!(
            workers
                .iter()
                .all(|worker| run.err.contains(&worker.to_string())),
            "{run:?}"
        );
        assert!(run.err.contains("rotad start"), "{run:?}");
    }
    assert!(workers.iter().all(|worker| !proc::gone(*worker)));
}

/// `group` without `user`: the master's own user, its environment and its other groups, with another first group. Only root
/// can take one.
#[test]
fn workers_have_a_group_without_a_user() {
    if !other_users() {
        return;
    }
    let site = open_site(
        "[pool.web]\ncommand = [\"sh\", \"-c\", \"id -u; id -g; echo $SHOP_WORD; exec sleep 1000\"]\n\
         ready = \"spawned\"\ngroup = \"65534\"\nstop = \"1s\"\n[pool.web.log]\nstdout = \"@DIR@/web.log\"\n",
    );
    let mut command = site.run_command();
    command.env("SHOP_WORD", "kept");
    let mut site = site;
    site.spawn(command);
    until("its output", 20, || {
        (site.read("web.log") == "0\n65534\nkept\n").then_some(())
    });
    let pid = support::pids(&site.await_ready(), "web")[0];
    let groups = |pid| support::proc::status(pid, "Groups");
    assert_eq!(groups(pid), groups(site.pid()));
    // An unprivileged master cannot take it, and says so.
    let check = as_user(
        &site,
        12345,
        "65534",
        &["check", "-c", site.config.to_str().expect("a path")],
    );
    assert_eq!(check.code, 78, "{check:?}");
    assert!(
        check.err.contains("only root can take the group `65534`"),
        "{check:?}"
    );
}

/// `[control] group` needs nothing else: a user of that group reaches root's master in its default place, and cannot
/// start a second one.
#[test]
fn a_group_reaches_the_master_in_its_default_place() {
    if !other_users() {
        return;
    }
    let site = open_site(JOBS);
    let name = format!("rt-group-{}", std::process::id());
    let place = Path::new("/run/rotad").join(&name);
    let head = format!(
        "[master]\nname = {name:?}\nlog_file = \"@DIR@/master.log\"\n[control]\ngroup = \"www-data\"\n"
    );
    site.configure(&format!("{head}{JOBS}"));
    assert_eq!(site.rotad(&["start"]).code, 0);
    let config = site.config.display().to_string();
    let group = GROUP.to_string();
    let asks = |groups: &str, verb: &[&str]| {
        as_user(&site, NOBODY, groups, &[verb, &["-c", &config]].concat())
    };
    for verb in [&["status"][..], &["roll"], &["logs"], &["events"]] {
        let run = asks(&group, verb);
        assert_eq!(run.code, 0, "{verb:?}: {run:?}");
    }
    for verb in [&["start"][..], &["run"]] {
        let run = asks(&group, verb);
        assert_eq!(run.code, 75, "{verb:?}: {run:?}");
    }
    // Who is not in the group is told whose it is, and never that nothing runs.
    for verb in [&["status"][..], &["stop"], &["reload"]] {
        let run = asks("", verb);
        assert_eq!(run.code, 5, "{verb:?}: {run:?}");
        assert!(
            run.err.contains("uid 0 (pid ") && run.err.contains("sudo "),
            "{verb:?}: {run:?}"
        );
        assert!(!run.err.contains("rotad start"), "{run:?}");
    }
    assert_eq!(asks("", &["start"]).code, 75);
    let run = asks(&group, &["stop"]);
    assert_eq!((run.code, run.out.as_str()), (0, "stopped\n"), "{run:?}");
    site.assert_empty();
    fs::remove_dir_all(place).expect("the runtime directory");
}

/// A master of an ordinary user, asked by root, who looks elsewhere: told, and never taken for nobody.
#[test]
fn root_is_told_of_another_users_master() {
    if !other_users() {
        return;
    }
    let site = open_site(JOBS);
    let head = format!("[master]\nname = \"rt-users-{}\"\n", std::process::id());
    site.configure(&format!("{head}{JOBS}"));
    let config = site.config.display().to_string();
    let run = as_user(&site, NOBODY, "", &["start", "-c", &config]);
    assert_eq!(run.code, 0, "{run:?}");
    for verb in [&["stop"][..], &["status"], &["roll"]] {
        let run = site.rotad(verb);
        assert_eq!(run.code, 4, "{verb:?}: {run:?}");
        assert!(
            run.err.contains(&format!("uid {NOBODY} (pid ")) && run.err.contains("sudo -u nobody"),
            "{run:?}"
        );
    }
    assert_eq!(
        as_user(&site, NOBODY, "", &["status", "-c", &config]).code,
        0
    );
    // Another user's claim does not keep root from starting what is root's own file; the owner's would.
    chown(&site.config, Some(NOBODY), None).expect("his file");
    assert_eq!(site.rotad(&["start"]).code, 75);
    let run = as_user(&site, NOBODY, "", &["stop", "-c", &config]);
    assert_eq!((run.code, run.out.as_str()), (0, "stopped\n"), "{run:?}");
    site.assert_empty();
}

/// Holds a lock until dropped.
struct Holds(Child);

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// `flock KIND FILE` as nobody, once it has it.
fn locked_by_nobody(kind: &str, file: &Path) -> Holds {
    let inode = file.metadata().expect("the file").ino().to_string();
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "flock",
            kind,
        ])
        .arg(file);
    command
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Holds(command.spawn().expect("flock"));
    until("the lock is held", 10, || {
        let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
        locks
            .lines()
            .any(|line| line.contains("FLOCK") && line.contains(&format!(":{inode} ")))
            .then_some(())
    });
    child
}

/// A stranger locks what he may read: an older, readable lock file, and the pid file of a killed master. Neither keeps
/// root from starting; and a new lock file is nobody else's to open.
#[test]
fn an_untrusted_lock_does_not_prevent_a_start() {
    if !other_users() || !need::program("flock") {
        return;
    }
    let site = Site::new(&JOBS.replace("@COPY@", "@WORKER@"));
    assert_eq!(site.rotad(&["start"]).code, 0);
    let lock = site.path("run/master.lock");
    assert_eq!(lock.metadata().expect("the lock").mode() & 0o777, 0o600);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644))
        .expect("as older versions made it");
    for kind in ["-s", "-x"] {
        let _held = locked_by_nobody(kind, &lock);
        let run = site.rotad(&["stop"]);
        assert_eq!(run.code, 0, "not a master's lock: {run:?}");
        let run = site.rotad(&["status"]);
        assert_eq!(run.code, 4, "{run:?}");
        assert!(run.took < Duration::from_secs(3), "{run:?}");
        let run = site.rotad(&["start"]);
        assert_eq!(run.code, 0, "{kind}: {run:?}");
        assert_eq!(site.rotad(&["start"]).code, 75);
        assert_eq!(site.rotad(&["stop"]).code, 0);
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).expect("again");
    }
    // The pid file stays readable, so its lock is nobody's word either.
    fs::write(site.path("master.pid"), "1\n").expect("a stale pid file");
    let _held = locked_by_nobody("-x", &site.path("master.pid"));
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// The lock of a stranger on another file system, on an inode of the same number.
#[test]
fn a_lock_on_another_file_system_means_nothing() {
    if !other_users() || !need::program("flock") || !need::program("unshare") {
        return;
    }
    let site = Site::new(&JOBS.replace("@COPY@", "@WORKER@"));
    let text = site.read("rotad.toml").replace(
        &site.path("run").display().to_string(),
        &site.path("a/run").display().to_string(),
    );
    site.write("rotad.toml", &text);
    for name in ["a", "b"] {
        fs::create_dir(site.path(name)).expect("a directory");
    }
    let script = r#"
        set -e
        mount -t tmpfs none a; mount -t tmpfs -o mode=0755 none b
        "$ROTAD" start -c rotad.toml > /dev/null; "$ROTAD" stop -c rotad.toml > /dev/null
        inode=$(stat -c %i a/run/master.lock)
        n=0; while :; do n=$((n + 1)); : > b/$n; [ "$(stat -c %i b/$n)" -lt "$inode" ] || break; done
        [ "$(stat -c %i b/$n)" = "$inode" ]
        setpriv --reuid 65534 --regid 65534 --clear-groups flock -s b/$n sleep 1000 & holder=$!
        while ! grep -q "FLOCK.*:$inode " /proc/locks; do :; done
        set +e
        "$ROTAD" stop -c rotad.toml; echo "stop $?"
        "$ROTAD" status -c rotad.toml; echo "status $?"
        kill $holder
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .current_dir(site.path(""));
    command
        .env("ROTAD", support::rotad())
        .env("PWD", site.path(""));
    let run = finish(command, 60);
    assert!(
        run.out.contains("stop 0") && run.out.contains("status 4"),
        "{run:?}"
    );
    assert!(run.took < Duration::from_secs(20), "{run:?}");
}

/// A stranger sits on the abstract names of a configuration: the master starts, is found without its directory and without
/// its file, and stays the only one.
#[test]
fn another_user_on_the_presence_socket_changes_nothing() {
    if !other_users() || !need(PYTHON, Path::new(PYTHON).exists()) {
        return;
    }
    let site = Site::new(&JOBS.replace("@COPY@", "@WORKER@"));
    let names = || {
        let table = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
        let names = table
            .lines()
            .filter_map(|line| line.split_once("@rotad/"))
            .map(|(_, name)| name.to_owned());
        names.collect::<std::collections::BTreeSet<String>>()
    };
    let before = names();
    assert_eq!(site.rotad(&["start"]).code, 0);
    let pid = site.pid();
    assert_eq!(site.rotad(&["stop"]).code, 0);
    until("the master is gone", 5, || proc::gone(pid).then_some(()));
    // The same name again, whatever other tests put up meanwhile: it is the one that comes at the next start.
    assert_eq!(site.rotad(&["start"]).code, 0);
    let inodes: Vec<u64> = proc::descriptors(site.pid())
        .values()
        .filter_map(|what| {
            what.strip_prefix("socket:[")?
                .trim_end_matches(']')
                .parse()
                .ok()
        })
        .collect();
    let table = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    let own = table.lines().filter(|line| {
        line.split_whitespace()
            .nth(6)
            .and_then(|inode| inode.parse().ok())
            .is_some_and(|inode: u64| inodes.contains(&inode))
    });
    let name = own
        .filter_map(|line| line.split_once('@'))
        .map(|(_, name)| name.to_owned())
        .next()
        .expect("a sign");
    assert!(
        !before.contains(name.trim_start_matches("rotad/")),
        "{name}"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.bind('\\0' + sys.argv[1]); s.listen(1)\n\
        print('sits', flush=True)\n\
        while True: s.accept()";
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        PYTHON,
        "-c",
        script,
        &name,
    ]);
    let said = fs::File::create(site.path("squatter")).expect("a file");
    let _sits = Holds(command.stdout(said).spawn().expect("a stranger"));
    until("he sits there", 10, || {
        site.read("squatter").contains("sits").then_some(())
    });
    assert_eq!(site.rotad(&["status"]).code, 4);
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    fs::remove_file(site.path("run/control.sock")).expect("the control socket");
    let text = site.read("rotad.toml");
    site.write("rotad.toml", "");
    assert_eq!(site.rotad(&["status"]).code, 0, "found beside him");
    site.write("rotad.toml", &text.replace("/run\"", "/other\""));
    assert_eq!(
        site.rotad(&["start"]).code,
        75,
        "a second master beside him"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// Strangers who connect to the abstract socket by the thousand learn where the control socket is, and nothing else; the
/// master answers its own user meanwhile.
#[test]
fn a_flood_on_the_presence_socket_is_survived() {
    if !other_users() || !need(PYTHON, Path::new(PYTHON).exists()) {
        return;
    }
    let mut site = Site::up(&JOBS.replace("@COPY@", "@WORKER@"));
    let table = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    let names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_once('@'))
        .map(|(_, name)| name)
        .collect();
    let script = "import socket, sys\n\
        names = [n for n in sys.argv[1:] if n.startswith('rotad/')]\n\
        said = set()\n\
        for i in range(3000):\n\
        \x20   for n in names:\n\
        \x20       try:\n\
        \x20           s = socket.socket(socket.AF_UNIX); s.settimeout(2); s.connect('\\0' + n)\n\
        \x20           if i == 0: said.add(s.recv(4096))\n\
        \x20       except OSError: pass\n\
        print(said)";
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            PYTHON,
            "-c",
            script,
        ])
        .args(&names);
    let said = fs::File::create(site.path("said")).expect("a file");
    let mut flood = Holds(command.stdout(said).spawn().expect("strangers"));
    let mut worst = Duration::ZERO;
    until("the end of the flood", 120, || {
        let asked = Instant::now();
        assert!(site.status().is_some(), "an answer");
        worst = worst.max(asked.elapsed());
        flood.0.try_wait().expect("a child")
    });
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    let said = site.read("said");
    assert!(
        said.contains(&site.path("run").display().to_string()),
        "{said}"
    );
    assert!(
        !said.contains("rotad.toml"),
        "the path of the configuration is nobody's business: {said}"
    );
    assert!(site.master_lives());
}

/// What cannot be named over the control socket is refused at the start, with 78 and a clear text.
#[test]
fn a_path_that_is_not_utf8_is_refused() {
    let site = Site::new(&JOBS.replace("@COPY@", "@WORKER@"));
    let odd = site
        .path("")
        .join(std::ffi::OsStr::from_bytes(b"x\xff\xfe"));
    fs::create_dir(&odd).expect("a directory");
    fs::copy(&site.config, odd.join("rotad.toml")).expect("a configuration");
    let refused = |config: &Path, verbs: &[&str]| {
        for verb in verbs {
            let run = support::site::verb(config, &[verb], 30);
            assert_eq!(run.code, 78, "{verb}: {run:?}");
            assert!(
                run.err.contains("UTF-8") && run.err.contains("\\xff"),
                "{verb}: {run:?}"
            );
        }
    };
    refused(
        &odd.join("rotad.toml"),
        &["check", "start", "run", "status", "stop"],
    );
    // Through a link with a fine name.
    symlink(&odd, site.path("fine")).expect("a link");
    refused(&site.path("fine/rotad.toml"), &["check", "start"]);
    // A file that `include` finds.
    fs::create_dir(site.path("conf.d")).expect("a directory");
    fs::write(
        site.path("conf.d")
            .join(std::ffi::OsStr::from_bytes(b"\xff.toml")),
        "",
    )
    .expect("a file");
    let text = site.read("rotad.toml");
    site.write(
        "rotad.toml",
        &format!("include = [\"conf.d/*.toml\"]\n{text}"),
    );
    refused(&site.config, &["check", "start"]);
    // A default that comes from the environment.
    site.write(
        "rotad.toml",
        &JOBS
            .replace("@COPY@", "sleep")
            .replace("\"wait\"", "\"1000\""),
    );
    if other_users() {
        fs::copy(support::rotad(), site.path("rotad")).expect("a copy that every user may run");
        let config = site.config.display().to_string();
        let mut command = user_command(&site, NOBODY, "", &["start", "-c", &config]);
        command.env("XDG_STATE_HOME", &odd);
        let run = finish(command, 30);
        assert_eq!(run.code, 78, "{run:?}");
        assert!(run.err.contains("XDG_STATE_HOME"), "{run:?}");
    }
    site.assert_empty();
}
