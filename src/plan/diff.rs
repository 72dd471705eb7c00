//! Compares two plans of one master: what must change to get from one to the other. Pure: it reads nothing from the
//! system. Used by reload and by `rotad check`.

use super::diff_pool::{self, Keys, differing};
use super::{ListenPlan, Plan};

/// What has to happen for a running master to become what `new` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Every pool of both plans: removed ones first, then in the order of the new plan. A pool that became a oneshot,
    /// or is no longer one, is listed twice, as removed and as added, since nothing of it can be kept.
    pub pools: Vec<PoolDiff>,
    /// Changed listeners. One that only got another name is removed and added: its socket can be kept.
    pub listeners: Vec<ListenDiff>,
    /// Changed keys of the master that are applied at once.
    pub live: Vec<String>,
    /// Changed keys of the master that take effect only with a new master.
    pub needs_new_master: Vec<String>,
}

/// How one pool differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDiff {
    /// The pool's name.
    pub name: String,
    /// What changes.
    pub change: PoolChange,
}

/// How a pool changes. Keys are named as in the configuration (`env.PORT`, `reload.surge`), without values; only
/// `count` shows its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolChange {
    /// Only the new plan has it.
    Added,
    /// Only the old plan has it.
    Removed,
    /// Workers are made differently: a new generation. Lists all changed keys, including those that would not need
    /// one.
    Rolled {
        /// All changed keys, those that need new workers first.
        keys: Vec<String>,
    },
    /// Applied without replacing a worker.
    Adjusted {
        /// The changed keys.
        keys: Vec<String>,
    },
    /// Nothing changes.
    Same,
}

/// How one listener differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenDiff {
    /// The listener's name; its address if it has none.
    pub name: String,
    /// What changes.
    pub change: ListenChange,
}

/// How a listener changes. Keys are named as in `[listen.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenChange {
    /// Only the new plan has it.
    Added,
    /// Only the old plan has it.
    Removed,
    /// `backlog`, `nonblocking`, `mode`, `user`, `group`: set on the existing socket.
    Adjusted {
        /// The changed keys.
        keys: Vec<String>,
    },
    /// A different address under the same name.
    Replaced,
}

/// Computes the changes from `old` to `new`.
pub fn diff(old: &Plan, new: &Plan) -> Diff {
    let (live, needs_new_master) = master(old, new);
    Diff {
        pools: pools(old, new),
        listeners: listeners(&old.listeners, &new.listeners),
        live,
        needs_new_master,
    }
}

impl Diff {
    /// Whether nothing changes at all.
    pub fn is_empty(&self) -> bool {
        self.pools
            .iter()
            .all(|pool| pool.change == PoolChange::Same)
            && self.listeners.is_empty()
            && self.live.is_empty()
            && self.needs_new_master.is_empty()
    }

    /// What changes for this pool of the new plan.
    pub fn change_of(&self, name: &str) -> PoolChange {
        let found = self
            .pools
            .iter()
            .find(|pool| pool.name == name && pool.change != PoolChange::Removed);
        found.map_or(PoolChange::Same, |pool| pool.change.clone())
    }

    /// One line for each pool, listener and kind of key that changes.
    pub fn lines(&self) -> Vec<String> {
        let pools = self
            .pools
            .iter()
            .filter_map(|PoolDiff { name, change }| match change {
                PoolChange::Added => Some(format!("{name}: added")),
                PoolChange::Removed => Some(format!("{name}: removed")),
                PoolChange::Rolled { keys } => {
                    Some(format!("{name}: rolled ({})", keys.join(", ")))
                }
                PoolChange::Adjusted { keys } => Some(format!(
                    "{name}: adjusted without a restart ({})",
                    keys.join(", ")
                )),
                PoolChange::Same => None,
            });
        let listeners = self
            .listeners
            .iter()
            .map(|ListenDiff { name, change }| match change {
                ListenChange::Added => format!("listener {name}: added"),
                ListenChange::Removed => format!("listener {name}: removed"),
                ListenChange::Adjusted { keys } => {
                    format!("listener {name}: changes in place ({})", keys.join(", "))
                }
                ListenChange::Replaced => format!("listener {name}: another address"),
            });
        let mut lines: Vec<String> = pools.chain(listeners).collect();
        if !self.live.is_empty() {
            lines.push(format!(
                "master: applied at once ({})",
                self.live.join(", ")
            ));
        }
        if !self.needs_new_master.is_empty() {
            let keys = self.needs_new_master.join(", ");
            lines.push(format!(
                "master: kept as it is until it is stopped and started again ({keys})"
            ));
        }
        lines
    }
}

