//! Keys of other process managers: what to write for each here. Called for a key that its table does not have, by
//! `schema`; docs/coming-from.md shows the table.

use super::report::shown;
use super::units::{self, integer};
use std::fmt::Write;
use toml::de::DeValue;

/// A key of another tool.
struct ForeignKey {
    of: &'static str,
    /// Its spellings.
    keys: &'static [&'static str],
    /// Only with this value.
    value: Option<&'static str>,
    /// The table that `write` goes into, and in which the key is looked for first.
    table: &'static str,
    /// What to write, `{s:10}` and the like standing for the value: see [`filled`]. Empty: there is nothing to write.
    write: &'static str,
    /// What else is to be known; empty if nothing.
    note: &'static str,
}

const POOL: &str = "[pool.NAME]";
const MASTER: &str = "[master]";
const CONTROL: &str = "[control]";
const LISTEN: &str = "[listen.NAME]";
const RESTART: &str = "[pool.NAME.restart]";
const HEALTH: &str = "[pool.NAME.health]";
const LOG: &str = "[pool.NAME.log]";
const TOP: &str = "";

const fn key(
    of: &'static str,
    keys: &'static [&'static str],
    write: &'static str,
    note: &'static str,
) -> ForeignKey {
    ForeignKey {
        of,
        keys,
        value: None,
        table: POOL,
        write,
        note,
    }
}

impl ForeignKey {
    const fn if_value(self, value: &'static str) -> Self {
        Self {
            value: Some(value),
            ..self
        }
    }

    const fn within(self, table: &'static str) -> Self {
        Self { table, ..self }
    }
}

const SUPERVISORD: &str = "supervisord";
const PM2: &str = "pm2";
const SYSTEMD: &str = "systemd";
const CIRCUS: &str = "circus";
const GUNICORN: &str = "gunicorn, uvicorn";
const UWSGI: &str = "uwsgi";
const FPM: &str = "php-fpm";
const COMPOSE: &str = "docker compose";
const SWOOLE: &str = "Swoole";
const OTHERS: &str = "Procfile, Horust, process-compose, Horizon, runit";

/// What a server does by itself, with its own options.
const STAYS: &str =
    "it stays with the program, in its own file or options: rotad runs the program as it is";
const SANDBOX: &str = "it stays in systemd's unit of rotad, and holds for all pools";

