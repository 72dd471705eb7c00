//! One pool: what was read -> its plan.

use super::envfile::EnvFiles;
use super::listeners::Listeners;
use super::pool::{self, Pool, Surge};
use super::reader::{At, Reader};
use super::report::shown;
use super::{accounts, look, values};
use crate::plan::{Fault, Kind, ListenPlan, LogPlan, PoolPlan, Ready, Recipe, Recycle, Sink, Template};
use rotad_core::{OnFailure, Policy, PoolKind, Readiness, Reload, Restart, RestartPolicy, Span};

/// How long a worker that reports nothing has to live to be ready (`auto` without listeners).
const AUTO: Span = Span::from_secs(1);

pub(super) fn pool(
    cx: &mut Reader,
    listeners: &mut Listeners,
    files: &mut EnvFiles,
    name: &At<String>,
    pool: Pool,
) -> PoolPlan {
    let kind = pool.kind.as_ref().map_or(Kind::Worker, |at| at.value);
    let policy = policy(cx, kind, &pool);
    let listen = listen(cx, listeners, &pool);
    let ready = pool.ready.as_ref().map_or(Ready::Auto, |at| at.value.clone());
    let log = LogPlan {
        stdout: pool.log.stdout.as_ref().map_or(Sink::Master, |at| at.value.clone()),
        stderr: pool.log.stderr.as_ref().map_or(Sink::Stdout, |at| at.value.clone()),
        max_size: 50 << 20,
        keep: 10,
    };
    let plans: Vec<ListenPlan> = listen.iter().map(|index| listeners.plans[*index].clone()).collect();
    let recipe = recipe(cx, files, name, pool, listen, &plans);
    PoolPlan {
        name: name.value.clone(),
        kind,
        policy,
        after: Vec::new(),
        essential: None,
        ready,
        recipe,
        ports: None,
        recycle: Recycle::default(),
        health: None,
        watch: None,
        log,
    }
}

fn policy(cx: &mut Reader, kind: Kind, pool: &Pool) -> Policy {
    let count = pool.count.as_ref().map_or(1, |at| at.value);
    let default_stop = match kind {
        Kind::Worker => Span::from_secs(30),
        Kind::Task => Span::from_secs(300),
        Kind::Step => Span::from_secs(30),
    };
    let ready_timeout = pool.ready_timeout.as_ref().map_or(Span::from_secs(60), |at| at.value);
    if let Some(at) = pool.ready_timeout.as_ref().filter(|at| at.value == Span::ZERO) {
        cx.error_with(&at.span, "no worker is ready in no time", "leave it out for \"60s\"");
    }
    let by_living = pool.listen.is_none() && pool.ready.as_ref().is_none_or(|at| at.value == Ready::Auto);
    if let Some(at) = pool.ready_timeout.as_ref().filter(|at| by_living && (Span(1)..=AUTO).contains(&at.value)) {
        let hint = "make it longer than 1 s, or write ready = \"notify\"";
        cx.warning(&at.span, "only READY=1 can make these workers ready: living for 1 s comes too late", hint);
    }
    Policy {
        count,
        readiness: readiness(cx, pool, ready_timeout),
        ready_timeout,
        stop: pool.stop.clone().unwrap_or_else(|| values::term(default_stop)),
        reload: reload(count, &pool.reload),
        restart: restart(cx, &pool.restart),
        kind: PoolKind::Service,
        after: Vec::new(),
        essential: None,
    }
}

fn readiness(cx: &mut Reader, pool: &Pool, timeout: Span) -> Readiness {
    let listens = pool.listen.is_some();
    let Some(ready) = &pool.ready else {
        return if listens { Readiness::Reported } else { Readiness::Alive(AUTO) };
    };
    match &ready.value {
        Ready::Auto if !listens => Readiness::Alive(AUTO),
        Ready::Auto | Ready::Notify => Readiness::Reported,
        Ready::Accepting => {
            if !listens {
                cx.error_with(
                    &ready.span,
                    "`ready`: accepting on which listener?",
                    "add `listen`, or write \"notify\"",
                );
            }
            Readiness::Reported
        }
        Ready::Probe(_) => Readiness::Reported,
        Ready::Spawned => Readiness::Alive(Span::ZERO),
        Ready::After(after) => {
            let after = Span::from_millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            if after >= timeout {
                let message = format!("`after` is never reached: `ready_timeout` ({timeout}) comes first");
                cx.error_with(&ready.span, message, "make `ready_timeout` longer");
            }
            Readiness::Alive(after)
        }
    }
}

fn reload(count: u32, reload: &pool::Reload) -> Reload {
    Reload {
        surge: reload.surge.as_ref().map_or(Surge::Percent(25), |at| at.value).of(count),
        max_draining: reload.max_draining.as_ref().map_or(count, |at| at.value).max(1),
        soak: reload.soak.as_ref().map_or(Span::from_secs(1), |at| at.value),
        on_failure: reload.on_failure.as_ref().map_or(OnFailure::Rollback, |at| at.value),
    }
}

