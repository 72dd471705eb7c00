//! Resolves the parsed sections into a plan: fills in defaults, looks up names, finds contradictions.

use super::cross_checks::{self, Marked};
use super::envfile::EnvFiles;
use super::listeners::Listeners;
use super::paths::{self, ConfigPaths};
use super::pool::Pool;
use super::reader::{Located, Parser};
use super::sections::{Config, Control, Master, Signals};
use super::{accounts, hooks, logs, resolve_pool};
use crate::plan::{ControlPlan, MasterPlan, PathPattern, Plan, SignalMap, Source};
use nix::unistd::Uid;
use rotad_core::Span;

/// Makes the plan. It is valid only if the parser has no errors afterwards.
pub(super) fn plan(
    parser: &mut Parser,
    config: Config,
    pools: Vec<(Located<String>, Pool)>,
    place: ConfigPaths,
    mut sources: Vec<Source>,
    include: Vec<PathPattern>,
) -> Plan {
    let Config {
        master,
        control,
        signals,
        listen,
        hooks,
        ..
    } = config;
    let mut listeners = Listeners::declare(parser, listen);
    let mut files = EnvFiles::default();
    if pools.is_empty() && !parser.report.has_errors() {
        parser.error_with(
            &(0..0),
            "there is no pool: nothing to run",
            "add [pool.web] with a command",
        );
    }
    let mut pools: Vec<Marked> = pools
        .into_iter()
        .map(|(name, pool)| resolve_pool::pool(parser, &mut listeners, &mut files, &name, pool))
        .collect();
    sources.extend(files.into_sources());
    let master = make_master(parser, master, &place);
    let hooks = hooks::make(parser, hooks);
    let listeners = listeners.finish(parser);
    cross_checks::order(parser, &mut pools);
    cross_checks::ports(parser, &pools, &listeners);
    cross_checks::logs(parser, &pools, &master, &sources);
    Plan {
        sources,
        include,
        master,
        control: make_control(parser, &control),
        signals: make_signals(&signals),
        listeners,
        pools: pools.into_iter().map(|(pool, _)| pool).collect(),
        hooks,
        config: place.given,
        real: place.real,
    }
}

/// A shorter watchdog of the master would kill it on a busy machine.
const SHORTEST_WATCHDOG: Span = Span::from_secs(1);

fn make_master(parser: &mut Parser, master: Master, place: &ConfigPaths) -> MasterPlan {
    let name = master
        .name
        .map_or_else(|| place.name.clone(), |at| at.value);
    if let Some(at) = master
        .runtime_dir
        .as_ref()
        .filter(|at| place.base.is_symlink() && at.value.starts_with(&place.base))
    {
        let message = "this directory is part of the release that a link leads to: it goes when that release is deleted";
        parser.warning(&at.span, message, "write an absolute path, or leave it out");
    }
    let runtime_dir = master
        .runtime_dir
        .map_or_else(|| paths::runtime_dir(&name), |at| at.value);
    logs::large_enough(parser, master.log_max_size.written.as_ref());
    logs::keeps_some(
        parser,
        &master.log_max_size,
        master.log_keep.written.as_ref(),
        "log_keep",
    );
    if let Some(at) = &master.log_file
        && logs::leads_to_descriptor(&at.value).is_some()
    {
        let message = format!(
            "{} is no file, but what this process has open",
            at.value.display()
        );
        let hint = "leave `log_file` out: `rotad run` logs to stderr, which whatever starts it can redirect";
        parser.error_with(&at.span, message, hint);
    }
    let pid_file = master
        .pid_file
        .map_or_else(|| runtime_dir.join("master.pid"), |at| at.value);
    let default_log_file = paths::log_file(&name);
    // The file is UTF-8, but the paths that defaults are made from may not be.
    for path in [&runtime_dir, &pid_file, &default_log_file] {
        if let Some(message) = paths::unnameable(path) {
            parser.error_of_file(
                message,
                "it comes from $XDG_STATE_HOME or $HOME: rename the directory",
            );
            break;
        }
    }
    if let Some(at) = &master.watchdog {
        if at.value < SHORTEST_WATCHDOG {
            let message = "this is too short for a busy machine: write at least \"1s\"";
            parser.error(&at.span, message);
        } else if !master.guardian.value() {
            let message = "`watchdog` means nothing with guardian = false";
            parser.error(&at.span, message);
        }
    }
    if let Some(at) = &master.watch_program.written
        && at.value
        && !master.guardian.value()
    {
        let message =
            "an upgrade needs the guardian: `watch_program` means nothing with guardian = false";
        parser.error(&at.span, message);
    }
    MasterPlan {
        daemonize: master.daemonize.value(),
        pid_file,
        working_directory: master.working_directory.value(),
        umask: master.umask.value(),
        log_file: master.log_file.map(|at| at.value),
        default_log_file,
        log_format: master.log_format.value(),
        log_level: master.log_level.value(),
        log_max_size: master.log_max_size.value().unwrap_or(0),
        log_keep: master.log_keep.value(),
        stop_timeout: master.stop_timeout.map(|at| at.value.into()),
        watch_config: master.watch_config.value(),
        watch_program: master.watch_program.value(),
        guardian: master.guardian.value(),
        watchdog: master.watchdog.map(|at| at.value.into()),
        runtime_dir,
        name,
    }
}

fn make_control(parser: &mut Parser, control: &Control) -> ControlPlan {
    let group = control
        .group
        .as_ref()
        .and_then(|name| accounts::group(parser, name));
    if let (Some(name), Some(gid)) = (&control.group, group)
        && !Uid::effective().is_root()
        && !accounts::own_groups().contains(&gid)
    {
        parser.error(
            &name.span,
            "only root can give a socket to a group that it is not in",
        );
    }
    let mode = control.mode.as_ref().map(|at| at.value);
    if let (Some(name), Some(mode)) = (&control.group, mode)
        && mode & 0o060 == 0
    {
        parser.error_with(
            &name.span,
            "`mode` gives this group nothing",
            "write mode = \"0660\"",
        );
    }
    // A group alone means that its members may connect.
    let default = if group.is_some() { 0o660 } else { 0o600 };
    ControlPlan {
        mode: mode.unwrap_or(default),
        group,
    }
}

fn make_signals(signals: &Signals) -> SignalMap {
    SignalMap {
        hup: signals.hup.value(),
        usr1: signals.usr1.value(),
        usr2: signals.usr2.value(),
        winch: signals.winch.value(),
    }
}
