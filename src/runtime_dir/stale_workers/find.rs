//! Finds the surviving workers of a killed master, and their descendants.
//!
//! A process belongs to them if the journal has its pid and start time; if its ROTAD_WORKER begins with that master's tag
//! (so that a worker whose line is not written yet, or could not be, is found too); if it is in one of the workers'
//! cgroups; or if it shares the session of such a process or descends from one. All children have executed their
//! program: the caller holds the lock of the runtime directory, and a child keeps that lock until its program runs
//! ([`crate::runtime_dir`]).

use super::environments::{self, WorkerEnvironment};
use super::worker_journal::JournalEntry;
use super::{StaleWorker, StaleWorkers};
use crate::process::cgroup;
use crate::process::procfs::{self, Stat};
use crate::sys::process::Process;
use std::collections::{HashMap, HashSet};

/// The worker that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) tag: String,
    pub(super) pool: String,
    pub(super) slot: u32,
}

impl Owner {
    pub(super) fn of(entry: &JournalEntry) -> Self {
        Self {
            tag: entry.tag.clone(),
            pool: entry.pool.clone(),
            slot: entry.slot,
        }
    }
}

fn key(stat: &Stat) -> (i32, u64) {
    (stat.pid, stat.start_time)
}

impl StaleWorkers {
    /// All stale workers that are alive now, with their descendants.
    pub(super) fn scan(&mut self) -> Vec<StaleWorker> {
        let Some(journal) = self.journal.clone() else {
            return Vec::new();
        };
        let me = nix::unistd::geteuid();
        let all = procfs::all_stats();
        let ours = |stat: &&Stat| {
            !stat.is_zombie()
                && stat.pid != std::process::id() as i32
                && key(stat) != journal.master
                && stat.start_time >= journal.began()
                && (me.is_root() || procfs::uid(stat.pid) == Some(me.as_raw()))
        };
        let candidates: Vec<&Stat> = all.iter().filter(ours).collect();
        let mut owners: HashMap<i32, Owner> = HashMap::new();
        let same = |stat: &Stat, entry: &JournalEntry| key(stat) == (entry.pid, entry.start_time);
        for stat in &candidates {
            let entry = || {
                journal
                    .living
                    .iter()
                    .find(|entry| same(stat, entry))
                    .map(Owner::of)
            };
            if let Some(owner) = self.known.get(&key(stat)).cloned().or_else(entry) {
                owners.insert(stat.pid, owner);
            }
        }
        self.read_environments(&candidates, &mut owners);
        let mut sessions: HashMap<i32, Owner> = HashMap::new();
        for stat in &candidates {
            if let Some(owner) = owners.get(&stat.pid) {
                sessions.insert(stat.session, owner.clone());
            }
        }
        // While a worker exists, even as a zombie, its session is its own. After that the number may have been reused: then
        // members of the session must also hold one of the worker's output pipes.
        for entry in &journal.living {
            if all.iter().any(|leader| same(leader, entry)) {
                sessions.insert(entry.pid, Owner::of(entry));
            }
        }
        for stat in candidates
            .iter()
            .filter(|stat| !sessions.contains_key(&stat.session))
            .copied()
            .collect::<Vec<_>>()
        {
            let entry = journal
                .living
                .iter()
                .find(|entry| entry.pid == stat.session);
            if let Some(entry) =
                entry.filter(|entry| super::stale_pipes::holds_one(stat.pid, &entry.pipes))
            {
                sessions.insert(entry.pid, Owner::of(entry));
            }
        }
        // After the sessions: an unrelated process may have been moved into such a cgroup by hand, and its session is not
        // the worker's.
        for (pid, owner) in self.in_cgroups() {
            owners.entry(pid).or_insert(owner);
        }
        loop {
            let before = owners.len();
            for stat in &candidates {
                if owners.contains_key(&stat.pid) {
                    continue;
                }
                let Some(owner) = sessions
                    .get(&stat.session)
                    .or_else(|| owners.get(&stat.parent))
                    .cloned()
                else {
                    continue;
                };
                sessions.insert(stat.session, owner.clone());
                owners.insert(stat.pid, owner);
            }
            if owners.len() == before {
                break;
            }
        }
        let listed = candidates
            .iter()
            .filter_map(|stat| Some((*stat, owners.get(&stat.pid)?)));
        let mut found: Vec<StaleWorker> = listed
            .filter_map(|(stat, owner)| open_process(stat, owner))
            .collect();
        for one in &found {
            let owner = Owner {
                tag: one.tag.clone(),
                pool: one.pool.clone(),
                slot: one.slot,
            };
            self.known.insert((one.pid, one.start_time), owner);
        }
        found.retain(|one| !self.spared.contains(&one.tag));
        self.learn_workers(&found, &journal.living, &all);
        for one in &mut found {
            one.is_worker = self.workers.get(&one.tag) == Some(&(one.pid, one.start_time));
        }
        found
    }

