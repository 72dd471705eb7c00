//! Resolves one parsed pool into its plan.

use super::cross_checks::{Marked, PoolSpans};
use super::envfile::EnvFiles;
use super::listeners::Listeners;
use super::pool::Pool;
use super::pool_tables;
use super::probe::ReadyText;
use super::reader::{Located, Parser};
use super::report::shown;
use super::resolve_metrics;
use super::resolve_probe::{self, Crowd};
use super::section::written;
use super::templates::Templates;
use super::{accounts, logs, ports, preflight, stop_steps, watch};
use crate::plan::{Kind, ListenPlan, PoolPlan, Ready, Recipe, Recycle, Template};
use rotad_core::{Essential, Policy, PoolKind, Readiness, Reload, Restart, RestartPolicy, Span};

/// How long a worker that reports nothing must live to count as ready (`auto` without listeners).
const AUTO: Span = Span::from_secs(1);

/// With less memory than this no program could run. In bytes.
const LEAST_RSS: u64 = 1 << 20;

pub(super) fn pool(
    parser: &mut Parser,
    listeners: &mut Listeners,
    files: &mut EnvFiles,
    name: &Located<String>,
    pool: Pool,
) -> Marked {
    let kind = pool.kind.value();
    let policy = policy(parser, kind, &pool);
    warn_by_age(parser, name, &pool, &policy);
    warn_scheduler(parser, &pool, &policy);
    let sockets = sockets(parser, listeners, &pool);
    let plans: Vec<ListenPlan> = sockets
        .listen
        .iter()
        .map(|index| listeners.plans[*index].clone())
        .collect();
    let mut texts = Templates {
        listeners: &plans,
        // A refused listener has its finding already; its placeholders need no other.
        complete: sockets.complete,
        passed: sockets.passed,
        ports: pool.ports.is_some(),
        uses_port: false,
    };
    let crowd = Crowd {
        count: policy.count,
        surge: policy.reload.surge,
    };
    let ready = match &pool.ready {
        None => Ready::Auto,
        Some(at) => match &at.value {
            ReadyText::Known(ready) => ready.clone(),
            ReadyText::Probe(text) => resolve_probe::check(parser, &mut texts, text, crowd)
                .map_or(Ready::Auto, Ready::Probe),
        },
    };
    let health = pool
        .health
        .as_ref()
        .and_then(|health| resolve_probe::health(parser, &mut texts, health, crowd));
    let metrics = pool
        .metrics
        .as_ref()
        .and_then(|metrics| resolve_metrics::metrics(parser, &mut texts, metrics, crowd));
    let (watch, log) = (
        watch::make(parser, &pool.reload),
        logs::make(parser, &name.value, &pool.log),
    );
    let recycle = recycle(parser, &pool);
    let roll_on = pool.reload.on.value();
    let marks = PoolSpans {
        after: pool.after.clone(),
        ports: pool.ports.as_ref().map(|at| at.span.clone()),
        files: log.files,
    };
    let written = pool
        .ports
        .clone()
        .and_then(|at| Some(Located::new(at.value?, at.span)));
    let recipe = recipe(parser, files, name, pool, sockets, &mut texts);
    if let Some(at) = &written {
        ports::enough(
            parser,
            at,
            policy.count,
            policy.reload.surge,
            policy.reload.max_draining,
        );
        if !texts.uses_port {
            parser.warning(
                &at.span,
                "no worker is told its port",
                "write `{port}` into `command` or `env`",
            );
        }
    }
    let ports = written.map(|at| at.value);
    let (name, after) = (name.value.clone(), Vec::new());
    let plan = PoolPlan {
        name,
        kind,
        policy,
        after,
        ready,
        recipe,
        ports,
        recycle,
        health,
        watch,
        roll_on,
        log: log.plan,
        metrics,
    };
    (plan, marks)
}

fn essential(parser: &mut Parser, pool: &Pool) -> Option<Essential> {
    let at = pool.essential.as_ref()?;
    match at.value {
        Essential::Ready(Span::ZERO) => {
            parser.error_with(
                &at.span,
                "the master would stop at once",
                "write how long the pool may be without a worker",
            );
        }
        Essential::Exit if pool.restart.policy.value() == RestartPolicy::Always => {
            let hint = "add `policy = \"never\"` or `policy = \"on-failure\"` to its `restart`";
            parser.error_with(
                &at.span,
                "a pool that is always started again never ends",
                hint,
            );
        }
        Essential::Ready(_) | Essential::Exit => {}
    }
    Some(at.value)
}

