//! Words that people bring from other tools: what to type here instead. Called for a command line that cannot be parsed;
//! the words that mean exactly one of our verbs are aliases of it (`args`), and never come here.

use super::args::Args;
use crate::config;
use crate::exit_code::ExitCode;
use clap::{Command, CommandFactory};
use std::fmt::Write;
use std::path::Path;

/// A verb of other tools.
struct Habit {
    /// The verbs that get this answer; two words where the second one tells what is meant.
    typed: &'static [&'static str],
    /// The tools that have it.
    of: &'static str,
    /// What to type here. `{pools}` stands for a space and the pools that were typed, `{one}` for
    /// a space and the first one, `{pool}` for the first one, or POOL.
    say: &'static str,
}

const fn habit(typed: &'static [&'static str], of: &'static str, say: &'static str) -> Habit {
    Habit { typed, of, say }
}

const HABITS: &[Habit] = &[
    // Bringing code or a configuration into service.
    habit(
        &["reread"],
        "supervisorctl",
        "`rotad reload --dry-run` says what the changed file would do",
    ),
    habit(
        &["update"],
        "supervisorctl, pm2, docker",
        "`rotad reload --config` applies what changed in the file, `rotad reload{pools}` brings new code, too",
    ),
    habit(
        &[
            "daemon-reload",
            "reloadconfig",
            "reload-config",
            "refresh",
            "rehash",
        ],
        "systemctl, circusctl",
        "`rotad reload --config` applies what changed in the file, `rotad reload` brings new code, too",
    ),
    habit(
        &[
            "graceful",
            "graceful-reload",
            "gracefulReload",
            "graceful-restart",
            "phased-restart",
            "hot-reload",
            "hot-restart",
            "force-reload",
            "reload-or-restart",
            "try-reload-or-restart",
            "try-restart",
            "condrestart",
            "softreload",
            "redeploy",
            "startOrReload",
            "startOrRestart",
            "startOrGracefulReload",
            "reload-all",
        ],
        "pumactl, pm2, systemctl, apachectl",
        "`rotad reload{pools}` brings new code and configuration without losing a request",
    ),
    habit(
        &["reload_task", "reload-task", "reload-tasks"],
        "Swoole",
        "`rotad roll --tasks` rolls the task workers, as USR2 does",
    ),
    habit(
        &[
            "restart-all",
            "restartall",
            "recreate",
            "reopen-workers",
            "worker-restart",
        ],
        "various",
        "`rotad roll` replaces every worker",
    ),
    habit(
        &["deploy", "publish", "release", "push", "apply"],
        "pm2, docker, kubectl",
        "put the code in its place, then `rotad reload{pools}` brings it into service (docs/deploying.md)",
    ),
    habit(
        &["rollout restart"],
        "kubectl",
        "`rotad roll` replaces every worker, `rotad roll POOL` those of one pool",
    ),
    habit(
        &["rollout undo"],
        "kubectl",
        "`rotad rollback` goes back to the generation before",
    ),
    habit(
        &["rollout status", "rollout history", "rollout"],
        "kubectl",
        "`rotad status` shows a rolling restart, `rotad events` the last ones",
    ),
    habit(
        &["undo", "revert", "backward"],
        "pm2, various",
        "`rotad rollback{pools}` goes back to the generation before",
    ),
    habit(
        &["forward"],
        "pm2",
        "`rotad rollback{pools} --to N` goes to any generation that is remembered, also forward",
    ),
    habit(
        &["abort"],
        "various",
        "`rotad cancel{pools}` ends a rolling restart and goes back",
    ),
    habit(
        &["updatePM2", "daemon-reexec", "self-update", "selfupdate"],
        "pm2, systemctl",
        "`rotad upgrade` replaces the master by its new program; workers serve on",
    ),
    // Starting.
    habit(
        &[
            "up",
            "launch",
            "boot",
            "startsrc",
            "start-all",
            "startall",
            "once",
        ],
        "docker compose, runit",
        "`rotad start` starts the master in the background, `rotad run` in the foreground; `rotad start {pool}` a stopped pool",
    ),
    habit(
        &["daemon", "daemonize", "-D", "-d", "--daemon", "--daemonize"],
        "Swoole, Workerman, gunicorn, php-fpm",
        "`rotad start` starts the master in the background",
    ),
    habit(
        &[
            "foreground",
            "-n",
            "-F",
            "--nodaemon",
            "--nodaemonize",
            "--foreground",
            "--no-daemon",
        ],
        "supervisord, php-fpm",
        "`rotad run` is the master in the foreground",
    ),
    habit(
        &["spawn", "serve-all"],
        "various",
        "`rotad start` starts what the file says; write a pool for a program, or `rotad init -- PROGRAM`",
    ),
    habit(
        &[
            "enable",
            "disable",
            "startup",
            "unstartup",
            "is-enabled",
            "reenable",
            "preset",
            "mask",
            "unmask",
            "link",
            "save",
            "dump",
            "resurrect",
            "cleardump",
            "autostart",
        ],
        "systemctl, pm2",
        "the configuration is the file, nothing has to be saved; `rotad init` writes a unit, and `systemctl enable` starts it at boot",
    ),
    habit(
        &["export"],
        "foreman, honcho",
        "`rotad init` writes a rotad.toml and a unit for systemd from what the folder has",
    ),
    habit(
        &[
            "ecosystem",
            "setup",
            "new",
            "generate",
            "create-config",
            "print-config",
            "module:generate",
            "echo_supervisord_conf",
        ],
        "pm2, various",
        "`rotad init` writes a first rotad.toml, `rotad init -- COMMAND` one for this command",
    ),
    // Stopping.
    habit(
        &["down"],
        "docker compose, runit",
        "`rotad stop{pools}` stops gracefully; without a pool, everything",
    ),
    habit(
        &[
            "shutdown",
            "halt",
            "graceful-stop",
            "gracefulStop",
            "terminate",
            "term",
        ],
        "supervisorctl, pumactl",
        "`rotad stop` ends all workers gracefully, and the master",
    ),
    habit(
        &["exit", "quit"],
        "supervisorctl, circusctl",
        "there is no prompt to leave: each command is typed in full; `rotad stop` ends all workers gracefully, and the master",
    ),
    habit(
        &["kill", "sigkill", "force-stop", "force-shutdown"],
        "pm2, docker, systemctl",
        "`rotad stop{pools} --now` kills at once (without a pool: everything), `rotad signal {pool} SIGNAL` sends a signal",
    ),
    habit(
        &["delete", "del", "rm", "remove", "destroy"],
        "pm2, supervisorctl, docker, circusctl",
        "take the pool out of the file, then `rotad reload --config` ends it; `rotad stop {pool}` keeps it down until `rotad start {pool}`",
    ),
    habit(
        &["add", "create"],
        "supervisorctl, circusctl",
        "write the pool into the file, then `rotad reload --config` starts it and leaves the others alone",
    ),
    habit(
        &["pause", "unpause", "freeze", "thaw", "cont", "isolate"],
        "docker, systemctl, runit",
        "`rotad stop {pool}` takes a pool out of service, `rotad start {pool}` brings it back",
    ),
    // Looking.
    habit(
        &[
            "l",
            "stat",
            "statuses",
            "summary",
            "list-units",
            "list-unit-files",
            "list-sockets",
            "list-dependencies",
            "processes",
            "workers",
            "avail",
            "numwatchers",
            "watchers",
            "fullstatus",
            "jobs",
        ],
        "systemctl, supervisorctl, circusctl, monit",
        "`rotad status` shows all pools",
    ),
    habit(
        &[
            "show",
            "describe",
            "desc",
            "info",
            "inspect",
            "procmatch",
            "id",
        ],
        "pm2, systemctl, docker",
        "`rotad status {pool}` shows its workers, `rotad status {pool} --json` everything that is known of them",
    ),
    habit(
        &["show workers"],
        "gunicornc",
        "`rotad status POOL` shows the workers of a pool",
    ),
    habit(
        &[
            "monit",
            "imonit",
            "sysmonit",
            "dashboard",
            "dash",
            "stats",
            "dstats",
            "monitor",
            "htop",
            "connections",
        ],
        "pm2, docker, circusctl",
        "`rotad status -w` refreshes the status each second",
    ),
    habit(
        &["jlist", "prettylist", "slist"],
        "pm2",
        "`rotad status --json` prints everything",
    ),
    habit(
        &["pid", "pidof", "pids", "port"],
        "supervisorctl, pm2, docker",
        "`rotad status {pool}` has the pids, `--json` for scripts; the master's is in its `pid_file`",
    ),
    habit(
        &[
            "is-active",
            "is-failed",
            "ping",
            "health",
            "healthcheck",
            "health-check",
            "alive",
            "wait",
            "wait-ready",
            "state",
        ],
        "systemctl, pm2, docker",
        "`rotad status{pools} --check` answers by its exit code: 0 all ready, 1 not all, 3 stopped or failed, 4 unreachable",
    ),
    habit(
        &["log", "follow", "journal", "journalctl"],
        "docker, journalctl",
        "`rotad logs -f{one}` follows what workers print",
    ),
    habit(
        &["maintail"],
        "supervisorctl",
        "`rotad events -f` tells what the master does; its own log is in `master.log_file`",
    ),
    habit(
        &["history", "audit", "diff"],
        "various",
        "`rotad events` tells what the master did and why, `rotad reload --dry-run` what the changed file would do",
    ),
    habit(
        &["env", "environ"],
        "pm2",
        "values of the environment are never shown; `rotad status {pool}` has the pids for /proc/PID/environ",
    ),
    habit(
        &[
            "cat",
            "config",
            "conf",
            "options",
            "globaloptions",
            "get",
            "dump-config",
            "-T",
            "lint",
            "verify",
            "test",
            "syntax",
        ],
        "docker compose, circusctl, nginx",
        "`rotad check` validates the file; `rotad reload --dry-run` says what it would change",
    ),
    habit(
        &[
            "edit",
            "set",
            "unset",
            "multiset",
            "set-property",
            "reset-config",
        ],
        "systemctl, pm2, circusctl",
        "edit the file, `rotad check` it, `rotad reload --config` applies it",
    ),
    // Numbers and signals.
    habit(
        &["incr", "inc", "ttin", "scale-up", "worker add"],
        "circusctl, Einhorn, gunicorn",
        "`rotad scale {pool} +1` starts one worker more",
    ),
    habit(
        &["decr", "dec", "ttou", "scale-down", "worker remove"],
        "circusctl, Einhorn, gunicorn",
        "`rotad scale {pool} -1` retires one worker",
    ),
    habit(
        &["numprocesses", "resize", "concurrency", "formation"],
        "circusctl, foreman",
        "`rotad scale {pool} 4` changes the number until the file changes it, `count` in the file keeps it",
    ),
    habit(
        &[
            "sendSignal",
            "send-signal",
            "sendsignal",
            "hup",
            "usr1",
            "usr2",
            "alarm",
            "interrupt",
        ],
        "pm2, runit",
        "`rotad signal {pool} SIGNAL` sends a signal to ready workers",
    ),
    habit(
        &["worker kill", "worker"],
        "gunicornc",
        "`rotad roll POOL/SLOT` replaces one worker, `rotad scale POOL +1` adds one",
    ),
    habit(
        &["reset", "reset-failed", "clean"],
        "pm2, systemctl",
        "nothing has to be reset: a failing pool is retried for good, and `rotad roll {pool}` retries it at once",
    ),
    // Logs.
    habit(
        &["flush", "clear", "logrotate", "gc", "prune"],
        "pm2, supervisorctl",
        "log files are rotated by `log.max_size` and `log.keep`; no command empties them",
    ),
    habit(
        &[
            "reloadLogs",
            "reload-logs",
            "reopen",
            "reopen-logs",
            "rotate",
            "rotate-logs",
        ],
        "pm2, nginx",
        "RTMIN opens the log files again: `kill -s RTMIN` and the pid in the master's `pid_file`",
    ),
    // Consoles.
    habit(
        &[
            "fg", "attach", "exec", "connect", "shell", "console", "ipython", "send", "trigger",
        ],
        "supervisorctl, docker, overmind",
        "a worker has no terminal: `rotad logs -f{one}` follows what it prints, `rotad status {pool}` has its pid",
    ),
    // What this is not.
    habit(
        &[
            "build",
            "pull",
            "images",
            "image",
            "login",
            "logout",
            "commit",
            "tag",
            "rename",
            "cp",
            "volume",
            "network",
            "compose",
            "container",
        ],
        "docker",
        "rotad runs programs, not images: `rotad init -- PROGRAM` writes a rotad.toml for one",
    ),
    habit(
        &[
            "install",
            "uninstall",
            "module:update",
            "module:publish",
            "package",
            "plugins",
            "plus",
            "link-pm2",
            "unlink",
            "open",
            "register",
            "report",
            "autoinstall",
        ],
        "pm2",
        "rotad has no modules and no web service: one program, one file; `rotad --help` lists its verbs",
    ),
    habit(
        &[
            "profile:cpu",
            "profile:mem",
            "profile:heap",
            "profile",
            "thread-backtraces",
            "backtrace",
        ],
        "pm2, pumactl",
        "rotad does not look into programs: `rotad status {pool}` has the pids for a profiler",
    ),
    // Options in the place of a verb.
    habit(
        &["-s reload", "-s restart"],
        "nginx",
        "`rotad reload` brings new code and configuration",
    ),
    habit(
        &["-s stop"],
        "nginx",
        "`rotad stop --now` kills at once, `rotad stop` waits for what is in hand",
    ),
    habit(
        &["-s quit", "-g"],
        "nginx, Workerman",
        "`rotad stop` waits for what is in hand",
    ),
    habit(
        &["-s reopen", "-s"],
        "nginx",
        "RTMIN opens the log files again: `kill -s RTMIN` and the pid in the master's `pid_file`",
    ),
    habit(
        &["-v", "-version"],
        "nginx, php-fpm",
        "`rotad --version` prints the version",
    ),
    habit(
        &[
            "-w",
            "--workers",
            "-b",
            "--bind",
            "--preload",
            "-k",
            "--worker-class",
            "--port",
            "--host",
        ],
        "gunicorn, uvicorn",
        "these are options of the server: `rotad init -- gunicorn app:app` writes a rotad.toml, `count` and `listen` in it",
    ),
    habit(
        &["-f", "--file", "--config", "--configuration", "-y"],
        "docker compose, haproxy, php-fpm",
        "the configuration goes with -c: `rotad check -c FILE`, and so for every verb",
    ),
    habit(
        &["tail"],
        "supervisorctl",
        "`rotad logs -f{one}` follows what workers print, `rotad logs -n {number:100}{one}` prints the last lines",
    ),
];