fn restart(cx: &mut Reader, restart: &pool::Restart) -> Restart {
    const MAX_DELAY: Span = Span::from_secs(30);
    let policy = restart.policy.as_ref().map_or(RestartPolicy::Always, |at| at.value);
    let delay = restart.delay.as_ref().map_or(Span::from_millis(100), |at| at.value);
    let max_delay = restart.max_delay.as_ref().map_or(MAX_DELAY.max(delay), |at| at.value);
    match (&restart.delay, &restart.max_delay) {
        (Some(at), None) if at.value > MAX_DELAY => {
            let message = format!("`delay` ({delay}) is above the default of `max_delay` ({MAX_DELAY})");
            cx.error_with(&at.span, message, "set `max_delay`, too");
        }
        (_, Some(at)) if delay > at.value => {
            let message = format!("`max_delay` ({max_delay}) is below `delay` ({delay})");
            cx.error_with(&at.span, message, "the delay grows from `delay` to `max_delay`");
        }
        _ => {}
    }
    if policy == RestartPolicy::Never {
        let keys =
            [("delay", &restart.delay), ("max_delay", &restart.max_delay), ("stable_after", &restart.stable_after)];
        for (key, at) in keys.into_iter().filter_map(|(key, at)| Some((key, at.as_ref()?))) {
            cx.error_with(&at.span, format!("`{key}` means nothing with policy = \"never\""), "leave it out");
        }
    }
    Restart {
        policy,
        delay,
        max_delay,
        stable_after: restart.stable_after.as_ref().map_or(Span::from_secs(10), |at| at.value),
        ends: restart.ends.as_ref().map_or_else(|| vec![0], |at| at.value.clone()),
    }
}

/// The pool's listeners, in order.
fn listen(cx: &mut Reader, listeners: &mut Listeners, pool: &Pool) -> Vec<usize> {
    let mut indices = Vec::new();
    for word in pool.listen.iter().flat_map(|at| &at.value) {
        match listeners.take(cx, word) {
            Some(index) if indices.contains(&index) => {
                cx.error(&word.span, format!("`{}` is named twice", shown(&word.value)));
            }
            Some(index) => indices.push(index),
            None => {}
        }
    }
    indices
}

fn recipe(
    cx: &mut Reader,
    files: &mut EnvFiles,
    name: &At<String>,
    pool: Pool,
    listen: Vec<usize>,
    plans: &[ListenPlan],
) -> Recipe {
    if pool.command.is_none() {
        pool::missing(cx, "pool", name, "command", "add command = [\"PROGRAM\", \"ARGUMENT\"]");
    }
    let words = pool.command.as_ref().map_or(&[][..], |at| &at.value[..]);
    // A refused listener has its finding; that placeholders miss it is no news.
    let complete = pool.listen.as_ref().is_none_or(|at| at.value.len() == listen.len() && !at.value.is_empty());
    let template = |cx: &mut Reader, text: &At<String>| template(cx, text, plans, complete);
    let command: Vec<Template> = words.iter().map(|word| template(cx, word)).collect();
    let own: Vec<(String, Template)> =
        pool.env.iter().map(|(name, value)| (name.value.clone(), template(cx, value))).collect();
    let from_file = pool.env_file.as_ref().map_or_else(Vec::new, |path| files.variables(cx, path));
    let account = accounts::account(cx, pool.user.as_ref(), pool.group.as_ref());
    let clear_env = pool.clear_env.as_ref().map_or(pool.user.is_some(), |at| at.value);
    if let Some(pass) = pool.pass_env.as_ref().filter(|_| !clear_env) {
        cx.error_with(&pass.span, "`pass_env` does nothing: the whole environment is passed", "add clear_env = true");
    }
    let directory = pool.working_directory.as_ref().map_or_else(|| cx.base.clone(), |at| at.value.clone());
    let recipe = Recipe {
        command,
        env: from_file.into_iter().map(|(name, value)| (name, Template::literal(value))).chain(own).collect(),
        clear_env,
        pass_env: pool.pass_env.map_or_else(Vec::new, |at| at.value.into_iter().map(|name| name.value).collect()),
        working_directory: directory,
        account,
        umask: pool.umask.map(|at| at.value),
        nice: pool.nice.map(|at| at.value),
        limits: pool.limits,
        listen,
    };
    if let Some(command) = &pool.command {
        let place = pool.working_directory.as_ref().map_or(&command.span, |at| &at.span);
        look::ahead(cx, &recipe, &command.span, place);
    }
    recipe
}

/// A checked template. `complete`: no listener of the pool is missing in `plans`, so a name that is not there is news.
fn template(cx: &mut Reader, text: &At<String>, plans: &[ListenPlan], complete: bool) -> Template {
    let known: Vec<&ListenPlan> = plans.iter().collect();
    match Template::parse(&text.value, &known) {
        Ok(template) => return template,
        Err(fault) if !complete && fault.unknown_listener => {}
        Err(Fault { message, hint: Some(hint), .. }) => cx.error_with(&text.span, message, hint),
        Err(Fault { message, hint: None, .. }) => cx.error(&text.span, message),
    }
    Template::literal(text.value.clone())
}