fn pools(old: &Plan, new: &Plan) -> Vec<PoolDiff> {
    let gone = old
        .pools
        .iter()
        .filter(|pool| !new.pools.iter().any(|other| other.name == pool.name));
    let gone = gone.map(|pool| PoolDiff {
        name: pool.name.clone(),
        change: PoolChange::Removed,
    });
    let mut all: Vec<PoolDiff> = gone.collect();
    for pool in &new.pools {
        let mut say = |change| {
            all.push(PoolDiff {
                name: pool.name.clone(),
                change,
            })
        };
        match old.pools.iter().find(|other| other.name == pool.name) {
            None => say(PoolChange::Added),
            Some(before) if diff_pool::is_other(before, pool) => {
                say(PoolChange::Removed);
                say(PoolChange::Added);
            }
            Some(before) => {
                let Keys { rolled, adjusted } = diff_pool::keys((old, before), (new, pool));
                say(match (rolled.is_empty(), adjusted.is_empty()) {
                    (true, true) => PoolChange::Same,
                    (true, false) => PoolChange::Adjusted { keys: adjusted },
                    (false, _) => PoolChange::Rolled {
                        keys: [rolled, adjusted].concat(),
                    },
                });
            }
        }
    }
    all
}

fn listeners(old: &[ListenPlan], new: &[ListenPlan]) -> Vec<ListenDiff> {
    let gone = old
        .iter()
        .filter(|plan| !new.iter().any(|other| other.name == plan.name));
    let gone = gone.map(|plan| ListenDiff {
        name: plan.name.clone(),
        change: ListenChange::Removed,
    });
    let changed = new.iter().filter_map(|plan| {
        let change = match old.iter().find(|other| other.name == plan.name) {
            None => ListenChange::Added,
            Some(before) if before.address != plan.address => ListenChange::Replaced,
            Some(before) => {
                let keys = differing(&[
                    ("backlog", before.backlog != plan.backlog),
                    ("nonblocking", before.nonblocking != plan.nonblocking),
                    ("mode", before.mode != plan.mode),
                    ("user", before.uid != plan.uid),
                    ("group", before.gid != plan.gid),
                ]);
                if keys.is_empty() {
                    return None;
                }
                ListenChange::Adjusted { keys }
            }
        };
        Some(ListenDiff {
            name: plan.name.clone(),
            change,
        })
    });
    gone.chain(changed).collect()
}

/// Splits changed keys into those applied at once and those that need a new master.
fn master(old: &Plan, new: &Plan) -> (Vec<String>, Vec<String>) {
    let (a, b) = (&old.master, &new.master);
    let live = differing(&[
        ("signals", old.signals != new.signals),
        ("hooks", old.hooks != new.hooks),
        ("log_level", a.log_level != b.log_level),
        ("log_max_size", a.log_max_size != b.log_max_size),
        ("log_keep", a.log_keep != b.log_keep),
        ("stop_timeout", a.stop_timeout != b.stop_timeout),
        ("watch_config", a.watch_config != b.watch_config),
        ("watch_program", a.watch_program != b.watch_program),
        ("watchdog", a.watchdog != b.watchdog),
    ]);
    let needs_new_master = differing(&[
        ("name", a.name != b.name),
        ("pid_file", a.pid_file != b.pid_file),
        ("runtime_dir", a.runtime_dir != b.runtime_dir),
        (
            "working_directory",
            a.working_directory != b.working_directory,
        ),
        ("umask", a.umask != b.umask),
        ("log_file", a.log_file != b.log_file),
        ("log_format", a.log_format != b.log_format),
        ("daemonize", a.daemonize != b.daemonize),
        ("guardian", a.guardian != b.guardian),
        ("control.mode", old.control.mode != new.control.mode),
        ("control.group", old.control.group != new.control.group),
    ]);
    (live, needs_new_master)
}