/// An option of other tools, on a verb of ours (empty: on any).
struct Flag {
    verb: &'static str,
    typed: &'static [&'static str],
    say: &'static str,
}

const fn flag(verb: &'static str, typed: &'static [&'static str], say: &'static str) -> Flag {
    Flag { verb, typed, say }
}

const FLAGS: &[Flag] = &[
    flag(
        "events",
        &["-n", "--lines", "--tail"],
        "`rotad events` prints all that the master keeps: `rotad events | tail -n {number:20}`",
    ),
    flag(
        "events",
        &["--until", "--grep", "-g", "-t", "--timestamps"],
        "each line begins with its time: `rotad events{pools} --since 10min`, and grep; `--json` for scripts",
    ),
    flag(
        "logs",
        &["-S", "-U", "-b"],
        "`--since` and `--until` go by time and `-n` by number: `rotad logs --since 10min{one}`",
    ),
    flag(
        "logs",
        &["-u", "--unit", "--service"],
        "a pool is named without an option: `rotad logs -f {pool}`",
    ),
    flag(
        "logs",
        &["--format", "-o", "--output", "--raw"],
        "lines are printed as workers print them: `rotad logs{one}`, or as objects: `--json`",
    ),
    flag(
        "logs",
        &[
            "--nostream",
            "--no-follow",
            "--no-pager",
            "-e",
            "--pager-end",
        ],
        "this is what `rotad logs{one}` does without -f",
    ),
    flag(
        "logs",
        &[
            "--err",
            "--error",
            "--out",
            "--stderr",
            "--stdout",
            "--highlight",
        ],
        "both streams are shown: `rotad logs{one}` marks stderr by `!`",
    ),
    flag(
        "logs",
        &["--no-log-prefix", "--no-color", "--no-prefix"],
        "one worker's lines have no name before them: `rotad logs POOL/SLOT`",
    ),
    flag(
        "stop",
        &["-t", "--time", "--wait"],
        "how long workers may take is `stop = \"{number:30}s\"` in the file; `rotad stop{pools} --timeout {number:30}s` limits how long the command waits",
    ),
    flag(
        "stop",
        &["-g", "--graceful", "-s"],
        "this is what `rotad stop{pools}` does",
    ),
    flag(
        "stop",
        &["-f", "--force", "-9", "--kill", "-i", "--quick"],
        "`rotad stop{pools} --now` kills at once",
    ),
    flag(
        "start",
        &["-d", "-D", "--daemon", "--daemonize", "--detach", "-b"],
        "`rotad start` is in the background already, `rotad run` in the foreground",
    ),
    flag(
        "start",
        &[
            "-n",
            "-F",
            "--no-daemon",
            "--nodaemon",
            "--foreground",
            "--attach",
        ],
        "`rotad run` is the master in the foreground",
    ),
    flag(
        "run",
        &[
            "-d",
            "-D",
            "--daemon",
            "--daemonize",
            "--detach",
            "--background",
        ],
        "`rotad start` is the master in the background",
    ),
    flag(
        "run",
        &[
            "-n",
            "-F",
            "--no-daemon",
            "--nodaemon",
            "--foreground",
            "--no-daemonize",
        ],
        "this is what `rotad run` does",
    ),
    flag(
        "reload",
        &["-g", "--graceful", "--update-env", "--force"],
        "this is what `rotad reload{pools}` does: with the new environment, without losing a request",
    ),
    flag(
        "roll",
        &["--update-env", "-g", "--graceful", "--no-deps"],
        "`rotad reload{pools}` reads the file and its environment again, `rotad roll{pools}` leaves both as they are",
    ),
    flag(
        "roll",
        &["-t", "--time", "--force", "-f", "--now"],
        "workers are replaced one after another: `rotad roll{pools}`; how long the old ones may take is `stop = \"{number:30}s\"` in the file",
    ),
    flag(
        "check",
        &["-t", "-q", "--quiet", "--config", "--services"],
        "`rotad check` needs no option; its exit code is 0 or 78",
    ),
    flag(
        "status",
        &[
            "-a", "--all", "-l", "--full", "--long", "-q", "--sort", "-n", "--failed", "--type",
            "--state",
        ],
        "all there is: `rotad status{pools} --json`",
    ),
    flag(
        "",
        &["--no-block", "--async", "-a"],
        "`--no-wait` returns at once where a verb waits: `rotad reload --no-wait`",
    ),
    flag(
        "",
        &["--user", "-u", "--system", "-H"],
        "the master of another user is asked as that user: `sudo -u USER rotad status`",
    ),
    flag(
        "",
        &[
            "-f",
            "--file",
            "--config",
            "--configuration",
            "-p",
            "--project",
        ],
        "the configuration goes with -c: `rotad status -c FILE`, and so for every verb",
    ),
    flag(
        "",
        &[
            "-v",
            "--verbose",
            "--debug",
            "-q",
            "--quiet",
            "--silent",
            "-y",
            "--yes",
        ],
        "no verb needs it; how much the master logs is `log_level` in [master]",
    ),
];

/// Verbs that are never suggested for a word that is only spelled alike: each ends or changes what serves.
const NEVER_GUESSED: [&str; 6] = ["stop", "cancel", "rollback", "scale", "signal", "upgrade"];

/// Options of other tools whose value is no pool.
const WITH_VALUE: [&str; 14] = [
    "--since", "--until", "-S", "-U", "--grep", "--format", "-o", "--output", "--time", "-t",
    "--sort", "--type", "--state", "-s",
];

/// A command line as far as it must be known to say what is wrong with it.
pub(super) struct Typed {
    /// The words from the verb on, `-c FILE` left out.
    words: Vec<String>,
}

impl Typed {
    /// `words`: with the name of the program.
    pub(super) fn new(words: &[String]) -> Self {
        let mut kept = Vec::new();
        let mut words = words.iter().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "-c" | "--config-file" => {
                    words.next();
                }
                word if word.starts_with("--config-file=") => {}
                word if word.starts_with("-c") && word.len() > 2 && !word.starts_with("--") => {}
                word => kept.push(word.to_owned()),
            }
        }
        Self { words: kept }
    }

    pub(super) fn verb(&self) -> Option<&str> {
        self.words.first().map(String::as_str)
    }

    /// The only word, if there are no others.
    pub(super) fn only(&self) -> Option<&str> {
        match self.words.as_slice() {
            [word] => Some(word),
            _ => None,
        }
    }

    /// The verb whose help is asked for: `VERB --help`, `help VERB`.
    pub(super) fn helped(&self) -> Option<&str> {
        match self.verb() {
            Some("help") => self.words.get(1).map(String::as_str),
            verb => verb,
        }
    }

    fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The pools that are named, as far as the words can be some.
    fn pools(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut words = self.arguments().iter().map(String::as_str);
        while let Some(word) = words.next() {
            let fit = |c: char| c.is_ascii_alphanumeric() || "_.-*?[]/".contains(c);
            if WITH_VALUE.contains(&word) {
                words.next();
            } else if word.starts_with(|c: char| c.is_ascii_alphabetic() || "_*?[".contains(c))
                && word.chars().all(fit)
                && word.len() <= 64
                && !["stderr", "stdout"].contains(&word)
                && config::signal(word).is_none()
                && !is_file(word)
            {
                names.push(word);
            }
        }
        names
    }

    /// The answer, with the pools in it.
    fn filled(&self, say: &str) -> String {
        let pools: Vec<String> = self
            .pools()
            .iter()
            .map(|pool| shell_words::quote(pool).into_owned())
            .collect();
        let first = pools.first().map_or("POOL", String::as_str);
        let all: String = pools.iter().map(|pool| format!(" {pool}")).collect();
        let one = pools
            .first()
            .map_or(String::new(), |pool| format!(" {pool}"));
        let say = numbered(say, self.number());
        say.replace("{pools}", &all)
            .replace("{one}", &one)
            .replace("{pool}", first)
    }

    /// The first number among the arguments: `-1000`, `-t 5`, `--time=5s`.
    fn number(&self) -> Option<&str> {
        fn digits(word: &str) -> Option<&str> {
            let value = word.rsplit('=').next().unwrap_or(word);
            let value = value.trim_start_matches(['-', '+']).trim_end_matches('s');
            let is_number = !value.is_empty() && value.len() <= 9;
            (is_number && value.bytes().all(|byte| byte.is_ascii_digit())).then_some(value)
        }
        self.arguments().iter().find_map(|word| digits(word))
    }
}

