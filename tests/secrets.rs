//! What may be a secret reaches no log, and nobody but root and the owner of the configuration says what root runs.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use support::{Run, Site, need, pids, until};

const POOL: &str = "[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n";

/// A part of every value that [`variables`] sets.
const SECRET: &str = "wordthatnobodysees";

fn variables(site: &Site, command: &mut Command) {
    command
        .env("SHOP_WORD", SECRET)
        .env("SHOP_DIR", site.path(SECRET))
        .env("SHOP_EMPTY", "");
}

/// `rotad ARGUMENTS` with these variables.
fn with_variables(site: &Site, arguments: &[&str]) -> Run {
    let mut command = Command::new(support::rotad());
    command.args(arguments).arg("-c").arg(&site.config);
    variables(site, &mut command);
    support::site::finish(command, 60)
}

fn variable(pid: i32, name: &str) -> Option<String> {
    let all = std::fs::read(format!("/proc/{pid}/environ")).expect("an environment");
    let all = String::from_utf8(all).expect("text");
    let mut lines = all.split('\0');
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// All that a running master has said.
fn said(site: &Site) -> String {
    site.log() + &site.rotad(&["events", "--json"]).out + &site.rotad(&["status", "--json"]).out
}

/// A HUP, or a reload, over a broken file: where it is broken is told, and nothing of what stands there.
#[test]
fn a_broken_environment_is_not_copied_into_the_log() {
    let site = Site::up(POOL);
    let good = site.read("rotad.toml");
    for (number, broken) in [
        "env = { PW = \"SECRETVALUE }",
        "env = { PW = \"SECRETVALUE{SECRETHOLDER}\" }",
        "env = { PW = \"SECRETVALUE\", N = 77 }",
        "env = { \"SECRETVALUE NAME\" = \"x\" }",
        "env = { PW = \"SECRETVALUE\" }\nbogus = 1",
        "env_file = \"broken.env\"",
    ]
    .into_iter()
    .enumerate()
    {
        site.write(
            "broken.env",
            "SECRETVALUE without a sign\nSECRETVALUE-1=x\n",
        );
        site.write("rotad.toml", &format!("{good}\n{broken}\n"));
        site.signal(Signal::SIGHUP);
        let refused = || {
            (site
                .log()
                .matches("the configuration from before holds")
                .count()
                > 2 * number)
                .then_some(())
        };
        until("the refusal", 10, refused);
        let run = site.rotad(&["reload", "--config"]);
        assert_eq!(run.code, 78, "{broken}: {run:?}");
        assert!(
            run.err.contains(".toml:") || run.err.contains(".env:"),
            "the place: {run:?}"
        );
        let said = said(&site) + &run.err + &run.out;
        assert!(!said.contains("SECRET"), "{broken}: {said}");
        // Who checks the file by hand may read it.
        let check = site.rotad(&["check"]);
        assert_eq!(check.code, 78, "{check:?}");
        assert!(
            number > 0 || (check.err + &check.out).contains("SECRETVALUE"),
            "the line"
        );
    }
}

/// As root: an env file of another user's, or in another user's directory, could be replaced by that user.
#[test]
fn an_env_file_of_another_user_is_refused() {
    if !need::root() {
        return;
    }
    let site = Site::new(&POOL.replace("ready", "env_file = \"e/app.env\"\nready"));
    let (dir, file) = (site.path("e"), site.path("e/app.env"));
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(&file, "A=1\n").expect("a file");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    assert_eq!(site.rotad(&["check"]).code, 0);
    for (path, other) in [(&file, &dir), (&dir, &file)] {
        chown(path, Some(65534), None).expect("given away");
        chown(other, Some(0), None).expect("taken back");
        let check = site.rotad(&["check"]);
        assert_eq!(check.code, 78, "{check:?}");
        let text = check.err + &check.out;
        assert!(
            text.contains("belongs neither to root nor to the owner of the configuration"),
            "{text}"
        );
    }
    // The owner of the configuration may say anything anyway.
    chown(&site.config, Some(65534), None).expect("given away");
    chown(&file, Some(65534), None).expect("given away");
    assert_eq!(
        site.rotad(&["check"]).code,
        0,
        "{:?}",
        site.rotad(&["check"])
    );
}

/// Owner, group and mode of a pool's log: as configured, changed by a reload, kept over rotations.
#[test]
fn logs_belong_to_the_configured_user() {
    use std::os::unix::fs::MetadataExt;
    if !need::root() {
        return;
    }
    let log = "[pool.web.log]\nstdout = \"logs/web.log\"\nmax_size = \"4KiB\"\nkeep = 2\nmode = \"0604\"\nuser = \"65534\"\n";
    let lines = "[\"sh\", \"-c\", \"i=0; while [ $i -lt 500 ]; do echo a line of some width; i=$((i+1)); done; exec sleep 99\"]";
    let site = Site::up(&format!(
        "[pool.web]\ncommand = {lines}\nready = \"spawned\"\n{log}"
    ));
    let seen = |name: &str| {
        let meta = std::fs::metadata(site.path(name)).ok()?;
        Some((meta.mode() & 0o777, meta.uid(), meta.gid()))
    };
    for name in ["logs/web.log", "logs/web.log.1"] {
        until("a rotated log", 10, || {
            seen(name).filter(|seen| *seen == (0o604, 65534, 0))
        });
    }
    site.write(
        "rotad.toml",
        &site
            .read("rotad.toml")
            .replace("0604", "0640")
            .replace("\"65534\"", "\"0\"\ngroup = \"1\""),
    );
    let run = site.rotad(&["reload", "--config"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("adjusted without a restart"), "{run:?}");
    until("another mode", 10, || {
        seen("logs/web.log").filter(|seen| *seen == (0o640, 0, 1))
    });
}

const VARIABLES: &str = r#"
[pool.web]
command = ["sh", "-c", "[ \"$1\" = \"$WORD\" ] && exec sleep 1000; exit 3", "x", "{env:SHOP_WORD}"]
count = 2
env = { WORD = "{env:SHOP_WORD}", MORE = "<{env:SHOP_EMPTY:-{}{env:SHOP_EMPTY}{env:SHOP_NOT:-none}>" }
env_file = ["?{env:SHOP_DIR}/missing.env", "{env:SHOP_DIR}/own.env"]
ready = "spawned"
stop = "2s"
[pool.web.log]
stdout = "{env:SHOP_DIR}/web-{slot}.log"
[pool.web.reload]
soak = "100ms"
[pool.asked]
command = ["sleep", "1000"]
ready = "spawned"
[pool.asked.health]
http = "127.0.0.1:1/{env:SHOP_WORD}"
headers = { Authorization = "Bearer {env:SHOP_WORD}" }
every = "100ms"
failures = 2
"#;

/// `{env:…}` wherever it may stand: the workers have the values, over a reload, the master's death and their own, and
/// nothing that the master says has one. Not even when a path or a program with such a name is wrong.
#[test]
fn variables_of_the_master_reach_workers_and_no_message() {
    let mut site = Site::new(VARIABLES);
    let own = |text: &str| std::fs::write(site.path(SECRET).join("own.env"), text).expect("a file");
    std::fs::create_dir(site.path(SECRET)).expect("a directory");
    own("FILE=one\nFILE='two\nlines'\n");
    let mut command = site.run_command();
    variables(&site, &mut command);
    site.spawn(command);
    let first = site.await_status("the workers are there", 30, |status| {
        pids(status, "web").len() == 2
    });
    let have_all = |status: &serde_json::Value| {
        for pid in pids(status, "web") {
            let has = |name: &str, value: &str| {
                until("its program runs", 10, || {
                    variable(pid, name).filter(|found| found == value)
                });
            };
            has("WORD", SECRET);
            has("MORE", "<{none>");
            has("FILE", "two\nlines");
        }
    };
    have_all(&first);
    assert!(site.path(SECRET).join("web-1.log").exists());
    // The same variables: nothing has changed.
    assert_eq!(site.rotad(&["reload", "--config"]).code, 0);
    let status = site.status().expect("a status");
    assert_eq!(pids(&status, "web"), pids(&first, "web"), "{status}");
    // The next master has them, and so have the workers that it starts.
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
    let status = site.await_status("the next master", 20, |status| {
        pids(status, "web") == pids(&first, "web") && status["master"]["restarts"] == 1
    });
    assert_eq!(site.rotad(&["roll", "web"]).code, 0, "{status}");
    let rolled = site.await_status("new workers", 30, |status| {
        let now = pids(status, "web");
        now.len() == 2 && !now.iter().any(|pid| pids(&first, "web").contains(pid))
    });
    have_all(&rolled);
    site.await_log("failed its health check", 20);
    // A program, a log and an env file that are wrong.
    let good = site.read("rotad.toml");
    let mut said = String::new();
    for (number, (from, to)) in [
        ("\"sh\", \"-c\"", "\"{env:SHOP_DIR}/nothing\", \"-c\""),
        ("web-{slot}.log", "own.env/web-{slot}.log"),
        ("/own.env\"]", "/none.env\"]"),
        ("{env:SHOP_WORD}\"]", "{env:SHOP_WORD}{\"]"),
        ("{env:SHOP_WORD}\"]", "{env:SHOP_NOT}\"]"),
    ]
    .into_iter()
    .enumerate()
    {
        site.write("rotad.toml", &good.replacen(from, to, 1));
        let (reload, check) = (site.rotad(&["reload"]), with_variables(&site, &["check"]));
        assert_ne!(reload.code, 0, "{to}: {reload:?}");
        assert_eq!(
            check.code,
            if number == 0 { 0 } else { 78 },
            "{to}: {check:?}"
        );
        said += &format!("{}{}{}{}", reload.out, reload.err, check.out, check.err);
    }
    assert!(said.contains("{env:SHOP_DIR}/nothing"), "{said}");
    assert!(said.contains("{env:SHOP_DIR}/none.env"), "{said}");
    assert!(said.contains("there is no variable `SHOP_NOT`"), "{said}");
    said += &self::said(&site);
    said += &site.rotad(&["logs", "-n", "5", "web"]).err;
    said += &with_variables(&site, &["check", "--json"]).out;
    assert!(!said.contains(SECRET), "{said}");
}

/// Without a variable there is no start, and no change.
#[test]
fn a_variable_that_is_not_set_is_an_error() {
    let site = Site::new(&POOL.replace("\"wait\"", "\"wait\", \"--say\", \"{env:SHOP_WORD}\""));
    for verb in ["check", "start", "run"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 78, "{run:?}");
        let text = run.err + &run.out;
        assert!(text.contains("there is no variable `SHOP_WORD`"), "{text}");
        assert!(text.contains("{env:SHOP_WORD:-DEFAULT}"), "{text}");
    }
    assert_eq!(with_variables(&site, &["check"]).code, 0);
}

/// What `user` takes away from the environment is named when a worker dies of it: by its name, and only where the worker's
/// output asks for it.
#[test]
fn a_cleared_variable_is_named_when_a_worker_dies_of_it() {
    let pool = |script: &str, more: &str| {
        format!(
            "[pool.web]\ncommand = [\"sh\", \"-c\", '''{script}''']\nready = \"notify\"\nready_timeout = \"20s\"\n{more}\n"
        )
    };
    let dies = "echo \"KeyError: 'SHOP_WORD'\"; exit 1";
    let hint = "pass_env = [\"SHOP_WORD\"], or clear_env = false";
    for (script, more, is_named) in [
        (dies, "clear_env = true", true),
        (dies, "", false),
        (dies, "clear_env = true\npass_env = [\"SHOP_*\"]", false),
        ("echo no such thing; exit 1", "clear_env = true", false),
    ] {
        let site = Site::new(&pool(script, more));
        let run = with_variables(&site, &["start"]);
        assert_eq!(run.code, 1, "{run:?}");
        assert_eq!(run.err.contains(hint), is_named, "{more}: {run:?}");
        assert!(!(run.err + &run.out + &site.log()).contains(SECRET));
        assert_eq!(
            site.log().contains("which this worker seems to want"),
            is_named
        );
    }
}
