//! What people type who come from other tools: each habit has its answer, in one line, and none does harm.

mod support;

use std::process::Command;
use support::site::finish;
use support::{Run, Site, pids, pool, rotad};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
count = 2
ready = "spawned"
stop = "2s"
reload = { soak = "0s" }

[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
"#;

/// Typed in the folder of the configuration.
fn typed(site: &Site, line: &str) -> Run {
    let mut command = Command::new(rotad());
    command
        .args(line.split_whitespace())
        .current_dir(site.path(""))
        .env_remove("ROTAD_CONFIG");
    finish(command, 20)
}

/// No master runs. What is typed, the exit code, and what the answer has. 4: the verb is known, and asks for the master.
const HABITS: &[(&str, i32, &str)] = &[
    // supervisorctl
    ("restart web", 4, "no master reachable"),
    ("restart all", 4, "no master reachable"),
    ("tail -f web", 2, "`rotad logs -f web`"),
    ("tail web stderr", 2, "`rotad logs -f web`"),
    ("tail -1000 web", 2, "`rotad logs -n 1000 web`"),
    ("reread", 2, "`rotad reload --dry-run`"),
    ("update", 2, "`rotad reload --config`"),
    ("start all", 4, "no master runs"),
    ("stop all", 4, "no master reachable"),
    ("reload all", 4, "no master reachable"),
    ("pid web", 2, "`rotad status web`"),
    ("fg web", 2, "`rotad logs -f web`"),
    ("avail", 2, "`rotad status`"),
    ("add web", 2, "`rotad reload --config`"),
    ("remove web", 2, "`rotad stop web`"),
    ("clear web", 2, "`log.max_size`"),
    ("maintail", 2, "`rotad events -f`"),
    ("shutdown", 2, "`rotad stop`"),
    ("version", 0, "rotad 0."),
    // pm2
    ("start app.js", 2, "`rotad init -- node app.js`"),
    ("start app.js -i 4", 2, "count = 4"),
    ("start app.js -i max", 2, "count = \"cpus\""),
    ("start app.js --name shop", 2, "`rotad init -- node app.js`"),
    (
        "start ecosystem.config.js",
        2,
        "`rotad import ecosystem.config.js`",
    ),
    ("ls", 4, "no master reachable"),
    ("list", 4, "no master reachable"),
    ("ps", 4, "no master reachable"),
    ("show web", 2, "`rotad status web`"),
    ("describe web", 2, "`rotad status web`"),
    ("info web", 2, "`rotad status web`"),
    ("delete web", 2, "`rotad stop web`"),
    ("kill", 2, "`rotad stop --now`"),
    ("flush", 2, "`log.max_size`"),
    ("jlist", 2, "`rotad status --json`"),
    ("monit", 2, "`rotad status -w`"),
    ("save", 2, "`rotad init`"),
    ("startup", 2, "`rotad init`"),
    ("logs web --lines 3", 4, "no master reachable"),
    ("sendSignal SIGUSR2 web", 2, "`rotad signal "),
    ("startOrReload ecosystem.config.js", 2, "`rotad reload"),
    // systemctl, journalctl
    ("enable web", 2, "`rotad init`"),
    ("daemon-reload", 2, "`rotad reload --config`"),
    ("is-active web", 2, "`rotad status web --check`"),
    ("status web.service", 4, "no master reachable"),
    ("logs -u web", 2, "`rotad logs -f web`"),
    ("logs --since yesterday", 4, "no master reachable"),
    ("logs --until today web", 4, "no master reachable"),
    ("logs --since noon", 2, "expected a time such as"),
    ("logs -S today", 2, "`rotad logs --since 10min`"),
    ("logs -t", 4, "no master reachable"),
    ("logs --raw", 2, "`rotad logs`"),
    ("events -n 8", 2, "`rotad events | tail -n 8`"),
    ("events --since yesterday", 4, "no master reachable"),
    ("log", 2, "`rotad logs -f`"),
    // docker, compose
    ("logs --tail 3", 4, "no master reachable"),
    ("up", 2, "`rotad start`"),
    ("up -d", 2, "`rotad start`"),
    ("down", 2, "`rotad stop`"),
    ("exec web sh", 2, "no terminal"),
    ("stop -t 5", 2, "`rotad stop --timeout 5s`"),
    ("scale web=3", 2, "`rotad scale web 3`"),
    // nginx, Swoole, Workerman, php-fpm
    ("-t", 0, "rotad.toml: valid"),
    ("-s reload", 2, "`rotad reload`"),
    ("-s stop", 2, "`rotad stop --now`"),
    ("configtest", 0, "rotad.toml: valid"),
    ("validate", 0, "rotad.toml: valid"),
    ("start -d", 2, "`rotad start`"),
    ("stop -g", 2, "`rotad stop`"),
    // gunicorn, circusctl, foreman, kubectl
    ("app:app", 2, "`rotad init -- gunicorn app:app`"),
    ("-w 4 app:app", 2, "`rotad init -- gunicorn app:app`"),
    ("incr web", 2, "`rotad scale web +1`"),
    ("export systemd", 2, "`rotad init`"),
    ("rollout undo", 2, "`rotad rollback`"),
    // Mistakes.
    ("restart", 4, "no master reachable"),
    ("stauts", 2, "did you mean `status`?"),
    ("-f rotad.toml", 2, "-c"),
    ("start rotad.toml", 2, "`rotad start -c rotad.toml`"),
    ("start x.conf", 2, "`rotad import x.conf`"),
    ("run supervisord.conf", 78, "`rotad import "),
    ("start web", 4, "`rotad start -c "),
    ("stop web/0", 2, "`rotad roll web/0`"),
    ("start web/0", 2, "`rotad roll web/0`"),
    ("scale web/0 2", 2, "`rotad roll web/0`"),
    ("restart web/0", 4, "no master reachable"),
    ("roll web/0", 4, "no master reachable"),
    ("nosuch", 2, "`rotad --help` lists the verbs"),
    ("stpo", 2, "`rotad --help` lists the verbs"),
];

#[test]
fn every_habit_has_its_answer() {
    let site = Site::new(POOLS);
    site.write("app.js", "require('http').createServer().listen(3000)\n");
    site.write("ecosystem.config.js", "module.exports = { apps: [] }\n");
    site.write("supervisord.conf", "[supervisord]\nnodaemon=true\n");
    site.write("x.conf", "[program:web]\ncommand=python app.py\n");
    assert!(HABITS.len() > 62);
    let mut wrong = Vec::new();
    for (line, code, has) in HABITS {
        let run = typed(&site, line);
        let text = run.text();
        // Help, and findings of the configuration, have more than one line.
        let one_line = *code != 2 || (text.lines().count() == 1 && text.starts_with("rotad: "));
        if run.code != *code || !text.contains(has) || !one_line {
            wrong.push(format!("{line}: {run:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.assert_empty();
}

/// With a master: aliases do what they say, and nothing that is only spelled alike, or means something else, harms.
#[test]
fn aliases_work_and_nothing_is_harmed() {
    let mut site = Site::new(POOLS);
    site.run();
    let before = site.await_ready();
    for line in ["ls", "ps", "list", "ls web"] {
        let run = typed(&site, line);
        assert!(run.code == 0 && run.out.contains("web"), "{line}: {run:?}");
    }
    assert_eq!(typed(&site, "logs --tail 1 web").code, 0);
    for line in [
        "top",
        "stpo",
        "kill",
        "kill web",
        "delete web",
        "rm web",
        "down",
        "quit",
        "shutdown",
        "-s stop",
        "halt",
        "pause web",
        "scael web 0",
        "start app.js",
        "stop web/0",
        "stop -9 web",
        "stop -t 5 web",
        "sotp",
        "exit",
        "terminate",
    ] {
        let run = typed(&site, line);
        assert!([2, 4, 78].contains(&run.code), "{line}: {run:?}");
    }
    let after = site.await_ready();
    assert_eq!(
        pids(&before, "web"),
        pids(&after, "web"),
        "nothing was harmed"
    );
    let run = typed(&site, "status web.service");
    assert!(
        run.code == 4 && run.err.contains("did you mean web?"),
        "{run:?}"
    );
    assert_eq!(typed(&site, "restart web").code, 0);
    let rolled = site.await_ready();
    assert_eq!(pool(&rolled, "web")["generation"], 2);
    assert_ne!(pids(&before, "web"), pids(&rolled, "web"));
    let run = typed(&site, "restart web/0");
    assert_eq!(run.code, 0, "{run:?}");
    let replaced = site.await_ready();
    assert_eq!(pids(&rolled, "web")[1], pids(&replaced, "web")[1]);
    assert_eq!(typed(&site, "restart all").code, 0);
}

/// One voice: each error of the command line begins alike, and says what to do.
#[test]
fn every_error_begins_alike() {
    let site = Site::new(POOLS);
    for line in [
        "roll --timeout soon",
        "status --nosuch",
        "signal web NOPE",
        "scale web many",
        "roll web api/1",
        "reload web/0",
        "run a.toml -c b.toml",
        "status -c nosuch/dir/x.toml",
        "logs web/x",
        "completions cmd",
        "status -w --check",
        "-c",
        "-c x.toml",
    ] {
        let run = typed(&site, line);
        assert!([2, 78].contains(&run.code), "{line}: {run:?}");
        let first = run.err.lines().next().unwrap_or_default();
        let rest = first
            .strip_prefix("rotad: ")
            .unwrap_or_else(|| panic!("{line}: {run:?}"));
        assert!(
            !rest.starts_with(|c: char| c.is_uppercase()) && !rest.contains("error:"),
            "{line}: {run:?}"
        );
    }
    let empty = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(rotad());
    command
        .arg("status")
        .current_dir(empty.path())
        .env_remove("ROTAD_CONFIG");
    let run = finish(command, 10);
    assert!(
        run.code == 78 && run.err.starts_with("rotad: no configuration: "),
        "{run:?}"
    );
}