/// The text with a number in place of `{number:DEFAULT}`.
fn numbered(say: &str, number: Option<&str>) -> String {
    let mut filled = String::new();
    let mut rest = say;
    while let Some((before, after)) = rest.split_once("{number:") {
        let (default, behind) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(number.unwrap_or(default));
        rest = behind;
    }
    filled + rest
}

/// What is said, and the exit code. `None`: nothing is known about this command line.
pub(super) fn answer(typed: &Typed) -> Option<(ExitCode, String)> {
    let usage = |text: String| Some((ExitCode::USAGE, text));
    let verb = typed.verb()?;
    let verbs = Args::command();
    if let Some(command) = verbs.find_subcommand(verb) {
        return for_verb(typed, command).and_then(usage);
    }
    if let Some(habit) = find(typed) {
        let of = habit.of;
        let word = config::shown(verb);
        let text = typed.filled(habit.say);
        return usage(format!("there is no `{word}` here ({of}): {text}"));
    }
    if let Some(text) = file(verb, typed.arguments()) {
        return usage(text);
    }
    if Path::new(verb).is_file() {
        return usage(about_file(verb, typed.arguments()));
    }
    let alike = nearest_verb(&verbs, verb);
    let hint = alike.map_or(String::new(), |alike| format!("did you mean `{alike}`? "));
    let word = config::shown(verb);
    let kind = if verb.starts_with('-') {
        "option"
    } else {
        "verb"
    };
    usage(format!(
        "there is no {kind} `{word}`: {hint}`rotad --help` lists the verbs"
    ))
}

