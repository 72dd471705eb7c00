//! Configurations as people bring them: keys and values of other tools, files of other tools, files in other places. Each is
//! refused, or warned of, with what to write.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::site::finish;
use support::{Run, Site, rotad};

fn typed(folder: &Path, line: &str) -> Run {
    let mut command = Command::new(rotad());
    command
        .args(line.split_whitespace())
        .current_dir(folder)
        .env_remove("ROTAD_CONFIG");
    finish(command, 20)
}

/// Keys of other tools in a pool, with what the finding has.
const KEYS: &[(&str, &str)] = &[
    // supervisord
    ("numprocs = 4", "count = 4"),
    ("directory = \"/srv\"", "working_directory = \"/srv\""),
    ("environment = \"A=1\"", "env = { KEY"),
    ("autostart = true", "every pool"),
    ("autorestart = true", "default"),
    ("autorestart = false", "policy = \"never\""),
    ("startsecs = 5", "ready = { after = \"5s\" }"),
    ("startretries = 3", "`restart.max_delay`"),
    ("exitcodes = \"0,2\"", "success_exit_codes"),
    ("stopsignal = \"QUIT\"", "signal = \"QUIT\""),
    ("stopwaitsecs = 60", "stop = \"60s\""),
    ("stopasgroup = true", "to = \"tree\""),
    ("killasgroup = true", "always killed"),
    ("redirect_stderr = true", "default"),
    (
        "stdout_logfile = \"/var/log/a.log\"",
        "log = { stdout = \"/var/log/a.log\" }",
    ),
    ("stdout_logfile = \"/dev/stdout\"", "stdout = \"inherit\""),
    ("stdout_logfile_maxbytes = \"10MB\"", "max_size = \"10MiB\""),
    ("stdout_logfile_maxbytes = 0", "max_size = \"none\""),
    ("stdout_logfile_backups = 3", "keep = 3"),
    ("stderr_logfile = \"/dev/stderr\"", "stderr = \"stdout\""),
    ("priority = 10", "after = "),
    ("process_name = \"x\"", "POOL/SLOT"),
    ("numprocs_start = 1", "from 0"),
    ("depends_on = \"db\"", "after = [\"db\"]"),
    ("serverurl = \"AUTO\"", "by its configuration"),
    // pm2
    ("script = \"app.js\"", "command = \"node app.js\""),
    ("args = \"x\"", "part of the command"),
    ("interpreter = \"node\"", "part of the command"),
    ("node_args = \"x\"", "part of the command"),
    ("instances = \"max\"", "count = \"cpus\""),
    ("instances = 2", "count = 2"),
    ("exec_mode = \"cluster\"", "listen = "),
    ("cwd = \"/srv\"", "working_directory"),
    ("max_memory_restart = \"300M\"", "max_rss = \"300MiB\""),
    ("kill_timeout = 3000", "wait = \"3s\""),
    ("listen_timeout = 8000", "ready_timeout = \"8s\""),
    ("wait_ready = true", "ready = \"notify\""),
    ("min_uptime = \"10s\"", "stable_after = \"10s\""),
    ("max_restarts = 10", "`restart.max_delay`"),
    ("restart_delay = 4000", "delay = \"4s\""),
    ("exp_backoff_restart_delay = 100", "delay = \"100ms\""),
    ("cron_restart = \"0 4 * * *\"", "recycle = { at"),
    ("out_file = \"a.log\"", "stdout = \"a.log\""),
    ("error_file = \"a.err\"", "stderr = \"a.err\""),
    ("log_file = \"a.log\"", "stdout = \"a.log\""),
    ("merge_logs = true", "default"),
    ("time = true", "timestamps = true"),
    ("log_date_format = \"x\"", "timestamps = true"),
    ("watch = true", "reload = { watch"),
    ("ignore_watch = [\"x\"]", "excludes"),
    ("env_production = \"x\"", "env_file"),
    ("instance_var = \"ID\"", "{slot}"),
    ("name = \"shop\"", "[pool.NAME]"),
    ("port = 3000", "listen = \"127.0.0.1:3000\""),
    // systemd
    ("ExecStart = \"/bin/x\"", "command = \"/bin/x\""),
    ("ExecStartPre = \"/bin/x\"", "oneshot"),
    ("ExecReload = \"x\"", "`rotad reload`"),
    ("WorkingDirectory = \"/srv\"", "working_directory"),
    ("User = \"www\"", "user"),
    ("EnvironmentFile = \"/etc/x\"", "env_file = \"/etc/x\""),
    ("Restart = \"on-failure\"", "policy = \"on-failure\""),
    ("RestartSec = 5", "delay = \"5s\""),
    ("TimeoutStopSec = 90", "stop = \"90s\""),
    ("TimeoutStartSec = 90", "ready_timeout = \"90s\""),
    ("KillSignal = \"SIGINT\"", "signal = \"SIGINT\""),
    ("KillMode = \"mixed\"", "tree"),
    ("LimitNOFILE = 65536", "nofile = 65536"),
    ("MemoryMax = \"512M\"", "max_rss = \"512MiB\""),
    ("WatchdogSec = 30", "watchdog = \"30s\""),
    ("StartLimitBurst = 5", "`restart.max_delay`"),
    ("Type = \"notify\"", "ready = \"notify\""),
    ("Type = \"forking\"", "foreground"),
    ("PrivateTmp = true", "systemd's unit"),
    ("After = \"x\"", "after"),
    ("WantedBy = \"x\"", "systemd's unit"),
    // circus
    ("cmd = \"x\"", "command = \"x\""),
    ("numprocesses = 3", "count = 3"),
    ("working_dir = \"/srv\"", "working_directory"),
    ("use_sockets = true", "listen"),
    ("copy_env = true", "default"),
    ("virtualenv = \"venv\"", "venv/bin"),
    ("graceful_timeout = 30", "stop = \"30s\""),
    ("send_hup = true", "`rotad signal POOL HUP`"),
    ("uid = \"www\"", "user = \"www\""),
    // gunicorn, uwsgi, php-fpm, Swoole
    ("bind = \"0.0.0.0:8000\"", "listen = \"0.0.0.0:8000\""),
    ("workers = 4", "count = 4"),
    ("timeout = 30", "stays with"),
    ("max_requests = 1000", "stays with"),
    ("threads = 2", "stays with"),
    ("processes = 4", "count = 4"),
    ("harakiri = 30", "uwsgi"),
    ("static-map = \"/static=/srv\"", "uwsgi"),
    ("fast_termination = true", "horizon"),
    ("daemonize = \"x.log\"", "foreground"),
    ("touch-reload = \"x\"", "reload = { watch"),
    ("pm = \"dynamic\"", "php-fpm"),
    ("worker_num = 4", "count = 4"),
    ("task_worker_num = 4", "kind = \"task\""),
    ("max_request = 1000", "max_age"),
    ("max_wait_time = 60", "stop = \"60s\""),
    ("reload_async = true", "`stop`"),
    // docker compose
    ("image = \"x\"", "programs, not images"),
    ("replicas = 3", "count = 3"),
    ("healthcheck = \"x\"", "health = "),
    ("stop_grace_period = \"1min\"", "stop = \"1min\""),
    ("volumes = []", "programs, not images"),
];

