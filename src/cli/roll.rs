//! `reload`, `roll`, `rollback`, `cancel`: new workers for old ones.

use super::args::{self, Target};
use super::{ask, code, print};
use crate::control::wire::{Method, ReloadScope, Selector, Wait};
use std::path::Path;

/// Until when the master's answer waits.
pub(super) fn until(wait: &args::Wait) -> Wait {
    match (wait.no_wait, wait.drained) {
        (true, _) => Wait::No,
        (false, true) => Wait::Drained,
        (false, false) => Wait::Done,
    }
}

/// Reads the configuration, applies what changed, rolls these pools.
pub(super) fn reload(
    file: Option<&Path>,
    which: args::Selector,
    config_only: bool,
    dry_run: bool,
    wait: &args::Wait,
) -> u8 {
    if let Some(slot) = which.pools.iter().find(|name| name.contains('/')) {
        print::error(&format!(
            "`reload` takes whole pools; `rotad roll {}` replaces one worker",
            print::harmless(slot)
        ));
        return code::USAGE;
    }
    let extent = match (config_only, dry_run) {
        (true, _) => ReloadScope::ConfigOnly,
        (_, true) => ReloadScope::DryRun,
        _ => ReloadScope::Everything,
    };
    ask::once(file, Method::Reload { which: which.into(), extent, wait: until(wait) }, wait.timeout)
}

/// Rolls pools, or replaces single workers, one after another. Both at once would have no order that one could tell.
pub(super) fn roll(file: Option<&Path>, which: args::Selector, wait: &args::Wait) -> u8 {
    let slots = which.pools.iter().filter(|name| name.contains('/')).count();
    if slots == 0 {
        return ask::once(file, Method::Roll { which: which.into(), wait: until(wait) }, wait.timeout);
    }
    if slots < which.pools.len() || which.workers || which.tasks {
        print::error("either whole pools or single workers (POOL/SLOT), not both at once: roll them one after another");
        return code::USAGE;
    }
    let mut targets = Vec::new();
    for name in &which.pools {
        match name.parse() {
            Ok(Target { pool, slot: Some(slot) }) => targets.push((pool, slot)),
            Ok(Target { slot: None, .. }) => {}
            Err(error) => {
                print::error(&error);
                return code::USAGE;
            }
        }
    }
    let peek = match ask::peek(file) {
        Ok(peek) => peek,
        Err(code) => return code,
    };
    for (pool, slot) in targets {
        let code = ask::once_of(&peek, Method::Renew { pool, slot, wait: until(wait) }, wait.timeout);
        // What follows was asked for on the assumption that this one goes well.
        if code != 0 {
            return code;
        }
    }
    0
}

/// Back to the generation before, or to another one.
pub(super) fn rollback(
    file: Option<&Path>,
    pools: Vec<String>,
    to: Option<u32>,
    dry_run: bool,
    wait: &args::Wait,
) -> u8 {
    ask::once(file, Method::Rollback { pools, to, dry_run, wait: until(wait) }, wait.timeout)
}

/// Ends running rolling restarts.
pub(super) fn cancel(file: Option<&Path>, pools: Vec<String>) -> u8 {
    ask::once(file, Method::Cancel { pools }, None)
}

impl From<args::Selector> for Selector {
    fn from(which: args::Selector) -> Self {
        Self { pools: which.pools, workers: which.workers, tasks: which.tasks }
    }
}