fn find(typed: &Typed) -> Option<&'static Habit> {
    let verb = typed.verb()?;
    let pair = typed
        .arguments()
        .first()
        .map(|second| format!("{verb} {second}"));
    let is = |habit: &&Habit, word: &str| habit.typed.contains(&word);
    pair.and_then(|pair| HABITS.iter().find(|habit| is(habit, &pair)))
        .or_else(|| HABITS.iter().find(|habit| is(habit, verb)))
        .or_else(|| {
            let spelled = |known: &str| known.eq_ignore_ascii_case(verb) && verb.len() > 2;
            HABITS
                .iter()
                .find(|habit| habit.typed.iter().any(|known| spelled(known)))
        })
}

/// The verb that is spelled much like this word, unless a guess could harm.
fn nearest_verb(verbs: &Command, word: &str) -> Option<String> {
    let names: Vec<&str> = verbs
        .get_subcommands()
        .flat_map(|verb| std::iter::once(verb.get_name()).chain(verb.get_visible_aliases()))
        .collect();
    config::nearest(word, names)
        .filter(|name| !NEVER_GUESSED.contains(name))
        .map(str::to_owned)
}

/// What is said about words that a verb of ours does not take.
fn for_verb(typed: &Typed, verb: &Command) -> Option<String> {
    let name = verb.get_name();
    let arguments = typed.arguments();
    if matches!(name, "start" | "run")
        && let Some((at, file)) = arguments.iter().enumerate().find(|(_, word)| is_file(word))
    {
        let mut others = arguments.to_vec();
        others.remove(at);
        return self::file(file, &others);
    }
    if name == "scale"
        && let Some((pool, count)) = arguments.iter().find_map(|word| word.split_once('='))
    {
        return Some(format!(
            "write `rotad scale {} {}`",
            config::shown(pool),
            config::shown(count)
        ));
    }
    let known = |flag: &str| {
        verb.get_arguments().any(|arg| {
            let long = arg.get_long_and_visible_aliases().unwrap_or_default();
            long.iter().any(|long| flag == format!("--{long}"))
                || arg
                    .get_short()
                    .is_some_and(|short| flag == format!("-{short}"))
        })
    };
    for word in arguments.iter().filter(|word| word.starts_with('-')) {
        let flag = word.split('=').next().unwrap_or(word);
        if known(flag) {
            continue;
        }
        let of_verb = |one: &&Flag| one.verb == name && one.typed.contains(&flag);
        let of_any = |one: &&Flag| one.verb.is_empty() && one.typed.contains(&flag);
        let answer = FLAGS
            .iter()
            .find(of_verb)
            .or_else(|| FLAGS.iter().find(of_any));
        if let Some(answer) = answer {
            let say = typed.filled(answer.say);
            return Some(format!(
                "`rotad {name}` has no `{}`: {say}",
                config::shown(flag)
            ));
        }
        if matches!(name, "start" | "run" | "init")
            && let Some(key) = flag.strip_prefix("--").map(|key| key.replace('-', "_"))
            && let Some(hint) = config::foreign_key(&key)
        {
            return Some(format!(
                "`{}` stands in the file here: {hint}",
                config::shown(flag)
            ));
        }
    }
    None
}