/// In the order of docs/coming-from.md: by tool, then by what they do.
const KEYS: &[ForeignKey] = &[
    // supervisord: [program:x]
    key(SUPERVISORD, &["process_name"], "", "workers are called POOL/SLOT; `{slot}` in `command` or `env` tells a worker its number"),
    key(SUPERVISORD, &["numprocs"], "count = {n:4}", ""),
    key(SUPERVISORD, &["numprocs_start"], "", "slots count from 0: `{slot}`"),
    key(SUPERVISORD, &["priority"], "after = [\"db\"]", "the order of the start is said by names; it waits until those are ready"),
    key(SUPERVISORD, &["autostart"], "", "every pool of the file is started").if_value("true"),
    key(SUPERVISORD, &["autostart"], "", "every pool of the file is started; `rotad stop POOL` keeps one down, and what only has to follow another pool says `after = [\"NAME\"]`"),
    key(SUPERVISORD, &["autorestart"], "", "this is the default").if_value("true"),
    key(SUPERVISORD, &["autorestart"], "restart = { policy = \"never\" }", "for a program that runs once: kind = \"oneshot\"").if_value("false"),
    key(SUPERVISORD, &["autorestart"], "restart = { policy = \"on-failure\" }", "").if_value("unexpected"),
    key(SUPERVISORD, &["autorestart"], "restart = { policy = \"always\" }", "or \"on-failure\", \"never\""),
    key(SUPERVISORD, &["startsecs"], "ready = \"spawned\"", "").if_value("0"),
    key(SUPERVISORD, &["startsecs"], "ready = { after = \"{s:5}\" }", "with `listen` leave it out: that the worker accepts is a better proof"),
    key(SUPERVISORD, &["startretries"], "", "a pool is retried for good, ever more slowly (`restart.max_delay`); `essential = \"60s\"` ends the master when no worker is ready for that long"),
    key(SUPERVISORD, &["exitcodes"], "restart = { success_exit_codes = [0] }", "with policy = \"on-failure\" these ends are no failures"),
    key(SUPERVISORD, &["stopsignal"], "stop = [{ signal = \"{text:INT}\", wait = \"10s\" }]", ""),
    key(SUPERVISORD, &["stopwaitsecs"], "stop = \"{s:10}\"", "SIGTERM, this patience, SIGKILL"),
    key(SUPERVISORD, &["stopasgroup"], "stop = [{ signal = \"TERM\", wait = \"10s\", to = \"tree\" }]", "only for a wrapper that does not pass the signal on: what is left of the tree gets it in any case"),
    key(SUPERVISORD, &["killasgroup"], "", "the whole tree of a worker is always killed at the end of its stop"),
    key(SUPERVISORD, &["redirect_stderr"], "log = { stdout = \"web.log\", stderr = \"web.err\" }", "").if_value("false"),
    key(SUPERVISORD, &["redirect_stderr"], "", "this is the default: stderr goes wherever stdout goes"),
    key(SUPERVISORD, &["stdout_logfile"], "log = { stdout = \"inherit\" }", "").if_value("/dev/stdout"),
    key(SUPERVISORD, &["stdout_logfile"], "log = { stdout = \"inherit\" }", "").if_value("/dev/fd/1"),
    key(SUPERVISORD, &["stdout_logfile"], "log = { stdout = \"null\" }", "").if_value("NONE"),
    key(SUPERVISORD, &["stdout_logfile"], "log = { stdout = \"null\" }", "").if_value("/dev/null"),
    key(SUPERVISORD, &["stdout_logfile"], "", "the master's log has the output of pools without a file").if_value("AUTO"),
    key(SUPERVISORD, &["stdout_logfile"], "log = { stdout = \"{text:web.log}\" }", ""),
    key(SUPERVISORD, &["stdout_logfile_maxbytes", "stderr_logfile_maxbytes"], "log = { stdout = \"web.log\", max_size = \"none\" }", "with \"inherit\" leave it out").if_value("0"),
    key(SUPERVISORD, &["stdout_logfile_maxbytes", "stderr_logfile_maxbytes"], "log = { stdout = \"web.log\", max_size = \"{size:50MiB}\" }", "one for both streams"),
    key(SUPERVISORD, &["stdout_logfile_backups", "stderr_logfile_backups"], "log = { stdout = \"web.log\", keep = {n:10} }", "one for both streams"),
    key(SUPERVISORD, &["stderr_logfile"], "log = { stdout = \"inherit\", stderr = \"stdout\" }", "").if_value("/dev/stderr"),
    key(SUPERVISORD, &["stderr_logfile"], "log = { stdout = \"web.log\", stderr = \"{text:web.err}\" }", ""),
    key(SUPERVISORD, &["stdout_syslog", "stderr_syslog"], "log = { stdout = \"inherit\" }", "under systemd that is the journal"),
    key(SUPERVISORD, &["stdout_events_enabled", "stderr_events_enabled", "stdout_capture_maxbytes", "stderr_capture_maxbytes", "events", "result_handler", "buffer_size"], "", "`[hooks.NAME]` runs a command for events (docs/hooks.md); `rotad events -f --json` tells all of them, one line each"),
    key(SUPERVISORD, &["environment"], "env = { KEY = \"value\" }", ""),
    key(SUPERVISORD, &["directory", "dir"], "working_directory = \"{text:.}\"", ""),
    key(SUPERVISORD, &["serverurl"], "", "nothing to say: commands find the master by its configuration"),
    key(SUPERVISORD, &["depends_on"], "after = [\"{text:db}\"]", "waits until that pool is ready"),
    key(SUPERVISORD, &["socket"], "listen = \"127.0.0.1:9000\"", "for programs that expect it as descriptor 0: a [listen.NAME] and stdin = \"listen:NAME\""),
    key(SUPERVISORD, &["socket_mode"], "mode = \"{octal:0660}\"", "").within(LISTEN),
    key(SUPERVISORD, &["socket_owner"], "user = \"{text:www-data}\"", "and `group`").within(LISTEN),
    // supervisord: [supervisord], [unix_http_server]
    key(SUPERVISORD, &["logfile"], "log_file = \"{text:shop.log}\"", "").within(MASTER),
    key(SUPERVISORD, &["logfile_maxbytes"], "log_max_size = \"{size:50MiB}\"", "").within(MASTER),
    key(SUPERVISORD, &["logfile_backups"], "log_keep = {n:10}", "").within(MASTER),
    key(SUPERVISORD, &["loglevel"], "log_level = \"info\"", "error, warn, info, debug or trace").within(MASTER),
    key(SUPERVISORD, &["pidfile"], "pid_file = \"{text:master.pid}\"", "").within(MASTER),
    key(SUPERVISORD, &["nodaemon", "foreground"], "daemonize = false", "or leave it out: `rotad run` is the master in the foreground").within(MASTER),
    key(SUPERVISORD, &["silent", "nocleanup", "strip_ansi", "identifier"], "", "there is nothing to say instead").within(MASTER),
    key(SUPERVISORD, &["minfds"], "", "the master takes what it needs; workers: limits = { nofile = 65535 } in [defaults]").within(MASTER),
    key(SUPERVISORD, &["minprocs"], "", "workers: limits = { nproc = 4096 } in [defaults]").within(MASTER),
    key(SUPERVISORD, &["childlogdir"], "", "each pool names its file: log = { stdout = \"web.log\" }").within(MASTER),
    key(SUPERVISORD, &["user"], "", "the master runs as who starts it (`User=` in systemd's unit); `user` in [defaults] is that of the workers").within(MASTER),
    key(SUPERVISORD, &["chmod"], "mode = \"{octal:0660}\"", "").within(CONTROL),
    key(SUPERVISORD, &["chown"], "group = \"www-data\"", "").within(CONTROL),
    key(SUPERVISORD, &["username", "password"], "", "who may use the socket is said by its `mode` and `group`").within(CONTROL),
    key(SUPERVISORD, &["file"], "", "the socket is control.sock in `runtime_dir` of [master]").within(CONTROL),
    key(SUPERVISORD, &["program", "programs", "process"], "", "a pool each: [pool.NAME] with `command`").within(TOP),
    key(SUPERVISORD, &["supervisord"], "", "the master's keys are in [master]").within(TOP),
    key(SUPERVISORD, &["supervisorctl", "rpcinterface"], "", "nothing to say: commands find the master by its configuration").within(TOP),
    key(SUPERVISORD, &["unix_http_server"], "", "who may use the control socket is said in [control]").within(TOP),
    key(SUPERVISORD, &["inet_http_server"], "", "the master opens no port; [control] says who may use its socket").within(TOP),
    key(SUPERVISORD, &["eventlistener"], "", "a pool that reads `rotad events -f --json` does that").within(TOP),
    key(SUPERVISORD, &["group", "groups"], "", "names with a common beginning are a group: `rotad roll 'shop_*'`").within(TOP),
    // pm2
    key(PM2, &["name"], "", "the pool's name is in its header: [pool.NAME]; the master's is `name` in [master]"),
    key(PM2, &["namespace"], "", "names with a common beginning are a group: `rotad roll 'shop_*'`"),
    key(PM2, &["script"], "command = \"node {text:app.js}\"", "the interpreter is part of the command"),
    key(PM2, &["args"], "command = \"node app.js --port 3000\"", "arguments are part of the command"),
    key(PM2, &["interpreter", "exec_interpreter", "node_args", "interpreter_args"], "command = \"node --max-old-space-size=512 app.js\"", "the interpreter and its options are part of the command"),
    key(PM2, &["instances", "instance"], "count = \"cpus\"", "").if_value("max"),
    key(PM2, &["instances", "instance"], "count = \"cpus\"", "").if_value("0"),
    key(PM2, &["instances", "instance"], "count = {n:4}", ""),
    key(PM2, &["exec_mode"], "", "this is the default").if_value("fork"),
    key(PM2, &["exec_mode"], "listen = \"127.0.0.1:3000\"", "workers share the socket of the pool: the program listens on descriptor 3 (docs/programs/node.md)"),
    key(PM2, &["cwd", "working_dir", "workdir", "chdir"], "working_directory = \"{text:.}\"", ""),
    key(PM2, &["error_file", "err_file", "error", "err_log_path"], "log = { stdout = \"web.log\", stderr = \"{text:web.err}\" }", ""),
    key(PM2, &["out_file", "output", "out", "out_log_path"], "log = { stdout = \"{text:web.log}\" }", ""),
    key(PM2, &["log_file", "log_path"], "log = { stdout = \"{text:web.log}\" }", "stderr goes there, too; the master's own `log_file` belongs in [master]"),
    key(PM2, &["merge_logs", "combine_logs"], "log = { stdout = \"web-{slot}.log\" }", "").if_value("false"),
    key(PM2, &["merge_logs", "combine_logs"], "", "this is the default: one file for the pool"),
    key(PM2, &["time", "log_date_format"], "log = { stdout = \"web.log\", timestamps = true }", ""),
    key(PM2, &["log_type"], "", "`log_format = \"json\"` in [master] is the format of the master's log"),
    key(PM2, &["disable_logs"], "log = { stdout = \"null\" }", ""),
    key(PM2, &["max_memory_restart"], "recycle = { max_rss = \"{size:300MiB}\" }", "the successor is ready before the worker goes"),
    key(PM2, &["kill_timeout"], "stop = [{ signal = \"INT\", wait = \"{ms:1600ms}\" }]", "stop = \"30s\" sends TERM"),
    key(PM2, &["listen_timeout"], "ready_timeout = \"{ms:3s}\"", "when it has passed, the old worker stays"),
    key(PM2, &["wait_ready"], "ready = \"notify\"", "READY=1 in place of process.send('ready'); with `listen` leave it out: that the worker accepts is a better proof"),
    key(PM2, &["shutdown_with_message"], "", "there is no channel for messages: the program handles SIGTERM"),
    key(PM2, &["min_uptime"], "restart = { stable_after = \"{ms:10s}\" }", ""),
    key(PM2, &["max_restarts"], "", "a pool is retried for good, ever more slowly (`restart.max_delay`); `essential = \"60s\"` ends the master when no worker is ready for that long"),
    key(PM2, &["restart_delay", "exp_backoff_restart_delay"], "restart = { delay = \"{ms:100ms}\" }", "it doubles with each failure up to `max_delay`"),
    key(PM2, &["cron_restart", "cron"], "recycle = { at = \"04:00\" }", "for a job on a clock: a timer that runs `rotad start` of a oneshot"),
    key(PM2, &["stop_exit_codes"], "restart = { policy = \"on-failure\", success_exit_codes = [0] }", "these ends are no failures"),
    key(PM2, &["watch"], "", "this is the default").if_value("false"),
    key(PM2, &["watch"], "reload = { watch = [\"**/*.js\", \"!node_modules/**\"] }", "patterns of the files that count"),
    key(PM2, &["ignore_watch", "watch_delay", "watch_options"], "reload = { watch = [\"src/**/*.js\", \"!src/gen/**\"] }", "a pattern that begins with ! excludes"),
    key(PM2, &["env_production", "env_development", "env_staging", "env_test"], "env_file = \".env\"", "one set of variables for each place: a file of its own there"),
    key(PM2, &["filter_env"], "pass_env = [\"APP_*\"]", "with clear_env = true"),
    key(PM2, &["instance_var", "increment_var"], "env = { NODE_APP_INSTANCE = \"{slot}\" }", "ROTAD_SLOT is always there"),
    key(PM2, &["source_map_support"], "command = \"node --enable-source-maps app.js\"", ""),
    key(PM2, &["treekill"], "", "the whole tree of a worker is always gone after its stop"),
    key(PM2, &["kill_retry", "kill_retry_time", "pmx", "trace", "vizion", "automation", "force", "append_env_to_name", "disable_trace", "deep_monitoring"], "", "there is nothing to say instead"),
    key(PM2, &["post_update", "pre_setup", "pre_deploy", "post_deploy"], "", "a pool of kind = \"oneshot\" runs at start and at each reload, before those that come `after` it"),
    key(PM2, &["max_size"], "log = { stdout = \"web.log\", max_size = \"{size:50MiB}\" }", ""),
    key(PM2, &["retain", "rotate_interval", "compress"], "log = { stdout = \"web.log\", keep = {n:10} }", "rotated files are not compressed"),
    key(PM2, &["apps"], "", "a pool each: [pool.NAME] with `command`").within(TOP),
    key(PM2, &["deploy"], "", "rotad copies no code: put it in its place, then `rotad reload` (docs/deploying.md)").within(TOP),
    // systemd
    key(SYSTEMD, &["ExecStart"], "command = \"{text:program --option}\"", "no $VARIABLE and no %i is expanded: {env:NAME}, {slot}"),
    key(SYSTEMD, &["ExecStartPre", "ExecCondition", "pre_start", "pre_command"], "", "a pool of kind = \"oneshot\" runs first, and this one says after = [\"NAME\"]"),
    key(SYSTEMD, &["ExecStartPost", "post_start"], "", "a pool of kind = \"oneshot\" with after = [\"NAME\"] runs when that one is ready"),
    key(SYSTEMD, &["ExecReload"], "", "`rotad reload` and `rotad roll` replace the workers; `rotad signal POOL HUP` only sends a signal"),
    key(SYSTEMD, &["ExecStop", "ExecStopPost", "post_stop", "pre_stop"], "stop = [{ signal = \"TERM\", wait = \"30s\" }]", "a stop is made of signals; no program is run"),
    key(SYSTEMD, &["WorkingDirectory"], "working_directory = \"{text:.}\"", ""),
    key(SYSTEMD, &["User", "DynamicUser"], "user = \"{text:www-data}\"", ""),
    key(SYSTEMD, &["Group"], "group = \"{text:www-data}\"", "with or without `user`"),
    key(SYSTEMD, &["SupplementaryGroups"], "user = \"www-data\"", "supplementary groups are the user's"),
    key(SYSTEMD, &["EnvironmentFile"], "env_file = \"{text:.env}\"", ""),
    key(SYSTEMD, &["PassEnvironment"], "pass_env = [\"APP_*\"]", "with clear_env = true"),
    key(SYSTEMD, &["Type"], "ready = \"notify\"", "").if_value("notify"),
    key(SYSTEMD, &["Type"], "kind = \"oneshot\"", "").if_value("oneshot"),
    key(SYSTEMD, &["Type"], "", "the program has to stay in the foreground: one that forks away counts as dead").if_value("forking"),
    key(SYSTEMD, &["Type"], "ready = \"spawned\"", "the default, \"auto\", is better"),
    key(SYSTEMD, &["NotifyAccess"], "", "messages of all processes of a worker's user count"),
    key(SYSTEMD, &["Restart"], "restart = { policy = \"never\" }", "").if_value("no"),
    key(SYSTEMD, &["Restart"], "restart = { policy = \"on-failure\" }", "").if_value("on-failure"),
    key(SYSTEMD, &["Restart"], "restart = { policy = \"always\" }", "or \"on-failure\", \"never\""),
    key(SYSTEMD, &["RestartSec"], "restart = { delay = \"{s:1}\" }", "a worker that was ready is replaced at once the first time, then the delay doubles"),
    key(SYSTEMD, &["RestartMaxDelaySec"], "restart = { max_delay = \"{s:30}\" }", ""),
    key(SYSTEMD, &["SuccessExitStatus"], "restart = { success_exit_codes = [0] }", ""),
    key(SYSTEMD, &["RestartPreventExitStatus"], "restart = { never_on = [78] }", ""),
    key(SYSTEMD, &["StartLimitBurst", "StartLimitInterval", "StartLimitIntervalSec", "StartLimitAction"], "", "a pool is retried for good, ever more slowly (`restart.max_delay`); `essential = \"60s\"` ends the master when no worker is ready for that long"),
    key(SYSTEMD, &["TimeoutStartSec"], "ready_timeout = \"{s:60}\"", ""),
    key(SYSTEMD, &["TimeoutStopSec", "TimeoutSec"], "stop = \"{s:30}\"", ""),
    key(SYSTEMD, &["KillSignal"], "stop = [{ signal = \"{text:INT}\", wait = \"30s\" }]", ""),
    key(SYSTEMD, &["KillMode"], "stop = [{ signal = \"TERM\", wait = \"30s\", to = \"tree\" }]", "is \"control-group\"; without it the first process gets the signal, what is left of its tree then, and SIGKILL at the end"),
    key(SYSTEMD, &["SendSIGKILL", "FinalKillSignal"], "", "SIGKILL always comes at the end of the stop steps"),
    key(SYSTEMD, &["RuntimeMaxSec"], "recycle = { max_age = \"{s:6h}\" }", ""),
    key(SYSTEMD, &["WatchdogSec"], "health = { watchdog = \"{s:30}\" }", ""),
    key(SYSTEMD, &["LimitNOFILE"], "limits = { nofile = {n:65535} }", ""),
    key(SYSTEMD, &["LimitNPROC"], "limits = { nproc = {n:4096} }", ""),
    key(SYSTEMD, &["LimitCORE"], "limits = { core = \"unlimited\" }", ""),
    key(SYSTEMD, &["LimitMEMLOCK", "LimitAS", "LimitSTACK", "LimitDATA", "LimitFSIZE", "LimitCPU"], "limits = { memlock = \"64MiB\" }", "the names are those of setrlimit(2) in lower case"),
    key(SYSTEMD, &["MemoryMax", "MemoryHigh", "MemoryLimit", "mem_limit", "memory"], "recycle = { max_rss = \"{size:512MiB}\" }", "a hard limit for all pools stays in systemd's unit of rotad"),
    key(SYSTEMD, &["CPUQuota", "CPUWeight", "CPUAffinity", "TasksMax", "IOWeight", "Slice", "Delegate"], "", SANDBOX),
    key(SYSTEMD, &["PrivateTmp", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "CapabilityBoundingSet", "AmbientCapabilities", "SystemCallFilter", "ReadWritePaths", "ReadOnlyPaths", "ProcSubset", "ProtectProc", "PrivateDevices", "RestrictAddressFamilies", "LockPersonality", "MemoryDenyWriteExecute", "RestrictNamespaces"], "", SANDBOX),
    key(SYSTEMD, &["RuntimeDirectory", "StateDirectory", "LogsDirectory"], "", "it stays in systemd's unit of rotad"),
    key(SYSTEMD, &["StandardOutput", "StandardError"], "log = { stdout = \"inherit\" }", "under systemd that is the journal; the default, the master's log, goes there, too"),
    key(SYSTEMD, &["StandardInput"], "stdin = \"null\"", "this is the default"),
    key(SYSTEMD, &["SyslogIdentifier"], "", "the journal has the fields ROTAD_POOL and ROTAD_SLOT"),
    key(SYSTEMD, &["UMask"], "umask = \"{octal:022}\"", ""),
    key(SYSTEMD, &["Nice"], "nice = {n:5}", ""),
    key(SYSTEMD, &["After", "Requires", "Wants", "BindsTo", "PartOf", "Before", "depends", "dependencies"], "after = [\"db\"]", "for pools of this file; units stay in systemd's unit of rotad"),
    key(SYSTEMD, &["ListenStream"], "address = \"0.0.0.0:{n:8080}\"", "").within(LISTEN),
    key(SYSTEMD, &["Backlog", "somaxconn"], "backlog = {n:4096}", "").within(LISTEN),
    key(SYSTEMD, &["ListenMode"], "mode = \"{octal:0660}\"", "").within(LISTEN),
    key(SYSTEMD, &["SocketUser"], "user = \"{text:www-data}\"", "").within(LISTEN),
    key(SYSTEMD, &["SocketGroup"], "group = \"{text:www-data}\"", "").within(LISTEN),
    key(SYSTEMD, &["PIDFile"], "", "`pid_file` belongs in [master]; a worker needs none: the master is its parent"),
    key(SYSTEMD, &["Description", "Documentation", "WantedBy", "RequiredBy", "Alias", "ConditionPathExists"], "", "it stays in systemd's unit of rotad; `rotad init` writes one"),
    key(SYSTEMD, &["Unit", "Service", "Install"], "", "a pool each: [pool.NAME] with `command`").within(TOP),
    key(SYSTEMD, &["Socket"], "", "[listen.NAME] with `address`").within(TOP),
    // circus
    key(CIRCUS, &["cmd", "cmdline", "exec", "run", "start", "start_command"], "command = \"{text:program --option}\"", ""),
    key(CIRCUS, &["numprocesses", "num_workers"], "count = {n:4}", ""),
    key(CIRCUS, &["use_sockets"], "listen = \"127.0.0.1:8000\"", "descriptor 3 of each worker, `{fd:NAME}` in its command"),
    key(CIRCUS, &["copy_env"], "clear_env = true", "").if_value("false"),
    key(CIRCUS, &["copy_env", "copy_path"], "", "this is the default without `user`; with `user`: clear_env = false"),
    key(CIRCUS, &["virtualenv", "virtualenv_py_ver", "venv"], "env = { PATH = \"{text:venv}/bin:/usr/local/bin:/usr/bin:/bin\" }", "or the whole path of the program in `command`"),
    key(CIRCUS, &["graceful_timeout"], "stop = \"{s:30}\"", "SIGTERM, this patience, SIGKILL"),
    key(CIRCUS, &["warmup_delay"], "reload = { soak = \"{s:1}\" }", ""),
    key(CIRCUS, &["send_hup"], "", "`rotad reload` replaces the workers; `rotad signal POOL HUP` only sends a signal"),
    key(CIRCUS, &["stop_children"], "stop = [{ signal = \"TERM\", wait = \"30s\", to = \"tree\" }]", ""),
    key(CIRCUS, &["max_retry", "max_age_variance"], "", "a pool is retried for good, ever more slowly (`restart.max_delay`)"),
    key(CIRCUS, &["max_age"], "recycle = { max_age = \"{s:6h}\" }", ""),
    key(CIRCUS, &["respawn"], "restart = { policy = \"always\" }", "or \"on-failure\", \"never\""),
    key(CIRCUS, &["singleton"], "count = 1", "and reload = { surge = 0 }, so that never two run"),
    key(CIRCUS, &["stdout_stream", "stderr_stream", "stream"], "log = { stdout = \"web.log\" }", "lines are written as they come: there is no refresh_time"),
    key(CIRCUS, &["rlimit_nofile"], "limits = { nofile = {n:65535} }", ""),
    key(CIRCUS, &["hooks"], "", "[hooks.NAME] runs a command for events; a pool of kind = \"oneshot\" runs before those that come `after` it; `rotad events -f --json` tells the rest"),
    key(CIRCUS, &["endpoint", "pubsub_endpoint", "stats_endpoint", "check_delay", "httpd", "statsd"], "", "commands find the master by its configuration; `rotad events -f --json` and `rotad status --json` say what others ask there").within(MASTER),
    key(CIRCUS, &["watcher", "watchers", "circus"], "", "a pool each: [pool.NAME] with `command`").within(TOP),
    key(CIRCUS, &["sockets"], "", "[listen.NAME] with `address`").within(TOP),
    key(CIRCUS, &["env"], "", "variables of all pools: env = { … } in [defaults]").within(TOP),
    // gunicorn, uvicorn, puma
    key(GUNICORN, &["bind", "binds", "fd"], "listen = \"{address:127.0.0.1:8000}\"", "the server takes descriptor 3; gunicorn does it by itself"),
    key(GUNICORN, &["workers", "processes", "worker_count", "web_concurrency"], "count = {n:4}", "or leave them to the server, with count = 1"),
    key(GUNICORN, &["threads", "worker_class", "worker_connections", "keepalive", "preload_app", "max_requests", "max_requests_jitter", "accesslog", "errorlog", "wsgi_app", "limit_request_line", "forwarded_allow_ips", "ssl", "keyfile", "certfile", "proc_name", "lifespan", "loop", "http"], "", STAYS),
    key(GUNICORN, &["app", "application"], "command = \"gunicorn {text:app:app}\"", ""),
    key(GUNICORN, &["timeout"], "", "of a request: it stays with the program; of the start: `ready_timeout`, of the stop: `stop`, of a check: `timeout` in [pool.NAME.health]"),
    key(GUNICORN, &["timeout_graceful_shutdown", "shutdown_timeout", "stop_timeout", "graceful_shutdown_timeout", "worker_shutdown_timeout", "persistent_timeout"], "stop = \"{s:30}\"", "SIGTERM, this patience, SIGKILL"),
    key(GUNICORN, &["reload_dir", "reload_dirs", "reload_include", "reload_extra_files"], "reload = { watch = [\"src/**/*.py\"] }", ""),
    key(GUNICORN, &["daemon"], "", "a worker stays in the foreground").within(POOL),
    // uwsgi
    key(UWSGI, &["module", "wsgi-file", "master", "enable-threads", "harakiri", "plugin", "plugins", "lazy-apps", "need-app", "cheaper", "reload-mercy", "post-buffering", "single-interpreter", "die-on-term", "no-orphans", "thunder-lock", "disable-logging", "static-map", "stats", "strict", "hook-post-fork", "idle", "ignore-sigpipe", "master-fifo", "memory-report", "protocol", "pythonpath"], "", "it stays in uwsgi's own file: command = \"uwsgi --ini uwsgi.ini\""),
    key(UWSGI, &["http-socket", "uwsgi-socket", "fastcgi-socket"], "listen = \"{address:127.0.0.1:8000}\"", "and http-socket = fd://3 in uwsgi's file"),
    key(UWSGI, &["chmod-socket"], "mode = \"{octal:0660}\"", "").within(LISTEN),
    key(UWSGI, &["chown-socket"], "user = \"www-data\"", "and `group`").within(LISTEN),
    key(OTHERS, &["chmod"], "mode = \"{octal:0660}\"", "").within(LISTEN),
    key(OTHERS, &["chown"], "user = \"www-data\"", "and `group`").within(LISTEN),
    key(UWSGI, &["uid"], "user = \"{text:www-data}\"", ""),
    key(UWSGI, &["gid"], "user = \"www-data\"", "`group` beside it replaces the user's own"),
    key(UWSGI, &["vacuum"], "", "the socket is the master's, who removes it"),
    key(UWSGI, &["daemonize", "daemonize2"], "log = { stdout = \"{text:web.log}\" }", "the program stays in the foreground; the master's own `daemonize` belongs in [master]"),
    key(UWSGI, &["touch-reload", "py-autoreload"], "reload = { watch = [\"tmp/restart.txt\"] }", "a changed content counts, not a mere touch"),
    key(UWSGI, &["reload-on-rss", "evil-reload-on-rss"], "recycle = { max_rss = \"{mb:300MiB}\" }", ""),
    key(UWSGI, &["max-worker-lifetime"], "recycle = { max_age = \"{s:6h}\" }", ""),
    key(UWSGI, &["attach-daemon"], "", "a pool of its own"),
    key(UWSGI, &["uwsgi"], "", "uwsgi keeps its own file: command = \"uwsgi --ini uwsgi.ini\" in a pool").within(TOP),
    // php-fpm
    key(FPM, &["pm", "pm.max_children", "max_children", "start_servers", "min_spare_servers", "max_spare_servers", "process_idle_timeout", "catch_workers_output", "request_terminate_timeout", "request_slowlog_timeout", "slowlog", "status_path", "ping", "php_admin_value", "php_value", "security"], "", "it stays in php-fpm's own file: command = \"php-fpm8.2 -F -y www.conf\", count = 1 (docs/programs/php.md)"),
    key(FPM, &["listen.owner", "owner"], "user = \"{text:www-data}\"", "").within(LISTEN),
    key(FPM, &["emergency_restart_threshold", "emergency_restart_interval", "process_control_timeout"], "stop = \"30s\"", "the master repairs deaths by itself"),
    key(FPM, &["www", "global"], "", "php-fpm keeps its own file: command = \"php-fpm8.2 -F -y www.conf\" in a pool").within(TOP),
    // docker compose
    key(COMPOSE, &["image", "build", "container_name", "hostname", "networks", "network_mode", "volumes", "expose", "labels", "privileged", "cap_add", "tty", "stdin_open", "links", "extra_hosts", "dns"], "", "rotad runs programs, not images: `command` is a program of this machine, or rotad is the program of the container (docs/containers.md)"),
    key(COMPOSE, &["entrypoint"], "command = \"{text:program --option}\"", "one command, with its arguments"),
    key(COMPOSE, &["replicas", "scale"], "count = {n:4}", ""),
    key(COMPOSE, &["restart_policy"], "restart = { policy = \"on-failure\" }", ""),
    key(COMPOSE, &["deploy"], "count = 4", "`restart`, `limits` and `recycle` are tables of their own"),
    key(COMPOSE, &["healthcheck"], "health = { command = [\"curl\", \"-f\", \"http://127.0.0.1:3000/\"] }", "or { http = \"127.0.0.1:3000/healthz\" }, with `every`, `timeout`, `failures`"),
    key(COMPOSE, &["stop_grace_period"], "stop = \"{s:10}\"", "SIGTERM, this patience, SIGKILL"),
    key(COMPOSE, &["ulimits"], "limits = { nofile = 65535 }", ""),
    key(COMPOSE, &["logging"], "log = { stdout = \"web.log\", max_size = \"50MiB\", keep = 10 }", ""),
    key(COMPOSE, &["profiles", "extends", "develop"], "", "there are no profiles: `include` adds files, `[defaults]` keys for all pools"),
    key(COMPOSE, &["services"], "", "a pool each: [pool.NAME] with `command`").within(TOP),
    key(COMPOSE, &["version"], "", "the file needs no version").within(TOP),
    key(COMPOSE, &["networks", "volumes", "secrets", "configs"], "", "rotad runs programs, not images: docs/containers.md").within(TOP),
    key(COMPOSE, &["condition"], "policy = \"on-failure\"", "").within(RESTART),
    key(COMPOSE, &["max_attempts", "attempts", "max_retries", "retries"], "", "a pool is retried for good, ever more slowly (`max_delay`)").within(RESTART),
    key(COMPOSE, &["backoff", "restart_sec", "sec", "interval", "backoff_seconds"], "delay = \"{s:1}\"", "").within(RESTART),
    key(COMPOSE, &["window", "min_uptime", "startsecs"], "stable_after = \"{s:10}\"", "").within(RESTART),
    key(SUPERVISORD, &["ends", "exitcodes", "stop_exit_codes"], "success_exit_codes = [0]", "").within(RESTART),
    key(SYSTEMD, &["SuccessExitStatus"], "success_exit_codes = [0]", "").within(RESTART),
    key(SYSTEMD, &["RestartPreventExitStatus"], "never_on = [78]", "").within(RESTART),
    key(COMPOSE, &["test", "exec"], "command = [\"curl\", \"-f\", \"http://127.0.0.1:3000/\"]", "").within(HEALTH),
    key(COMPOSE, &["interval", "period", "period_seconds", "check_interval"], "every = \"{s:10}\"", "").within(HEALTH),
    key(COMPOSE, &["retries", "failure_threshold", "unhealthy_threshold", "max_failed"], "failures = {n:3}", "").within(HEALTH),
    key(COMPOSE, &["start_period", "initial_delay", "initial_delay_seconds"], "", "a worker is asked once it is ready; how long that may take is `ready_timeout` of the pool").within(HEALTH),
    key(COMPOSE, &["url", "http_get", "endpoint", "path"], "http = \"{address:127.0.0.1:3000/healthz}\"", "").within(HEALTH),
    key(COMPOSE, &["driver", "options"], "stdout = \"web.log\"", "").within(LOG),
    key(COMPOSE, &["max-size", "max_bytes"], "max_size = \"{size:50MiB}\"", "").within(LOG),
    key(COMPOSE, &["max-file", "max_files", "backup_count", "backups"], "keep = {n:10}", "").within(LOG),
    key(COMPOSE, &["file", "path", "filename"], "stdout = \"{text:web.log}\"", "").within(LOG),
    // Swoole
    key(SWOOLE, &["worker_num", "reactor_num"], "count = {n:4}", "or leave it to Swoole, with count = 1 (docs/programs/php.md)"),
    key(SWOOLE, &["task_worker_num"], "kind = \"task\"", "task workers are a pool of their own; results do not come back by rotad"),
    key(SWOOLE, &["max_request", "task_max_request", "max_requests_grace"], "recycle = { max_age = \"6h\" }", "or `max_rss`; requests are counted by the program alone"),
    key(SWOOLE, &["max_wait_time"], "stop = \"{s:30}\"", "SIGTERM, this patience, SIGKILL"),
    key(SWOOLE, &["reload_async"], "", "workers always finish what is in hand, up to `stop`"),
    key(SWOOLE, &["dispatch_mode", "enable_coroutine", "task_enable_coroutine", "max_coroutine", "hook_flags", "open_http2_protocol", "document_root", "enable_static_handler", "package_max_length", "buffer_output_size", "heartbeat_check_interval", "max_conn", "max_connection"], "", STAYS),
    key(SWOOLE, &["host", "port", "addr", "address"], "listen = \"127.0.0.1:{n:8000}\"", "descriptor 3 of each worker; a program that binds by itself: ports = \"3000-3004\" and {port}"),
    key(SWOOLE, &["server", "http_server"], "", "[pool.NAME] with `command`, [listen.NAME] with `address`").within(TOP),
    // Others
    key(OTHERS, &["web", "worker", "workers", "release"], "", "a pool each: [pool.NAME] with `command`; `release` is one of kind = \"oneshot\"").within(TOP),
    key(OTHERS, &["processes"], "", "a pool each: [pool.NAME] with `command`").within(TOP),
    key(OTHERS, &["port", "http_port"], "address = \"0.0.0.0:{n:8080}\"", "").within(LISTEN),
    key(OTHERS, &["host", "bind", "listen", "socket", "path", "fd"], "address = \"{address:127.0.0.1:8080}\"", "").within(LISTEN),
    key(OTHERS, &["readiness_probe", "startup_probe", "readiness", "ready_check"], "ready = { http = \"127.0.0.1:3000/healthz\" }", "or { connect = … }, { command = … }"),
    key(OTHERS, &["liveness_probe", "liveness", "healthiness"], "health = { http = \"127.0.0.1:3000/healthz\" }", "or { connect = … }, { command = … }, { watchdog = … }"),
    key(OTHERS, &["shutdown", "termination", "signal"], "stop = [{ signal = \"TERM\", wait = \"30s\" }]", ""),
    key(OTHERS, &["disabled", "enabled", "is_disabled"], "", "every pool of the file is started; `rotad stop POOL` keeps one down"),
    key(OTHERS, &["is_daemon", "is_tty", "is_elevated"], "", "a worker stays in the foreground, without a terminal"),
    key(OTHERS, &["schedule", "crontab", "cronspec"], "", "a job on a clock: a timer that runs `rotad start` of a oneshot; recycle = { at = \"04:00\" } replaces workers"),
    key(OTHERS, &["balance", "maxProcesses", "minProcesses", "queue", "connection", "tries", "maxJobs", "maxTime", "autoScalingStrategy", "fast_termination", "environments"], "", "it stays with the program: command = \"php artisan horizon\", kind = \"task\""),
    key(OTHERS, &["logoutput"], "log = { stdout = \"{text:web.log}\" }", ""),
    key(OTHERS, &["log_rotate"], "log = { stdout = \"web.log\", max_size = \"50MiB\", keep = 10 }", ""),
    key(OTHERS, &["max_memory"], "recycle = { max_rss = \"{size:512MiB}\" }", ""),
    key(OTHERS, &["shell", "bash"], "command = [\"sh\", \"-c\", \"exec {text:program $OPTION}\"]", "no shell reads a command otherwise"),
    key(OTHERS, &["program"], "command = \"program --option\"", "`kind` is worker, task or oneshot"),
    key(OTHERS, &["log", "logs", "logging"], "log_file = \"{text:shop.log}\"", "").within(MASTER),
    key(OTHERS, &["socket", "sock", "control_socket"], "", "the socket is control.sock in `runtime_dir`").within(MASTER),
    key(OTHERS, &["defaults", "default"], "", "keys for all pools: [defaults] at the top").within(POOL),
    key(OTHERS, &["pools", "listeners"], "", "a pool each: [pool.NAME]; a listener each: [listen.NAME]").within(TOP),
];