fn recycle(parser: &mut Parser, pool: &Pool) -> Recycle {
    if let Some(at) = pool
        .recycle
        .max_age
        .as_ref()
        .filter(|at| at.value == Span::ZERO)
    {
        parser.error_with(
            &at.span,
            "workers would be replaced all the time",
            "leave it out for workers that stay",
        );
    }
    if let Some(at) = pool
        .recycle
        .max_rss
        .as_ref()
        .filter(|at| at.value < LEAST_RSS)
    {
        parser.error_with(
            &at.span,
            "no worker needs as little memory as that",
            "1MiB is the least",
        );
    }
    Recycle {
        max_age: pool.recycle.max_age.as_ref().map(|at| at.value.into()),
        max_rss: pool.recycle.max_rss.as_ref().map(|at| at.value),
        at: pool.recycle.at.as_ref().map(|at| at.value),
    }
}

fn policy(parser: &mut Parser, kind: Kind, pool: &Pool) -> Policy {
    let count = pool.count.value();
    let default_stop = match kind {
        Kind::Worker => Span::from_secs(30),
        Kind::Task => Span::from_secs(300),
        Kind::Oneshot => Span::from_secs(30),
    };
    let default_timeout = if kind == Kind::Oneshot {
        Span::FOREVER
    } else {
        Span::from_secs(60)
    };
    let ready_timeout = pool
        .ready_timeout
        .as_ref()
        .map_or(default_timeout, |at| at.value);
    if let Some(at) = pool
        .ready_timeout
        .as_ref()
        .filter(|at| at.value == Span::ZERO)
    {
        parser.error_with(
            &at.span,
            "no worker is ready in no time",
            "leave it out for the default",
        );
    }
    let auto = pool
        .ready
        .as_ref()
        .is_none_or(|at| matches!(at.value, ReadyText::Known(Ready::Auto)));
    let by_living = kind != Kind::Oneshot && !pool.listens() && auto;
    if let Some(at) = pool
        .ready_timeout
        .as_ref()
        .filter(|at| by_living && (Span(1)..=AUTO).contains(&at.value))
    {
        let hint = "make it longer than 1 s, or write ready = \"notify\"";
        parser.warning(
            &at.span,
            "only READY=1 can make these workers ready: living for 1 s comes too late",
            hint,
        );
    }
    Policy {
        count,
        readiness: readiness(parser, pool, ready_timeout),
        ready_timeout,
        stop: pool
            .stop
            .clone()
            .unwrap_or_else(|| stop_steps::term(default_stop)),
        reload: reload(count, &pool.reload),
        restart: restart(parser, &pool.restart),
        kind: if kind == Kind::Oneshot {
            PoolKind::Oneshot
        } else {
            PoolKind::Service
        },
        // The master assigns the pool numbers.
        after: Vec::new(),
        max_starting: pool.max_starting.as_ref().map(|at| at.value),
        essential: essential(parser, pool),
    }
}

/// Warns if readiness only by age may be mistaken for a proof. A user who sets a `soak` at least as long as the
/// default knows.
fn warn_by_age(parser: &mut Parser, name: &Located<String>, pool: &Pool, policy: &Policy) {
    let Readiness::Alive(after) = policy.readiness else {
        return;
    };
    let (soak, stable_after) = (policy.soak(true), policy.restart.stable_after);
    if policy.kind == PoolKind::Oneshot
        || policy.reload.soak.is_some_and(|soak| soak >= stable_after)
    {
        return;
    }
    let place = pool
        .ready
        .as_ref()
        .map_or(&name.span, |at| parser.more_specific(&at.span, &name.span))
        .clone();
    let alive = if after == Span::ZERO {
        "once its program runs".to_owned()
    } else {
        format!("after {after}")
    };
    let watched = if soak == Span::ZERO {
        "no longer".to_owned()
    } else {
        format!("for {soak}")
    };
    let message = format!(
        "nothing but its age says that a worker is ready: it counts as alive {alive}, and a deploy watches it {watched}"
    );
    let hint = format!(
        "write ready = \"notify\", or a check: ready = {{ command = [\"…\"] }}, {{ http = \"…\" }} or {{ connect = \"…\" }}; \
         where an age is all there is, `soak = \"{}\"` in `reload` says that you know",
        humantime::format_duration(stable_after.into())
    );
    parser.warning(&place, message, hint);
}