/// Programs by the ending of their file.
const INTERPRETERS: &[(&str, &str)] = &[
    ("js", "node"),
    ("cjs", "node"),
    ("mjs", "node"),
    ("ts", "node"),
    ("py", "python3"),
    ("php", "php"),
    ("rb", "ruby"),
    ("pl", "perl"),
    ("sh", "sh"),
    ("jar", "java -jar"),
];

/// Endings of configurations of other tools.
const CONFIGURATIONS: [&str; 7] = ["conf", "ini", "json", "yaml", "yml", "service", "cfg"];

/// Whether a word is meant as a file. A program without an ending may have the name of a pool.
fn is_file(word: &str) -> bool {
    let known = ending(word).is_some_and(|ending| {
        INTERPRETERS.iter().any(|(known, _)| *known == ending)
            || CONFIGURATIONS.contains(&ending)
            || ending == "toml"
    });
    let named = word.contains('/') || word.starts_with("Procfile");
    !word.starts_with('-') && (known || named && Path::new(word).is_file())
}

fn ending(word: &str) -> Option<&str> {
    Path::new(word).extension()?.to_str()
}

/// What is said about a file in the place of a verb or of a pool. `arguments`: what was typed beside it.
pub(super) fn file(word: &str, arguments: &[String]) -> Option<String> {
    if let Some((module, object)) = word.split_once(':')
        && !module.is_empty()
        && [module, object].iter().all(|part| {
            part.bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"_.".contains(&c))
        })
    {
        let (shown, quoted) = (config::shown(word), shell_words::quote(word));
        return Some(format!(
            "`{shown}` is an application, not a verb: `rotad init -- gunicorn {quoted}` writes a rotad.toml for it, `rotad start` starts it"
        ));
    }
    is_file(word).then(|| about_file(word, arguments))
}