/// A key that its table does not have.
pub(super) struct Unknown<'a, 'v> {
    pub(super) key: &'a str,
    pub(super) value: Option<&'a DeValue<'v>>,
    /// The title of its table, as documentation shows it.
    pub(super) table: &'a str,
    /// The keys that this table has.
    pub(super) known: &'a [&'a str],
}

/// What to write instead of a key of another tool.
pub(super) fn hint(unknown: &Unknown<'_, '_>) -> Option<String> {
    let found = find(unknown)?;
    Some(text(found, unknown.value, unknown.table, unknown.known))
}

/// The same for an option of another tool's command line, without its dashes.
pub(crate) fn hint_for(key: &str) -> Option<String> {
    let unknown = Unknown {
        key,
        value: None,
        table: POOL,
        known: &[],
    };
    hint(&unknown)
}

fn find(unknown: &Unknown<'_, '_>) -> Option<&'static ForeignKey> {
    let word = spelling(unknown.key);
    let value = unknown.value.map(plain);
    let is = |key: &&ForeignKey| {
        key.keys.iter().any(|known| spelling(known) == word)
            && key
                .value
                .is_none_or(|wanted| Some(wanted) == value.as_deref())
    };
    let here = KEYS
        .iter()
        .filter(|key| key.table == unknown.table)
        .find(is);
    // The tables of a pool have no words of their own for most of it.
    let broad = [TOP, POOL, MASTER, "[defaults]"].contains(&unknown.table);
    here.or_else(|| {
        let others = KEYS
            .iter()
            .filter(|key| [POOL, MASTER].contains(&key.table));
        let elsewhere = || {
            KEYS.iter()
                .filter(|key| [LISTEN, CONTROL].contains(&key.table))
        };
        let mut found = others.filter(|_| broad).find(is);
        if found.is_none() && broad {
            found = elsewhere().find(is);
        }
        found
    })
}

