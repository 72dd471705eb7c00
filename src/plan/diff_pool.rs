//! Compares one pool in two plans: which of its keys changed, and which of those require new workers.

use super::{
    Account, Address, Health, Kind, Limit, LogPlan, Plan, PoolPlan, Recipe, Sink, Template,
};
use std::collections::BTreeMap;

/// Changed keys.
#[derive(Default)]
pub(super) struct Keys {
    /// Keys that workers are made from.
    pub(super) rolled: Vec<String>,
    /// Keys that only the master uses.
    pub(super) adjusted: Vec<String>,
}

/// Whether nothing of the pool can be kept: a oneshot has no workers to roll.
pub(super) fn is_other(old: &PoolPlan, new: &PoolPlan) -> bool {
    (old.kind == Kind::Oneshot) != (new.kind == Kind::Oneshot)
}

/// The differences; each pool comes with the plan that its listeners belong to.
pub(super) fn keys(
    (old_plan, old): (&Plan, &PoolPlan),
    (new_plan, new): (&Plan, &PoolPlan),
) -> Keys {
    let mut keys = Keys::default();
    keys.rolled
        .extend(differing(&[("kind", old.kind != new.kind)]));
    recipe(&mut keys, &old.recipe, &new.recipe);
    let listens = listens(old_plan, old) != listens(new_plan, new);
    let stdin = stdin(old_plan, old) != stdin(new_plan, new);
    keys.rolled.extend(differing(&[
        ("listen", listens),
        ("stdin", stdin),
        ("ready", old.ready != new.ready),
    ]));
    ports(&mut keys, old, new);
    health(&mut keys, old.health.as_ref(), new.health.as_ref());
    logs(&mut keys, &old.log, &new.log);
    metrics(&mut keys, old, new);
    policy(&mut keys, old, new);
    let watch = |pool: &PoolPlan| {
        pool.watch
            .as_ref()
            .map(|watch| (watch.base.clone(), watch.globs.clone()))
    };
    let debounce = |pool: &PoolPlan| pool.watch.as_ref().map(|watch| watch.debounce);
    keys.adjusted.extend(differing(&[
        ("after", old.after != new.after),
        ("essential", old.policy.essential != new.policy.essential),
        ("reload.watch", watch(old) != watch(new)),
        (
            "reload.debounce",
            old.watch.is_some() && new.watch.is_some() && debounce(old) != debounce(new),
        ),
        ("reload.on", old.roll_on != new.roll_on),
        (
            "recycle.max_age",
            old.recycle.max_age != new.recycle.max_age,
        ),
        (
            "recycle.max_rss",
            old.recycle.max_rss != new.recycle.max_rss,
        ),
        ("recycle.at", old.recycle.at != new.recycle.at),
    ]));
    keys
}

#[expect(
    clippy::unneeded_field_pattern,
    reason = "without `..` the compiler asks what a change of a new field means"
)]
fn recipe(keys: &mut Keys, old: &Recipe, new: &Recipe) {
    let Recipe {
        command,
        env,
        clear_env,
        pass_env,
        working_directory,
        account,
        umask,
        nice,
        limits,
        // Compared by name and address: `listens` and `stdin`.
        listen: _,
        passed: _,
        stdin: _,
    } = new;
    keys.rolled
        .extend(differing(&[("command", old.command != *command)]));
    named(
        &mut keys.rolled,
        "env",
        &variables(&old.env),
        &variables(env),
    );
    let user = |account: &Option<Account>| {
        account
            .as_ref()
            .filter(|user| !user.group_alone)
            .map(|user| (user.name.clone(), user.uid, user.home.clone()))
    };
    let shell = |account: &Option<Account>| {
        let user = account.as_ref().filter(|user| !user.group_alone);
        user.map(|user| user.shell.clone())
    };
    let group =
        |account: &Option<Account>| account.as_ref().map(|user| (user.gid, user.groups.clone()));
    let other_user = user(&old.account) != user(account) || shell(&old.account) != shell(account);
    keys.rolled.extend(differing(&[
        ("clear_env", old.clear_env != *clear_env),
        ("pass_env", old.pass_env != *pass_env),
        (
            "working_directory",
            old.working_directory != *working_directory,
        ),
        ("user", other_user),
        // A different user has different groups.
        (
            "group",
            !other_user && group(&old.account) != group(account),
        ),
        ("umask", old.umask != *umask),
        ("nice", old.nice != *nice),
    ]));
    let by_name = |limits: &[Limit]| -> BTreeMap<String, (u64, u64)> {
        limits
            .iter()
            .map(|limit| (limit.name.clone(), (limit.soft, limit.hard)))
            .collect()
    };
    named(
        &mut keys.rolled,
        "limits",
        &by_name(&old.limits),
        &by_name(limits),
    );
}

/// A later variable overrides an earlier one of the same name.
fn variables(env: &[(String, Template)]) -> BTreeMap<String, Template> {
    env.iter().cloned().collect()
}

/// `TABLE.NAME` for every name that is on one side only or has different values.
fn named<T: PartialEq>(
    into: &mut Vec<String>,
    table: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let changed = new
        .iter()
        .filter(|(name, value)| old.get(*name) != Some(value))
        .map(|(name, _)| name);
    let mut names: Vec<&String> = gone.chain(changed).collect();
    names.sort();
    into.extend(names.into_iter().map(|name| format!("{table}.{name}")));
}

/// The pool's listeners from descriptor 3 on, by name and address, since indices differ between plans.
fn listens<'a>(plan: &'a Plan, pool: &PoolPlan) -> Vec<Option<(&'a str, &'a Address)>> {
    pool.recipe
        .listen
        .iter()
        .take(pool.recipe.passed)
        .map(|index| listener(plan, *index))
        .collect()
}