fn about_file(word: &str, arguments: &[String]) -> String {
    let path = Path::new(word);
    let shown = config::shown(word);
    let quoted = shell_words::quote(word).into_owned();
    if ending(word) == Some("toml") {
        return format!("the configuration file goes with -c: `rotad start -c {quoted}`");
    }
    let interpreter = ending(word).and_then(|ending| {
        INTERPRETERS
            .iter()
            .find(|(known, _)| *known == ending)
            .map(|(_, program)| *program)
    });
    if let Some(kind) = config::foreign_file(path)
        && (kind.is_imported() || interpreter.is_none())
    {
        return format!("{shown} looks like {}: {}", kind.what, kind.instead(path));
    }
    let command = match interpreter {
        Some(interpreter) => format!("{interpreter} {quoted}"),
        None if ending(word).is_some_and(|ending| CONFIGURATIONS.contains(&ending)) => {
            return format!(
                "{shown} is no pool and no rotad.toml: `rotad import {quoted}` reads files of other tools"
            );
        }
        None if word.contains('/') => quoted,
        None => format!("./{quoted}"),
    };
    let mut text = format!(
        "{shown} is a program, not a pool: `rotad init -- {command}` writes a rotad.toml for it, `rotad start` starts it"
    );
    let number = |flags: &[&str]| {
        let at = arguments
            .iter()
            .position(|word| flags.contains(&word.as_str()))?;
        arguments.get(at + 1).map(|value| config::shown(value))
    };
    if let Some(count) = number(&["-i", "--instances"]) {
        let count = if count.parse::<u32>().is_ok_and(|count| count > 0) {
            count
        } else {
            "\"cpus\"".to_owned()
        };
        let _ = write!(text, " (`-i`: `count = {count}` in it)");
    }
    text
}