/// `max-requests`, `maxRequests` and `max_requests` are one word.
fn spelling(key: &str) -> String {
    key.chars()
        .filter(|c| !"-_".contains(*c))
        .flat_map(char::to_lowercase)
        .take(60)
        .collect()
}

fn text(found: &ForeignKey, value: Option<&DeValue<'_>>, table: &str, known: &[&str]) -> String {
    if found.write.is_empty() {
        return found.note.to_owned();
    }
    let write = filled(found.write, value);
    let ours = found.write.split(' ').next().unwrap_or_default();
    let mut text = match known.contains(&ours) {
        true => format!("did you mean `{ours}`? write `{write}`"),
        false if table == found.table || known.is_empty() => format!("write `{write}`"),
        false => format!("write `{write}` in {}", found.table),
    };
    if !found.note.is_empty() {
        let _ = write!(text, "; {}", found.note);
    }
    text
}

/// The text with the value in place of `{KIND:EXAMPLE}`; where the value does not fit, with the example. Kinds: `text`,
/// `n` (a number), `s` and `ms` (a duration; what a number of another tool counts), `size` (bytes), `mb` (mebibytes),
/// `octal`, `address`.
fn filled(write: &str, value: Option<&DeValue<'_>>) -> String {
    let mut filled = String::new();
    let mut rest = write;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let placeholder = rest
            .find('}')
            .and_then(|end| Some((end, rest[1..end].split_once(':')?)))
            .filter(|(_, (kind, _))| {
                ["text", "n", "s", "ms", "size", "mb", "octal", "address"].contains(kind)
            });
        let Some((end, (kind, example))) = placeholder else {
            filled.push('{');
            rest = &rest[1..];
            continue;
        };
        let own = value.and_then(|value| converted(kind, value));
        let example = match (kind, example.parse::<u64>()) {
            ("s", Ok(_)) => format!("{example}s"),
            _ => example.to_owned(),
        };
        filled.push_str(&own.unwrap_or(example));
        rest = &rest[end + 1..];
    }
    filled + rest
}