    /// Reads the environments of the processes whose owner is not known otherwise.
    fn read_environments(&mut self, candidates: &[&Stat], owners: &mut HashMap<i32, Owner>) {
        let unknown =
            |stat: &&&Stat| !owners.contains_key(&stat.pid) && !self.unrelated.contains(&key(stat));
        let asked: Vec<&Stat> = candidates.iter().filter(unknown).copied().collect();
        let pids: Vec<i32> = asked.iter().map(|stat| stat.pid).collect();
        for (stat, environment) in asked.into_iter().zip(environments::of(&pids)) {
            match environment.map(|environment| self.owner_by(environment)) {
                Some(Some(owner)) => {
                    owners.insert(stat.pid, owner);
                    continue;
                }
                Some(None) => {}
                None => self.unattributed.push(stat.pid),
            }
            // Read only once: the environment is inherited at the start.
            self.unrelated.insert(key(stat));
        }
    }

    fn owner_by(&self, environment: WorkerEnvironment) -> Option<Owner> {
        let journal = self.journal.as_ref()?;
        let tag = environment.tag?;
        if let Some(entry) = journal.living.iter().find(|entry| entry.tag == tag) {
            return Some(Owner::of(entry));
        }
        let number = tag
            .strip_prefix(journal.tag.as_deref()?)?
            .strip_prefix('-')?;
        number.parse::<u64>().ok()?;
        let pool = environment.pool.unwrap_or_else(|| "?".to_owned());
        Some(Owner {
            tag,
            pool,
            slot: environment.slot.unwrap_or(0),
        })
    }

    /// The processes in the workers' cgroups. Each directory is named after its worker's number.
    fn in_cgroups(&self) -> Vec<(i32, Owner)> {
        let Some((journal, base)) = self
            .journal
            .as_ref()
            .and_then(|journal| Some((journal, journal.cgroup.as_ref()?)))
        else {
            return Vec::new();
        };
        let prefix = journal.tag.as_deref().unwrap_or_default();
        let owner = |number: &str| {
            let tag = format!("{prefix}-{number}");
            let entry = journal
                .living
                .iter()
                .find(|entry| entry.tag == tag)
                .map(Owner::of);
            let known = || self.known.values().find(|owner| owner.tag == tag).cloned();
            entry.or_else(known).unwrap_or_else(|| Owner {
                tag: tag.clone(),
                pool: "?".to_owned(),
                slot: 0,
            })
        };
        let found = cgroup::members_below(base).into_iter();
        found.map(|(number, pid)| (pid, owner(&number))).collect()
    }

    /// Notes which process of a tree is the worker itself: the one in the journal; without one, the first session leader.
    /// Once noted, it does not change.
    fn learn_workers(&mut self, found: &[StaleWorker], living: &[JournalEntry], all: &[Stat]) {
        for entry in living {
            self.workers
                .entry(entry.tag.clone())
                .or_insert((entry.pid, entry.start_time));
        }
        let leads: HashSet<i32> = all
            .iter()
            .filter(|stat| stat.pid == stat.session)
            .map(|stat| stat.pid)
            .collect();
        let mut leaders: Vec<&StaleWorker> = found
            .iter()
            .filter(|one| leads.contains(&one.pid))
            .collect();
        leaders.sort_by_key(|one| (one.start_time, one.pid));
        for one in leaders {
            self.workers
                .entry(one.tag.clone())
                .or_insert((one.pid, one.start_time));
        }
    }
}

/// Opens a pidfd and then checks that the process is the one that was found. None: it has ended.
fn open_process(stat: &Stat, owner: &Owner) -> Option<StaleWorker> {
    let process = match Process::open_pid(stat.pid) {
        Ok(process) => Some(process),
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return None,
        Err(_) => None,
    };
    let now = Stat::of(stat.pid)
        .ok()
        .filter(|now| now.start_time == stat.start_time && !now.is_zombie())?;
    Some(StaleWorker {
        pid: now.pid,
        start_time: now.start_time,
        pool: owner.pool.clone(),
        slot: owner.slot,
        tag: owner.tag.clone(),
        is_worker: false,
        process,
    })
}