/// Warns if a scheduler would run twice while it is rolled: each of its jobs would start twice. A user who writes
/// `surge` has decided.
fn warn_scheduler(parser: &mut Parser, pool: &Pool, policy: &Policy) {
    let Some(command) = pool
        .command
        .as_ref()
        .filter(|_| pool.reload.surge.written.is_none())
    else {
        return;
    };
    if policy.kind == PoolKind::Oneshot || policy.reload.surge == 0 {
        return;
    }
    let words: Vec<&str> = command
        .value
        .iter()
        .map(|word| word.value.as_str())
        .collect();
    let Some(scheduler) = scheduler(&words) else {
        return;
    };
    let message = format!(
        "{scheduler} exists twice during a rolling restart, and starts each of its jobs twice"
    );
    parser.warning(
        &command.span,
        message,
        "add reload = { surge = 0 }: the old one ends before the new one starts",
    );
}

/// The scheduler that a command runs, by the names that the widespread ones have.
fn scheduler(words: &[&str]) -> Option<&'static str> {
    const PROGRAMS: [&str; 6] = [
        "clockwork",
        "cron",
        "crond",
        "rqscheduler",
        "sidekiq-scheduler",
        "supercronic",
    ];
    let name = |word: &&str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let program = words.first().map(name).unwrap_or_default();
    if words.contains(&"beat") && words.iter().any(|word| name(word) == "celery") {
        return Some("celery beat");
    }
    if words.contains(&"schedule:work") {
        return Some("schedule:work");
    }
    PROGRAMS.into_iter().find(|known| *known == program)
}

fn readiness(parser: &mut Parser, pool: &Pool, timeout: Span) -> Readiness {
    let listens = pool.listens();
    let Some(ready) = &pool.ready else {
        return if listens {
            Readiness::Reported
        } else {
            Readiness::Alive(AUTO)
        };
    };
    let ReadyText::Known(known) = &ready.value else {
        return Readiness::Reported;
    };
    match known {
        Ready::Auto if !listens => Readiness::Alive(AUTO),
        Ready::Auto | Ready::Notify | Ready::Probe(_) => Readiness::Reported,
        Ready::Accepting => {
            if !listens {
                parser.error_with(
                    &ready.span,
                    "`ready`: accepting on which listener?",
                    "add `listen`, or write \"notify\"",
                );
            }
            Readiness::Reported
        }
        Ready::Spawned => Readiness::Alive(Span::ZERO),
        Ready::After(after) => {
            let after = Span::from(*after);
            if after >= timeout {
                let message =
                    format!("`after` is never reached: `ready_timeout` ({timeout}) comes first");
                let limit = pool
                    .ready_timeout
                    .as_ref()
                    .map_or(&ready.span, |at| &at.span);
                let place = parser.more_specific(&ready.span, limit).clone();
                parser.error_with(&place, message, "make `ready_timeout` longer");
            }
            Readiness::Alive(after)
        }
    }
}

fn reload(count: u32, reload: &pool_tables::Reload) -> Reload {
    Reload {
        surge: reload.surge.value().of(count),
        max_draining: reload
            .max_draining
            .as_ref()
            .map_or(count, |at| at.value)
            .max(1),
        soak: reload.soak.as_ref().map(|at| at.value),
        on_failure: reload.on_failure.value(),
    }
}

fn restart(parser: &mut Parser, restart: &pool_tables::Restart) -> Restart {
    let policy = restart.policy.value();
    let delay = restart.delay.value();
    let max_delay = restart.max_delay.value();
    match (&restart.delay.written, &restart.max_delay.written) {
        (Some(at), None) if delay > max_delay => {
            let message =
                format!("`delay` ({delay}) is above the default of `max_delay` ({max_delay})");
            parser.error_with(&at.span, message, "set `max_delay`, too");
        }
        (written, Some(at)) if delay > at.value => {
            let message = format!("`max_delay` ({max_delay}) is below `delay` ({delay})");
            let place = parser
                .more_specific(&at.span, written.as_ref().map_or(&at.span, |at| &at.span))
                .clone();
            parser.error_with(
                &place,
                message,
                "the delay grows from `delay` to `max_delay`",
            );
        }
        _ => {}
    }
    let success_exit_codes = restart.success_exit_codes.value();
    let never_on = restart
        .never_on
        .as_ref()
        .map_or_else(Vec::new, |at| at.value.clone());
    if let Some(at) = &restart.never_on
        && let Some(code) = never_on
            .iter()
            .find(|code| success_exit_codes.contains(code))
    {
        let hint = "it is either an end that is none to be repaired, or one after which nothing is started";
        parser.error_with(
            &at.span,
            format!("{code} is one of `success_exit_codes`"),
            hint,
        );
    }
    if policy == RestartPolicy::Never {
        for (key, span) in written!(restart, delay, max_delay, stable_after, never_on) {
            parser.unused_key(
                span,
                format!("`{key}` means nothing with policy = \"never\""),
                "leave it out",
            );
        }
    }
    Restart {
        policy,
        delay,
        max_delay,
        stable_after: restart.stable_after.value(),
        success_exit_codes,
        never_on,
    }
}