/// A value of another tool as ours. `None`: it is none of this kind.
fn converted(kind: &str, value: &DeValue<'_>) -> Option<String> {
    let number = || {
        integer(value)
            .or_else(|| value.as_str()?.trim().parse().ok())
            .and_then(|number| u64::try_from(number).ok())
    };
    let duration = |unit: &str| match (number(), value.as_str()) {
        (Some(number), _) if unit == "ms" && number % 1000 == 0 && number > 0 => {
            Some(format!("{}s", number / 1000))
        }
        (Some(number), _) => Some(format!("{number}{unit}")),
        (None, Some(text)) => units::duration(text).ok().map(|_| text.trim().to_owned()),
        (None, None) => None,
    };
    match kind {
        "n" => number().map(|number| number.to_string()),
        "s" | "ms" => duration(kind),
        "mb" => number().map(|number| format!("{number}MiB")),
        "size" => match (number(), value.as_str()) {
            (Some(number), _) => Some(number.to_string()),
            (None, Some(text)) => size(text),
            (None, None) => None,
        },
        "octal" => {
            let digits = value
                .as_str()
                .map(str::to_owned)
                .or_else(|| number().map(|number| number.to_string()))?;
            units::octal(&digits, 0o777).ok().map(|_| digits)
        }
        "address" => value
            .as_str()
            .filter(|text| text.contains(':') && !text.starts_with(':'))
            .map(|text| shown(text.trim_start_matches("http://"))),
        _ => value
            .as_str()
            .filter(|text| !text.is_empty() && !text.contains(['"', '\\', '{']))
            .map(shown),
    }
}