#[test]
fn every_key_of_another_tool_says_what_to_write() {
    assert!(KEYS.len() >= 90);
    let folder = tempfile::tempdir().expect("a directory");
    let mut wrong = Vec::new();
    for (line, has) in KEYS {
        let text = format!("[pool.web]\ncommand = \"true\"\n{line}\n");
        fs::write(folder.path().join("x.toml"), text).expect("a file");
        let run = typed(folder.path(), "check x.toml");
        let place = run.err.contains("x.toml:3:1") && run.err.contains('^');
        let key = line.split(' ').next().unwrap_or_default();
        let unknown = run.err.contains(&format!("unknown key `{key}`"));
        if run.code != 78
            || !run.err.contains(has)
            || !place
            || !unknown
            || run.err.contains("known here:")
        {
            wrong.push(format!("{line}: {}", run.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Values in forms that other tools have: refused, with what to write.
#[test]
fn values_of_other_tools_say_what_to_write() {
    let folder = tempfile::tempdir().expect("a directory");
    let pool = |line: &str| format!("[pool.web]\ncommand = \"true\"\n{line}\n");
    for (text, has) in [
        (
            pool("restart = \"always\""),
            "restart = { policy = \"always\" }",
        ),
        (
            pool("restart = \"unless-stopped\""),
            "restart = { policy = \"always\" }",
        ),
        (pool("restart = \"no\""), "restart = { policy = \"never\" }"),
        (pool("restart = false"), "restart = { policy = \"never\" }"),
        (
            pool("restart = \"on-failure:5\""),
            "restart = { policy = \"on-failure\" }",
        ),
        (
            pool("stop = \"INT\""),
            "stop = [{ signal = \"INT\", wait = \"30s\" }]",
        ),
        (
            pool("stop = \"SIGQUIT\""),
            "stop = [{ signal = \"QUIT\", wait = \"30s\" }]",
        ),
        (
            pool("stop = { signal = \"INT\", wait = \"1s\" }"),
            "steps are a list",
        ),
        (pool("stop = \"30\""), "write the unit: \"30s\""),
        (pool("stop = 30"), "write the unit: \"30s\""),
        (pool("log = \"web.log\""), "log = { stdout = \"web.log\" }"),
        (
            pool("log = \"/dev/stdout\""),
            "log = { stdout = \"inherit\" }",
        ),
        (
            pool("health = \"http://127.0.0.1:3000/up\""),
            "health = { http = \"127.0.0.1:3000/up\" }",
        ),
        (pool("health = \"30s\""), "watchdog = \"30s\""),
        (pool("reload = true"), "`rotad reload` rolls every pool"),
        (pool("reload = \"HUP\""), "`rotad signal POOL HUP`"),
        (pool("recycle = \"6h\""), "recycle = { max_age = \"6h\" }"),
        (
            pool("recycle = \"300MiB\""),
            "recycle = { max_rss = \"300MiB\" }",
        ),
        (pool("limits = 65535"), "limits = { nofile = 65535 }"),
        (
            pool("env = [\"APP_ENV=prod\", \"DEBUG=1\"]"),
            "env = { APP_ENV = \"…\", DEBUG = \"…\" }",
        ),
        (pool("env = \".env\""), "env_file = \".env\""),
        (pool("count = \"4\""), "write it without quotes: 4"),
        (pool("user = 1000"), "write it in quotes: \"1000\""),
        (
            pool("umask = 22"),
            "write it in quotes, as octal digits: \"022\"",
        ),
        (pool("listen = 8000"), "\"127.0.0.1:8000\""),
        (
            pool("ready = \"http://127.0.0.1:3000/\""),
            "ready = { http = \"127.0.0.1:3000/\" }",
        ),
        (pool("working_directory = \"~/app\""), "`~` is not expanded"),
        (
            format!("[master]\ndaemonize = \"yes\"\n{}", pool("")),
            "write true, without quotes",
        ),
        (
            format!("master = \"shop\"\n{}", pool("")),
            "name = \"shop\"",
        ),
        (
            "[pool.web]\ncommand = \"PORT=3000 node app.js\"\n".to_owned(),
            "env = { PORT = \"…\" } and command = \"node app.js\"",
        ),
        (
            "[pool.web]\ncommand = [\"A=1\", \"B=2\", \"x\"]\n".to_owned(),
            "env = { A = \"…\", B = \"…\" } and command = \"x\"",
        ),
        (
            "[pool.web]\ncommand = \"x %(ENV_HOME)s\"\n".to_owned(),
            "{env:HOME}",
        ),
        (
            "[pool.web]\ncommand = \"x --port 98%(process_num)02d\"\n".to_owned(),
            "{slot}",
        ),
        (
            "[pool.web]\ncommand = \"x $(circus.env.HOME)\"\n".to_owned(),
            "{env:HOME}",
        ),
        (
            "[pool.web]\ncommand = \"x 0.0.0.0:${PORT:-3000}\"\n".to_owned(),
            "{env:PORT:-3000}",
        ),
        (pool("env = { A = \"${B}/bin\" }"), "{env:B}"),
        (pool("env = { A = \"%(ENV_B)s\" }"), "{env:B}"),
    ] {
        fs::write(folder.path().join("x.toml"), &text).expect("a file");
        let run = typed(folder.path(), "check x.toml");
        assert!(run.code == 78 && run.err.contains(has), "{text}: {run:?}");
    }
}

/// What a shell would expand may be meant: a warning, and none where a shell reads it or it is quoted.
#[test]
fn what_a_shell_would_expand_is_a_warning() {
    let folder = tempfile::tempdir().expect("a directory");
    let check = |text: &str| {
        fs::write(folder.path().join("x.toml"), text).expect("a file");
        let run = typed(folder.path(), "check x.toml");
        assert_eq!(run.code, 0, "{text}: {run:?}");
        run.err
    };
    for (line, has) in [
        ("command = \"true --port $PORT\"", "write {env:PORT}"),
        ("command = [\"true\", \"$HOME/x\"]", "write {env:HOME}"),
        ("command = \"true -w $(nproc)\"", "no shell reads this"),
        (
            "command = \"true\"\nenv = { PATH = \"$HOME/bin:$PATH\" }",
            "write {env:HOME}",
        ),
        ("command = \"true --port {{port}}\"", "write {port}"),
        (
            "command = \"true\"\nenv = { A = \"{{ secret }}\" }",
            "two braces are one",
        ),
    ] {
        let said = check(&format!("[pool.web]\nready = \"notify\"\n{line}\n"));
        assert!(said.contains(has), "{line}: {said}");
    }
    for line in [
        "command = [\"sh\", \"-c\", \"exec true $PORT\"]",
        "command = \"sh -c 'exec true $PORT'\"",
        "command = \"/bin/bash -lc $PORT\"",
        "command = \"true '$PORT'\"",
        "command = \"true\"\nenv = { PASSWORD = \"pa$$wo$RD\" }",
        "command = [\"true\", \"--access-logformat\", \"%(h)s %(l)s\"]",
        "command = [\"true\", '{{\"a\": 1}}']",
        "command = [\"true\", \"^x$\"]",
    ] {
        let said = check(&format!("[pool.web]\nready = \"notify\"\n{line}\n"));
        assert!(
            !said.contains("no shell reads") && !said.contains("braces"),
            "{line}: {said}"
        );
    }
}

#[test]
fn files_of_other_tools_are_recognized() {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, text, has) in [
        (
            "supervisord.conf",
            "[program:web]\ncommand=python app.py\n",
            "this looks like a supervisord configuration",
        ),
        (
            "ecosystem.config.js",
            "module.exports = {\n  apps: []\n}\n",
            "this looks like a pm2 ecosystem file",
        ),
        (
            "shop.service",
            "[Unit]\nDescription=x\n\n[Service]\nExecStart=/bin/x\n",
            "this looks like a systemd unit",
        ),
        (
            "Procfile",
            "web: gunicorn app:app\nworker: celery worker\n",
            "this looks like a Procfile",
        ),
        (
            "circus.ini",
            "[watcher:web]\ncmd = x\n",
            "this looks like a circus configuration",
        ),
        (
            "x.json",
            "{\n  \"apps\": [{ \"name\": \"x\" }]\n}\n",
            "this looks like a pm2 ecosystem file",
        ),
    ] {
        fs::write(folder.path().join(name), text).expect("a file");
        for verb in ["check", "run"] {
            let run = typed(folder.path(), &format!("{verb} {name}"));
            assert!(
                run.code == 78 && run.err.contains(has),
                "{verb} {name}: {run:?}"
            );
            assert!(
                run.err.contains(&format!("`rotad import {name}`")),
                "{run:?}"
            );
            assert_eq!(
                run.err.matches("error: ").count(),
                1,
                "one finding: {run:?}"
            );
        }
    }
    for (name, text, has) in [
        (
            "docker-compose.yml",
            "services:\n  web:\n    image: x\n",
            "docker compose",
        ),
        (
            "x.yaml",
            "---\nweb:\n  command: x\n",
            "this looks like YAML",
        ),
        (
            "app.py",
            "import os\nprint(os)\n",
            "`rotad init -- python3 app.py`",
        ),
        (
            "uwsgi.ini",
            "[uwsgi]\nmodule = app:app\n",
            "`rotad init -- uwsgi --ini uwsgi.ini`",
        ),
    ] {
        fs::write(folder.path().join(name), text).expect("a file");
        let run = typed(folder.path(), &format!("check {name}"));
        assert!(run.code == 78 && run.err.contains(has), "{name}: {run:?}");
    }
    fs::write(folder.path().join("x.toml"), "[pool.web\ncommand = \"x\"\n").expect("a file");
    let run = typed(folder.path(), "check x.toml");
    assert!(
        run.code == 78 && !run.err.contains("looks like"),
        "our own: {run:?}"
    );
}

const POOL: &str = "[pool.web]\ncommand = \"true\"\nready = \"notify\"\n";

/// What the search finds or passes over is said, with how to choose.
#[test]
fn other_configurations_in_the_folder_are_said() {
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write("Procfile", "web: true\n");
    let run = typed(folder.path(), "check");
    assert!(
        run.code == 78 && run.err.contains("`rotad import Procfile`"),
        "{run:?}"
    );
    write("shop.toml", POOL);
    write("pyproject.toml", "[project]\nname = \"x\"\n");
    for verb in ["check", "run", "status", "stop"] {
        let run = typed(folder.path(), verb);
        assert!(
            run.code == 78 && run.err.contains("shop.toml is one: name it"),
            "{verb}: {run:?}"
        );
        assert!(!run.err.contains("pyproject"), "{run:?}");
    }
    write("rotad.toml", POOL);
    fs::create_dir(folder.path().join("config")).expect("a directory");
    let run = typed(folder.path(), "check");
    assert!(run.code == 0 && run.err.is_empty(), "{run:?}");
    write("config/rotad.toml", POOL);
    let run = typed(folder.path(), "check");
    assert!(
        run.code == 0
            && run
                .err
                .contains("config/rotad.toml is there, too, and is not read"),
        "{run:?}"
    );
    let run = typed(folder.path(), "check rotad.toml");
    assert!(run.code == 0 && run.err.is_empty(), "it was named: {run:?}");
    let run = typed(folder.path(), "status");
    assert!(
        run.code == 4
            && run
                .err
                .contains("config/rotad.toml is another configuration"),
        "{run:?}"
    );
}

/// The master of the other file in the same place is named.
#[test]
fn the_master_of_another_file_is_named() {
    let mut site =
        Site::new("[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    fs::create_dir(site.path("config")).expect("a directory");
    site.write("config/rotad.toml", &site.read("rotad.toml"));
    site.run();
    site.await_ready();
    let run = typed(&site.path(""), "start -c config/rotad.toml");
    let config = site.config.display().to_string();
    assert!(
        run.code == 75 && run.err.contains(&format!("the master of {config} uses")),
        "{run:?}"
    );
}