fn stdin<'a>(plan: &'a Plan, pool: &PoolPlan) -> Option<(&'a str, &'a Address)> {
    listener(plan, *pool.recipe.listen.get(pool.recipe.stdin?)?)
}

fn listener(plan: &Plan, index: usize) -> Option<(&str, &Address)> {
    plan.listeners
        .get(index)
        .map(|plan| (plan.name.as_str(), &plan.address))
}

/// With more ports than before, every worker can keep its own.
fn ports(keys: &mut Keys, old: &PoolPlan, new: &PoolPlan) {
    if old.ports == new.ports {
        return;
    }
    let wider = match (old.ports, new.ports) {
        (Some(old), Some(new)) => new.first <= old.first && old.last <= new.last,
        _ => false,
    };
    if wider {
        &mut keys.adjusted
    } else {
        &mut keys.rolled
    }
    .push("ports".to_owned());
}

fn metrics(keys: &mut Keys, old: &PoolPlan, new: &PoolPlan) {
    match (&old.metrics, &new.metrics) {
        (Some(old), Some(new)) => keys.adjusted.extend(differing(&[
            ("metrics.scrape", old.scrape != new.scrape),
            ("metrics.gauges", old.gauges != new.gauges),
        ])),
        (old, new) => keys.adjusted.extend(differing(&[("metrics", old != new)])),
    }
}

/// Old workers may not answer a new check, and were told their watchdog interval when they were spawned.
fn health(keys: &mut Keys, old: Option<&Health>, new: Option<&Health>) {
    if old == new {
        return;
    }
    match (old, new) {
        (
            Some(Health::Probe {
                check: asked,
                every,
                timeout,
                failures,
            }),
            Some(Health::Probe {
                check: ask,
                every: new_every,
                timeout: new_timeout,
                failures: new_failures,
            }),
        ) => {
            keys.rolled.extend(differing(&[("health", asked != ask)]));
            keys.adjusted.extend(differing(&[
                ("health.every", every != new_every),
                ("health.timeout", timeout != new_timeout),
                ("health.failures", failures != new_failures),
            ]));
        }
        (Some(Health::Probe { .. }), None) => keys.adjusted.push("health".to_owned()),
        (Some(Health::Watchdog(_)), Some(Health::Watchdog(_))) => {
            keys.rolled.push("health.watchdog".to_owned())
        }
        _ => keys.rolled.push("health".to_owned()),
    }
}

/// What a worker's descriptor 1 or 2 refers to.
#[derive(PartialEq, Eq)]
enum End {
    /// The pipe with this number, which the master reads; the master decides where its lines go.
    Pipe(u8),
    Stdout,
    Stderr,
    Null,
}

fn ends(log: &LogPlan) -> (End, End) {
    let out = |sink: &Sink| match sink {
        Sink::Master | Sink::File(_) => End::Pipe(1),
        Sink::Inherit | Sink::Stdout => End::Stdout,
        Sink::Null => End::Null,
    };
    let err = match &log.stderr {
        Sink::Stdout => out(&log.stdout),
        Sink::Inherit => End::Stderr,
        Sink::Null => End::Null,
        Sink::Master | Sink::File(_) if log.stderr == log.stdout => End::Pipe(1),
        Sink::Master | Sink::File(_) => End::Pipe(2),
    };
    (out(&log.stdout), err)
}

fn logs(keys: &mut Keys, old: &LogPlan, new: &LogPlan) {
    let changed = differing(&[
        ("log.stdout", old.stdout != new.stdout),
        ("log.stderr", old.stderr != new.stderr),
    ]);
    if ends(old) == ends(new) {
        &mut keys.adjusted
    } else {
        &mut keys.rolled
    }
    .extend(changed);
    keys.adjusted.extend(differing(&[
        ("log.max_size", old.max_size != new.max_size),
        ("log.keep", old.keep != new.keep),
        ("log.timestamps", old.timestamps != new.timestamps),
    ]));
    let (old, new) = (&old.access, &new.access);
    keys.adjusted.extend(differing(&[
        ("log.mode", old.mode != new.mode),
        ("log.user", old.uid != new.uid),
        ("log.group", old.gid != new.gid),
    ]));
}

fn policy(keys: &mut Keys, old: &PoolPlan, new: &PoolPlan) {
    let (a, b) = (&old.policy, &new.policy);
    let resized = a.count != b.count;
    if resized {
        keys.adjusted
            .push(format!("count {} → {}", a.count, b.count));
    }
    keys.adjusted.extend(differing(&[
        ("ready_timeout", a.ready_timeout != b.ready_timeout),
        ("stop", a.stop != b.stop),
        ("max_starting", a.max_starting != b.max_starting),
        // By default these two follow `count`.
        ("reload.surge", !resized && a.reload.surge != b.reload.surge),
        (
            "reload.max_draining",
            !resized && a.reload.max_draining != b.reload.max_draining,
        ),
        ("reload.soak", a.reload.soak != b.reload.soak),
        (
            "reload.on_failure",
            a.reload.on_failure != b.reload.on_failure,
        ),
        ("restart.policy", a.restart.policy != b.restart.policy),
        ("restart.delay", a.restart.delay != b.restart.delay),
        (
            "restart.max_delay",
            a.restart.max_delay != b.restart.max_delay,
        ),
        (
            "restart.stable_after",
            a.restart.stable_after != b.restart.stable_after,
        ),
        (
            "restart.success_exit_codes",
            a.restart.success_exit_codes != b.restart.success_exit_codes,
        ),
        ("restart.never_on", a.restart.never_on != b.restart.never_on),
    ]));
}

/// The keys that differ.
pub(super) fn differing(keys: &[(&str, bool)]) -> Vec<String> {
    keys.iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| (*key).to_owned())
        .collect()
}