/// `300M`, `50MB`, `1G`: what others mean by it.
fn size(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..]
        .to_ascii_lowercase()
        .trim_end_matches("ib")
        .trim_end_matches('b')
    {
        "k" => "KiB",
        "m" => "MiB",
        "g" => "GiB",
        _ => return None,
    };
    digits
        .trim()
        .parse::<u64>()
        .ok()
        .map(|number| format!("{number}{unit}"))
}

/// A value as other tools' documentation writes it.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.trim().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => integer(other).map_or_else(String::new, |number| number.to_string()),
    }
}

/// The list of keys as it stands in docs/coming-from.md: a table for each tool.
pub fn markdown() -> String {
    let mut page = String::new();
    let mut tools: Vec<&str> = Vec::new();
    for key in KEYS {
        if !tools.contains(&key.of) {
            tools.push(key.of);
        }
    }
    for tool in tools {
        // Writing to a String cannot fail.
        let _ = write!(page, "### {tool}\n\n| key | here | |\n|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.of == tool) {
            let words: Vec<String> = key.keys.iter().map(|word| format!("`{word}`")).collect();
            let value = key
                .value
                .map_or(String::new(), |value| format!(" = `{value}`"));
            let write = match key.write {
                "" => String::new(),
                write => format!("`{}`", filled(write, None)),
            };
            let place = match key.table {
                POOL => "",
                _ if key.write.is_empty() => "",
                table => &format!(" in {table}"),
            };
            let _ = writeln!(
                page,
                "| {}{value} | {write}{place} | {} |",
                words.join(", "),
                key.note.replace('|', "\\|")
            );
        }
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use toml::de::DeTable;

    /// The hint for a line of another tool's configuration, in a table of ours.
    fn said(table: &str, line: &str) -> Option<String> {
        let parsed = DeTable::parse(line).expect(line).into_inner();
        let (key, value) = parsed.iter().next().expect(line);
        let names = known(table);
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        hint(&Unknown {
            key: key.get_ref(),
            value: Some(value.get_ref()),
            table,
            known: &known,
        })
    }

    fn known(table: &str) -> Vec<String> {
        let sections = super::super::schema::reference();
        let section = sections.into_iter().find(|section| section.table == table);
        section.map_or_else(Vec::new, |section| {
            section.rows.iter().map(|row| row.name.to_owned()).collect()
        })
    }

    #[test]
    fn no_key_has_two_answers_and_none_is_ours() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            let ours = known(key.table);
            assert!(key.table == TOP || !ours.is_empty(), "{}", key.table);
            for word in key.keys {
                assert!(
                    seen.insert((key.table, spelling(word), key.value)),
                    "{word} twice in {}",
                    key.table
                );
                assert!(
                    !ours.iter().any(|own| own == word),
                    "{word} is a key of {}",
                    key.table
                );
            }
            assert!(
                !(key.write.is_empty() && key.note.is_empty()),
                "{:?}",
                key.keys
            );
        }
        assert!(seen.len() > 300, "{}", seen.len());
    }

    /// What is said can be written: each text is a table of ours without an unknown key and without a wrong value.
    #[test]
    fn what_is_said_can_be_written() {
        let mut all = Vec::new();
        for key in KEYS.iter().filter(|key| !key.write.is_empty()) {
            let write = filled(key.write, None);
            let master = match key.table {
                MASTER => format!("[master]\n{write}\n"),
                CONTROL => format!("[control]\n{write}\n"),
                _ => String::new(),
            };
            let (mut pool, mut listen) = (String::new(), String::new());
            match key.table {
                POOL => pool = write.clone(),
                RESTART => pool = format!("restart = {{ {write} }}"),
                HEALTH if write.starts_with("every") || write.starts_with("failures") => {
                    pool = format!("health = {{ connect = \"127.0.0.1:3000\", {write} }}");
                }
                HEALTH => pool = format!("health = {{ {write} }}"),
                LOG if write.starts_with("stdout") => pool = format!("log = {{ {write} }}"),
                LOG => pool = format!("log = {{ stdout = \"web.log\", {write} }}"),
                LISTEN => {
                    let address = match write.starts_with("address") {
                        true => String::new(),
                        false => "address = \"unix:x.sock\"\n".to_owned(),
                    };
                    listen = format!("[listen.x]\n{address}{write}\n");
                    pool = "listen = \"x\"".to_owned();
                }
                _ => {}
            }
            if pool.starts_with("pass_env") {
                pool.push_str("\nclear_env = true");
            }
            let command = match pool.contains("command = ") && !pool.starts_with("health") {
                true => "",
                false => "command = \"true\"\n",
            };
            let others = match pool.starts_with("after") {
                true => "[pool.db]\ncommand = \"true\"\n",
                false => "",
            };
            let file = format!("{master}{listen}{others}[pool.web]\n{command}{pool}\n");
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("x.toml");
            std::fs::write(&path, &file).expect("a file");
            std::fs::write(directory.path().join(".env"), "A=1\n").expect("a file");
            let Err(report) = super::super::load(&path) else {
                continue;
            };
            // Users and rights of this machine do not count.
            let wrong = report.findings().iter().filter(|finding| {
                finding.severity == super::super::Severity::Error
                    && !["user", "group", "writ", "belong", "nofile", "nproc"]
                        .iter()
                        .any(|word| finding.message.contains(word))
            });
            let wrong: Vec<&str> = wrong.map(|finding| finding.message.as_str()).collect();
            if !wrong.is_empty() {
                all.push(format!("{file}{wrong:?}"));
            }
        }
        assert!(all.is_empty(), "{}", all.join("\n"));
    }

    #[test]
    fn values_are_converted() {
        for (line, has) in [
            ("numprocs = 8", "did you mean `count`? write `count = 8`"),
            ("stopwaitsecs = 30", "write `stop = \"30s\"`"),
            (
                "stopsignal = \"QUIT\"",
                "stop = [{ signal = \"QUIT\", wait = \"10s\" }]",
            ),
            ("autorestart = false", "restart = { policy = \"never\" }"),
            ("autorestart = \"unexpected\"", "policy = \"on-failure\""),
            ("startsecs = 0", "ready = \"spawned\""),
            ("startsecs = 5", "ready = { after = \"5s\" }"),
            (
                "stdout_logfile = \"/var/log/x.log\"",
                "log = { stdout = \"/var/log/x.log\" }",
            ),
            ("stdout_logfile = \"/dev/stdout\"", "stdout = \"inherit\""),
            ("instances = \"max\"", "count = \"cpus\""),
            ("instances = 4", "count = 4"),
            ("kill_timeout = 5000", "wait = \"5s\""),
            ("kill_timeout = 1600", "wait = \"1600ms\""),
            ("max_memory_restart = \"300M\"", "max_rss = \"300MiB\""),
            ("priority = 10", "after = "),
            ("out_file = \"x.log\"", "log = { stdout = \"x.log\" }"),
            ("TimeoutStopSec = \"90s\"", "stop = \"90s\""),
            ("LimitNOFILE = 65536", "limits = { nofile = 65536 }"),
            ("bind = \"0.0.0.0:8000\"", "listen = \"0.0.0.0:8000\""),
            ("worker_num = 4", "count = 4"),
            ("max-requests = 5", "it stays with"),
            ("umaskk = 5", ""),
        ] {
            let said = said(POOL, line).unwrap_or_default();
            assert_eq!(said.is_empty(), has.is_empty(), "{line}: {said}");
            assert!(said.contains(has), "{line}: {said}");
        }
        assert_eq!(
            said(MASTER, "logfile = \"x.log\"").as_deref(),
            Some("did you mean `log_file`? write `log_file = \"x.log\"`")
        );
        assert_eq!(
            said(POOL, "logfile_backups = 3").as_deref(),
            Some("write `log_keep = 3` in [master]")
        );
        assert!(said(TOP, "numprocs = 4").is_some_and(|said| said.contains("in [pool.NAME]")));
    }
}
