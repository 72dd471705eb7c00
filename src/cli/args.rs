//! The command line's definition. The doc comment of a verb or flag is its help text.

pub(super) use super::value_parsers::Target;
use super::{console, value_parsers};
use crate::control::protocol::ScaleTo;
use clap::{Parser, Subcommand};
use regex_lite::Regex;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// A process master: workers in any language, rolled without losing a request
#[derive(Debug, Parser)]
#[command(name = "rotad", version, arg_required_else_help = true, max_term_width = 100, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The configuration file; default: the first found of $ROTAD_CONFIG, ./rotad.toml, ./config/rotad.toml, /etc/rotad/rotad.toml
    #[arg(short = 'c', long = "config-file", global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

pub(super) const AFTER_HELP: &str = "\
Signals to the master: TERM, QUIT, INT stop; USR1 rolls the workers, USR2 the task workers.
Exit codes: 0 done, 1 failed, 2 usage, 3 stopped or failed (status --check), 4 no such pool or no master, \
5 not permitted, 10 aborted or rolled back (the old workers serve; if none does: 1), 69 an essential pool failed, \
75 already running, 78 configuration error, 124 timed out.";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the master in the foreground
    Run {
        /// The configuration file (as -c)
        file: Option<PathBuf>,
        /// Stop workers that a killed master left behind before anything is started, instead of adopting them
        #[arg(long)]
        take_over: bool,
        /// Refuse to start (exit 1) if a killed master left workers, and name them
        #[arg(long, conflicts_with = "take_over")]
        no_take_over: bool,
    },
    /// Start the master in the background
    ///
    /// Returns when every pool is ready. With POOL: start stopped pools again.
    Start {
        /// Start these stopped pools of a running master again
        #[arg(value_name = "POOL", conflicts_with_all = ["take_over", "no_take_over"])]
        pools: Vec<String>,
        /// Return as soon as sockets and pid file exist; with POOL: as soon as the master has accepted the request
        #[arg(long)]
        no_wait: bool,
        /// Wait no longer than this ("30s", "2min"): then exit 124, and the start goes on
        #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration, conflicts_with = "no_wait")]
        timeout: Option<Duration>,
        /// Stop workers that a killed master left behind before anything is started, instead of adopting them
        #[arg(long)]
        take_over: bool,
        /// Refuse to start (exit 1) if a killed master left workers, and name them
        #[arg(long, conflicts_with = "take_over")]
        no_take_over: bool,
    },
    /// Stop the master and its workers gracefully
    ///
    /// Returns when all are gone. With POOL: stop these pools only.
    Stop {
        /// Stop these pools only: they stay stopped, also across reloads, until `start POOL`
        #[arg(value_name = "POOL")]
        pools: Vec<String>,
        /// Kill immediately what is still running
        #[arg(long)]
        now: bool,
        /// Wait no longer than this ("30s", "2min"): then exit 124, and the stop goes on
        #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration)]
        timeout: Option<Duration>,
    },
    /// Bring new code and configuration into service
    ///
    /// Reads the configuration, applies what changed, and rolls each pool once.
    Reload {
        #[command(flatten)]
        which: Selector,
        /// Only apply what changed in the configuration, as HUP does
        #[arg(long = "config", conflicts_with_all = ["pools", "workers", "tasks", "dry_run"])]
        config_only: bool,
        /// Print what would be done, without doing it
        #[arg(long)]
        dry_run: bool,
        /// With --dry-run: as JSON
        #[arg(long, requires = "dry_run")]
        json: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Replace every worker by a new one, one after another
    ///
    /// The configuration stays as it is.
    #[command(visible_alias = "restart")]
    Roll {
        /// Only these pools or workers; default: all pools
        #[arg(value_name = "POOL[/SLOT]")]
        pools: Vec<String>,
        /// Only pools of kind worker
        #[arg(long)]
        workers: bool,
        /// Only pools of kind task
        #[arg(long)]
        tasks: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Roll back to the generation before the one that serves
    ///
    /// With its configuration and, if it still exists, its directory.
    Rollback {
        /// Only these pools; default: all
        #[arg(value_name = "POOL")]
        pools: Vec<String>,
        /// To this generation, earlier or later: any that was fully rolled out and is remembered
        #[arg(long, value_name = "N")]
        to: Option<u32>,
        /// Print what would be done, without doing it
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Cancel a running rolling restart, and go back
    ///
    /// It goes back to the last generation that was fully rolled out, and returns when that is done.
    Cancel {
        /// Only these pools; default: all
        #[arg(value_name = "POOL")]
        pools: Vec<String>,
    },
    /// Replace the master by a new version of rotad
    ///
    /// Workers serve on. `--to` takes any program.
    Upgrade {
        /// The program; default: the path by which the master was started
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Wait no longer than this ("30s", "2min"): then exit 124, and the upgrade goes on
        #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration)]
        timeout: Option<Duration>,
    },
    /// Show the pools, or one pool's workers
    #[command(visible_aliases = ["ls", "ps", "list"])]
    Status(StatusArgs),
    /// Validate the configuration, and report all findings
    #[command(visible_aliases = ["validate", "configtest"])]
    Check {
        /// The configuration file (as -c)
        file: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what rotad can do on this machine
    ///
    /// What this kernel, its limits, cgroups, systemd and rights allow, and what is done where they do not. It reads and tries, and changes nothing. Exit code 0: rotad runs here, perhaps with less; 1: it cannot.
    Doctor,
    /// Change a pool's number of workers
    ///
    /// The others are not touched. The number holds until the one in the file changes, or the master restarts.
    Scale {
        #[arg(value_name = "POOL")]
        pool: String,
        /// The number (4), or how many more (+1) or fewer (-1)
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = value_parsers::size)]
        count: ScaleTo,
    },
    /// Pass a signal to workers that are ready
    Signal {
        /// All workers of a pool, or one
        #[arg(value_name = "POOL[/SLOT]")]
        target: Target,
        /// The signal's name, with or without SIG, or its number
        #[arg(value_name = "SIGNAL", value_parser = value_parsers::signal)]
        signal: i32,
    },
    /// Show the last lines that workers printed
    ///
    /// Without a master: the last lines of their log files, or of the master's.
    Logs {
        /// Then show new lines as they come, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines; default: 20
        #[arg(short = 'n', long = "lines", visible_alias = "tail", value_name = "N")]
        lines: Option<u32>,
        /// Only lines from then on ("10min" ago, "2026-11-27", "2026-11-27T10:00:00Z", "10:00"; UTC); with -n at most so many
        #[arg(long, value_name = "TIME", value_parser = value_parsers::moment)]
        since: Option<SystemTime>,
        /// Only lines up to then, written as for --since
        #[arg(long, value_name = "TIME", value_parser = value_parsers::moment, conflicts_with = "follow")]
        until: Option<SystemTime>,
        /// Only lines that this regular expression matches ("(?i)error" in any case)
        #[arg(short = 'g', long, value_name = "REGEX", value_parser = value_parsers::pattern)]
        grep: Option<Regex>,
        /// As JSON, one object per line
        #[arg(long, conflicts_with = "timestamps")]
        json: bool,
        /// The time before each line: when the master read it, UTC
        #[arg(short, long)]
        timestamps: bool,
        /// Only these pools or workers; default: all
        #[arg(value_name = "POOL[/SLOT]")]
        targets: Vec<Target>,
    },
    /// Show what the master did and why
    Events {
        /// Show the last ten, then new ones as they come, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// As JSON, one object per line
        #[arg(long)]
        json: bool,
        /// Only events from then on ("10min" ago, "2026-11-27", "2026-11-27T10:00:00Z", "10:00"; UTC)
        #[arg(long, value_name = "TIME", value_parser = value_parsers::moment)]
        since: Option<SystemTime>,
        /// Only events of these pools; default: all
        #[arg(value_name = "POOL")]
        pools: Vec<String>,
    },
    /// Print the numbers for Prometheus
    ///
    /// One page of OpenMetrics: pools, workers, rolls, listening sockets, logs. `rotad serve` serves the same over HTTP.
    Metrics {
        /// The format: OpenMetrics 1.0, or `text`, the text format 0.0.4 of Prometheus
        #[arg(long, value_name = "FORMAT", default_value = "openmetrics", value_parser = ["openmetrics", "text"])]
        format: String,
        /// Add the proportional memory (PSS) of workers that this user may trace: shared pages count by their part. Walks page tables
        #[arg(long)]
        pss: bool,
    },
    /// Run a self-contained demo, with commands to try
    Demo {
        /// Put load on it, roll three times, print how many requests were lost, and exit
        #[arg(long)]
        once: bool,
        /// The web workers' port; default: 8080, or the next free one
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
    },
    /// Write a configuration and a systemd unit
    ///
    /// For this directory, after what is found in it.
    Init {
        /// Write every key, commented, and not only what differs from the defaults
        #[arg(long)]
        full: bool,
        /// What the workers run; default: what the directory's files say, else an example
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Make a configuration from another manager's
    ///
    /// Each key of the source is taken, otherwise (what differs), lost (what to do instead) or not needed; all but the
    /// first are shown. Never overwrites a file.
    Import(ImportArgs),
    /// Serve a page with what runs, and its metrics, over HTTP
    ///
    /// A process of its own (rotad-console), which the master does not need. Read-only.
    Serve(console::Serve),
    /// Show live what runs; roll, scale or stop it by a key
    ///
    /// A process of its own (rotad-console), which the master does not need.
    Top(console::Top),
    /// Try a hook: run it as if its event had happened
    ///
    /// The running master runs it, and says how it ended: 0 done, 1 failed. Its event is the first of `on`, with `"test": true`.
    Hook {
        /// The hook, as [hooks.NAME] has it
        name: String,
    },
    /// Print completions for a shell
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Print the JSON schema of the configuration, for editors
    ///
    /// With the line `#:schema PATH` at the top of a configuration, editors that use taplo (Even Better TOML, Helix, …)
    /// complete keys, show what they do, and mark mistakes. `rotad check` finds more.
    Schema,
}

#[derive(Debug, clap::Args)]
pub(super) struct Selector {
    /// Only these pools; default: all
    #[arg(value_name = "POOL")]
    pub(super) pools: Vec<String>,
    /// Only pools of kind worker
    #[arg(long)]
    pub(super) workers: bool,
    /// Only pools of kind task
    #[arg(long)]
    pub(super) tasks: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// Return as soon as the master has accepted the request
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Wait no longer than this ("30s", "2min"): then exit 124, and the work goes on
    #[arg(long, value_name = "DURATION", value_parser = value_parsers::duration)]
    pub(super) timeout: Option<Duration>,
    /// Also wait for old workers that are still finishing requests
    #[arg(long, conflicts_with = "no_wait")]
    pub(super) drained: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Only these pools; of a single one, one row per worker
    #[arg(value_name = "POOL")]
    pub(super) pools: Vec<String>,
    /// Refresh every second, until Ctrl-C
    #[arg(short = 'w', long, conflicts_with = "check")]
    pub(super) watch: bool,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 0 if every desired worker is ready, 1 if not, 3 if stopped or failed, 4 if unknown or unreachable
    #[arg(long)]
    pub(super) check: bool,
    /// With --check: this many ready workers are enough
    #[arg(long, value_name = "N", requires = "check")]
    pub(super) min_ready: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The files to read
    #[arg(value_name = "FILE", required_unless_present = "command")]
    pub(super) files: Vec<PathBuf>,
    /// What the files are; default: by name and content
    #[arg(long = "from", value_name = "KIND", value_parser = value_parsers::import_kind())]
    pub(super) kind: Option<String>,
    /// Where to write; `-` prints it
    #[arg(short, long, value_name = "FILE", default_value = "rotad.toml")]
    pub(super) output: PathBuf,
    /// The profile to merge: `env_NAME` of pm2
    #[arg(long = "env", value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Write nothing and exit with 1 if a key is lost
    #[arg(long)]
    pub(super) strict: bool,
    /// A command line of Einhorn or Server::Starter, in place of a file
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code::ExitCode;
    use clap::CommandFactory;

    #[test]
    fn the_help_lists_the_exit_codes() {
        // Not the shell's way to say SIGINT.
        for (code, _) in ExitCode::MEANINGS {
            let listed = AFTER_HELP.contains(&format!(" {code} "));
            assert_eq!(listed, code != ExitCode::DETACHED, "{code}");
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_may_precede_or_follow_the_verb() {
        for line in [
            ["rotad", "-c", "a", "status"],
            ["rotad", "status", "-c", "a"],
        ] {
            assert_eq!(
                Args::try_parse_from(line).unwrap().config.unwrap(),
                PathBuf::from("a")
            );
        }
        let Verb::Run { file, .. } = Args::try_parse_from(["rotad", "run", "a"]).unwrap().verb
        else {
            panic!()
        };
        assert_eq!(file.unwrap(), PathBuf::from("a"));
    }

    #[test]
    fn documented_command_lines_parse_and_others_are_usage_errors() {
        let good = "reload --config|reload --dry-run|reload web --timeout 10s|roll --tasks|roll web/0|stop web --now|\
            start web|scale web +2|scale web -2|signal web/0 HUP|logs -f -n 5 web|events -f|init -- php a.php|\
            completions bash|hook chat|man|schema|status -w|status web --check --min-ready 2|cancel|rollback web|roll --drained|\
            demo --once --port 0|check --json a.toml|start --no-wait --take-over|start web api --timeout 5s|\
            stop web api --timeout 5s|logs --follow|logs --since 10:00 --until 2026-11-27 -g x|logs --json web|reload --dry-run --json|events web --since 2h|logs web/0 -n 3|events --json|rollback --drained|rollback web --to 2|rollback --dry-run --to 3|status -w --json|\
            import a.conf b.conf --from supervisord -o - --strict|import Procfile --env production|\
            import -- einhorn -n 2 serve";
        for line in good.split('|') {
            let words = ["rotad"].into_iter().chain(line.split_whitespace());
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "nosuch",
            "status --nosuch",
            "roll --timeout x",
            "status --min-ready 1",
            "",
            "scale web",
            "scale web x",
            "signal web NOPE",
            "signal web/x TERM",
            "logs -n x",
            "logs --since nonsense",
            "logs --grep (",
            "logs -f --until 10:00",
            "logs --json -t",
            "reload --json",
            "reload --config web",
            "reload --config --dry-run",
            "roll --no-wait --drained",
            "status -w --check",
            "rollback --to x",
            "import",
            "import a --from nosuch",
        ] {
            let words = ["rotad"].into_iter().chain(line.split_whitespace());
            assert_eq!(
                Args::try_parse_from(words).unwrap_err().exit_code(),
                2,
                "{line}"
            );
        }
        assert_eq!(
            Args::try_parse_from(["rotad", "--help"])
                .unwrap_err()
                .exit_code(),
            0
        );
        assert_eq!(
            Args::try_parse_from(["rotad", "--version"])
                .unwrap_err()
                .exit_code(),
            0
        );
    }
}