/// The listeners of a pool.
struct Sockets {
    /// Their indices, in order; the last one may be for stdin only.
    listen: Vec<usize>,
    passed: usize,
    stdin: Option<usize>,
    /// None of them has a finding.
    complete: bool,
}

fn sockets(parser: &mut Parser, listeners: &mut Listeners, pool: &Pool) -> Sockets {
    let mut listen = listen(parser, listeners, pool);
    let passed = listen.len();
    let stdin = pool
        .stdin
        .as_ref()
        .and_then(|word| listeners.take(parser, word))
        .map(|index| {
            listen
                .iter()
                .position(|known| *known == index)
                .unwrap_or_else(|| {
                    listen.push(index);
                    passed
                })
        });
    let complete = pool
        .listen
        .as_ref()
        .is_none_or(|at| at.value.len() == passed && !at.value.is_empty())
        && stdin.is_some() == pool.stdin.is_some();
    Sockets {
        listen,
        passed,
        stdin,
        complete,
    }
}

/// The listeners from descriptor 3 on, in order.
fn listen(parser: &mut Parser, listeners: &mut Listeners, pool: &Pool) -> Vec<usize> {
    let mut indices = Vec::new();
    for word in pool.listen.iter().flat_map(|at| &at.value) {
        match listeners.take(parser, word) {
            Some(index) if indices.contains(&index) => {
                parser.error(
                    &word.span,
                    format!("`{}` is named twice", shown(&word.value)),
                );
            }
            Some(index) => indices.push(index),
            None => {}
        }
    }
    indices
}

fn recipe(
    parser: &mut Parser,
    files: &mut EnvFiles,
    name: &Located<String>,
    pool: Pool,
    sockets: Sockets,
    texts: &mut Templates<'_>,
) -> Recipe {
    if pool.command.is_none() {
        parser.missing(
            "pool",
            name,
            "command",
            "add command = [\"PROGRAM\", \"ARGUMENT\"]",
        );
    }
    let words = pool.command.as_ref().map_or(&[][..], |at| &at.value[..]);
    let command: Vec<Template> = words.iter().map(|word| texts.text(parser, word)).collect();
    let own: Vec<(String, Template)> = pool
        .env
        .iter()
        .map(|(name, value)| (name.value.clone(), texts.text(parser, value)))
        .collect();
    let mut from_files = Vec::new();
    for path in pool.env_file.iter().flat_map(|at| &at.value) {
        from_files.extend(files.variables(parser, path, &name.value));
    }
    let account = accounts::account(parser, pool.user.as_ref(), pool.group.as_ref());
    let clear_env = pool
        .clear_env
        .as_ref()
        .map_or(pool.user.is_some(), |at| at.value);
    if let Some(pass) = pool.pass_env.as_ref().filter(|_| !clear_env) {
        parser.unused_key(
            &pass.span,
            "`pass_env` does nothing: the whole environment is passed",
            "add clear_env = true",
        );
    }
    let directory = pool
        .working_directory
        .as_ref()
        .map_or_else(|| parser.base.clone(), |at| at.value.clone());
    let recipe = Recipe {
        command,
        env: from_files
            .into_iter()
            .map(|(name, value)| (name, Template::literal(value)))
            .chain(own)
            .collect(),
        clear_env,
        pass_env: pool.pass_env.map_or_else(Vec::new, |at| {
            at.value.into_iter().map(|name| name.value).collect()
        }),
        working_directory: directory,
        account,
        umask: pool.umask.map(|at| at.value),
        nice: pool.nice.map(|at| at.value),
        limits: pool.limits,
        listen: sockets.listen,
        passed: sockets.passed,
        stdin: sockets.stdin,
    };
    if let Some(command) = &pool.command {
        let place = pool
            .working_directory
            .as_ref()
            .map_or(&command.span, |at| &at.span);
        preflight::check(parser, &recipe, &command.span, place);
    }
    recipe
}