/// The list of words as it stands in docs/coming-from.md.
pub fn markdown() -> String {
    let mut page = String::from("| typed | from | here |\n|---|---|---|\n");
    for habit in HABITS {
        let words: Vec<String> = habit.typed.iter().map(|word| format!("`{word}`")).collect();
        let say = as_documented(habit.say);
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| {} | {} | {} |",
            words.join(", "),
            habit.of,
            cell(&say)
        );
    }
    page.push_str("\nOptions that are not the same here:\n\n| typed | here |\n|---|---|\n");
    for flag in FLAGS {
        let verb = if flag.verb.is_empty() {
            "VERB"
        } else {
            flag.verb
        };
        let words: Vec<String> = flag.typed.iter().map(|word| format!("`{word}`")).collect();
        let say = as_documented(flag.say);
        let _ = writeln!(
            page,
            "| `rotad {verb}` {} | {} |",
            words.join(", "),
            cell(&say)
        );
    }
    page
}

fn as_documented(say: &str) -> String {
    numbered(say, None)
        .replace("{pools}", " [POOL…]")
        .replace("{one}", " [POOL]")
        .replace("{pool}", "POOL")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    fn said(line: &str) -> Option<(ExitCode, String)> {
        let words: Vec<String> = std::iter::once("rotad")
            .chain(line.split_whitespace())
            .map(str::to_owned)
            .collect();
        answer(&Typed::new(&words))
    }

    /// The commands that an answer names, each as it would be typed.
    fn commands(text: &str) -> Vec<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| code.starts_with("rotad "))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn no_word_has_two_answers_and_none_is_a_verb_of_ours() {
        let verbs = Args::command();
        let mut seen = BTreeSet::new();
        for word in HABITS.iter().flat_map(|habit| habit.typed) {
            assert!(seen.insert(*word), "{word} twice");
            assert!(verbs.find_subcommand(word).is_none(), "{word} is ours");
        }
    }

    #[test]
    fn every_command_in_an_answer_can_be_typed() {
        let says = HABITS
            .iter()
            .map(|habit| habit.say)
            .chain(FLAGS.iter().map(|flag| flag.say));
        for say in says {
            assert!(!say.contains('\n'), "{say}");
            for pools in ["", "web", "web api"] {
                let words = format!("rotad x {pools}");
                let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
                let text = Typed::new(&words).filled(say);
                for command in commands(&text) {
                    // What another program does with the output is not ours.
                    let command = command.split(" | ").next().unwrap_or_default();
                    let command = command
                        .replace("/SLOT", "/0")
                        .replace(" SIGNAL", " HUP")
                        .replace(" N", " 1");
                    let parsed = Args::try_parse_from(command.split_whitespace());
                    let fine = parsed.as_ref().is_ok_and(|_| true)
                        || parsed.is_err_and(|error| error.exit_code() == 0);
                    assert!(fine, "{command}");
                }
            }
        }
    }

    #[test]
    fn pools_that_were_typed_are_in_the_answer() {
        for (line, has) in [
            ("tail -1000 web", "`rotad logs -n 1000 web` prints"),
            ("tail -n 50", "`rotad logs -n 50` prints"),
            ("stop -t 5 web", "`rotad stop web --timeout 5s` limits"),
            ("stop --time=90", "`stop = \"90s\"` in the file"),
            ("stop -t", "`rotad stop --timeout 30s` limits"),
            ("tail -f web", "`rotad logs -f web` follows"),
            ("tail -f", "`rotad logs -f` follows"),
            ("describe web", "`rotad status web` shows"),
            ("describe", "`rotad status POOL` shows"),
            ("delete web", "`rotad stop web` keeps"),
            ("is-active web api", "`rotad status web api --check`"),
            ("tail web_*", "`rotad logs -f 'web_*'`"),
            ("-c x.toml tail web", "`rotad logs -f web`"),
            ("tail web stderr", "`rotad logs -f web` follows"),
            ("UPDATE", "`rotad reload --config`"),
            ("sendSignal SIGUSR2 web", "`rotad signal web SIGNAL`"),
            ("startOrReload ecosystem.config.js", "`rotad reload` brings"),
            ("logs -S today web", "`rotad logs --since 10min web`"),
        ] {
            let (code, text) = said(line).expect(line);
            assert_eq!(code, ExitCode::USAGE, "{line}");
            assert!(text.contains(has) && !text.contains('\n'), "{line}: {text}");
        }
    }

    #[test]
    fn nothing_that_harms_is_guessed_from_spelling() {
        for line in [
            "stpo", "stopp", "sotp", "tops", "scael", "singal", "rolback", "cancle", "upgrad",
            "cancl",
        ] {
            let (code, text) = said(line).expect(line);
            assert_eq!(code, ExitCode::USAGE);
            for verb in NEVER_GUESSED {
                assert!(!text.contains(&format!("`{verb}`")), "{line}: {text}");
            }
        }
        for (line, verb) in [
            ("stauts", "status"),
            ("relaod", "reload"),
            ("chekc", "check"),
            ("rol", "roll"),
        ] {
            let (_, text) = said(line).expect(line);
            assert!(
                text.contains(&format!("did you mean `{verb}`?")),
                "{line}: {text}"
            );
        }
    }
}
