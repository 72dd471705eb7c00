//! Finds the surviving workers of a killed master, and their descendants.
//!
//! A process is one of theirs if the journal has its pid and start time; if its ROTAD_WORKER begins with that master's
//! tag (so that nothing depends on a line that was not written yet, or could not be); if it is in one of the workers'
//! cgroups; or if it shares the session of such a process or descends from one. No child is still before its exec: the
//! caller holds the lock of the runtime directory, and a child keeps that lock until its program runs
//! ([`crate::runtime_dir`]).

use super::environments::{self, Environments};
use super::worker_journal::Entry;
use super::{StaleWorker, StaleWorkers};
use crate::process::cgroup;
use crate::process::procfs::{self, Stat};
use crate::sys::process::Process;
use std::collections::{HashMap, HashSet};

/// Whose a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) tag: String,
    pub(super) pool: String,
    pub(super) slot: u32,
}

impl Owner {
    pub(super) fn of(entry: &Entry) -> Self {
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
    /// The living ones, as they are now.
    pub(super) fn look(&mut self) -> Vec<StaleWorker> {
        let Some(record) = self.record.clone() else {
            return Vec::new();
        };
        let me = nix::unistd::geteuid();
        let all = procfs::all_stats();
        let ours = |stat: &&Stat| {
            !stat.is_zombie()
                && stat.pid != std::process::id() as i32
                && key(stat) != record.master
                && stat.start_time >= record.master.1
                && (me.is_root() || procfs::uid(stat.pid) == Some(me.as_raw()))
        };
        let young: Vec<&Stat> = all.iter().filter(ours).collect();
        let mut owners: HashMap<i32, Owner> = HashMap::new();
        let is = |stat: &Stat, entry: &Entry| key(stat) == (entry.pid, entry.start_time);
        for stat in &young {
            let entry = || {
                record
                    .living
                    .iter()
                    .find(|entry| is(stat, entry))
                    .map(Owner::of)
            };
            if let Some(owner) = self.known.get(&key(stat)).cloned().or_else(entry) {
                owners.insert(stat.pid, owner);
            }
        }
        self.read_papers(&young, &mut owners);
        let mut sessions: HashMap<i32, Owner> = HashMap::new();
        for stat in &young {
            if let Some(owner) = owners.get(&stat.pid) {
                sessions.insert(stat.session, owner.clone());
            }
        }
        // The session of a worker that is still there, if only as a zombie, is the worker's. Once it is gone, its number
        // may be somebody else's by now: then what its members print to has to say so as well.
        for entry in &record.living {
            if all.iter().any(|leader| is(leader, entry)) {
                sessions.insert(entry.pid, Owner::of(entry));
            }
        }
        for stat in young
            .iter()
            .filter(|stat| !sessions.contains_key(&stat.session))
            .copied()
            .collect::<Vec<_>>()
        {
            let entry = record.living.iter().find(|entry| entry.pid == stat.session);
            if let Some(entry) =
                entry.filter(|entry| super::stale_pipes::holds_one(stat.pid, &entry.pipes))
            {
                sessions.insert(entry.pid, Owner::of(entry));
            }
        }
        // Not before: somebody may have been moved into a cgroup of theirs by hand, and his session is his own.
        for (pid, owner) in self.in_cgroups() {
            owners.entry(pid).or_insert(owner);
        }
        loop {
            let before = owners.len();
            for stat in &young {
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
        let listed = young
            .iter()
            .filter_map(|stat| Some((*stat, owners.get(&stat.pid)?)));
        let mut found: Vec<StaleWorker> = listed
            .filter_map(|(stat, owner)| hold(stat, owner))
            .collect();
        for one in &found {
            let owner = Owner {
                tag: one.tag.clone(),
                pool: one.pool.clone(),
                slot: one.slot,
            };
            self.known.insert((one.pid, one.start_time), owner);
        }
        self.learn_workers(&found, &record.living, &all);
        for one in &mut found {
            one.is_worker = self.workers.get(&one.tag) == Some(&(one.pid, one.start_time));
        }
        found
    }

    /// Asks those that nothing else has told of.
    fn read_papers(&mut self, young: &[&Stat], owners: &mut HashMap<i32, Owner>) {
        let unknown =
            |stat: &&&Stat| !owners.contains_key(&stat.pid) && !self.strangers.contains(&key(stat));
        let asked: Vec<&Stat> = young.iter().filter(unknown).copied().collect();
        let pids: Vec<i32> = asked.iter().map(|stat| stat.pid).collect();
        for (stat, papers) in asked.into_iter().zip(environments::of(&pids)) {
            match papers.map(|papers| self.owner_by(papers)) {
                Some(Some(owner)) => {
                    owners.insert(stat.pid, owner);
                    continue;
                }
                Some(None) => {}
                None => self.riddles.push(stat.pid),
            }
            // Once is enough: what is inherited is there from the start.
            self.strangers.insert(key(stat));
        }
    }

    fn owner_by(&self, papers: Environments) -> Option<Owner> {
        let record = self.record.as_ref()?;
        let tag = papers.tag?;
        if let Some(entry) = record.living.iter().find(|entry| entry.tag == tag) {
            return Some(Owner::of(entry));
        }
        let number = tag
            .strip_prefix(record.tag.as_deref()?)?
            .strip_prefix('-')?;
        number.parse::<u64>().ok()?;
        let pool = papers.pool.unwrap_or_else(|| "?".to_owned());
        Some(Owner {
            tag,
            pool,
            slot: papers.slot.unwrap_or(0),
        })
    }

    /// Who lives in the cgroups that were made for them. Each folder is named by its worker's number.
    fn in_cgroups(&self) -> Vec<(i32, Owner)> {
        let Some((record, base)) = self
            .record
            .as_ref()
            .and_then(|record| Some((record, record.cgroup.as_ref()?)))
        else {
            return Vec::new();
        };
        let prefix = record.tag.as_deref().unwrap_or_default();
        let owner = |number: &str| {
            let tag = format!("{prefix}-{number}");
            let entry = record
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

    /// Which of a tree is the worker itself: the one that the journal has; where it has none, the first of those that
    /// lead a session. Once known, nobody else becomes it.
    fn learn_workers(&mut self, found: &[StaleWorker], living: &[Entry], all: &[Stat]) {
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

/// Holds it by a pidfd and then makes sure that it is the one that was seen. None: it is gone.
fn hold(stat: &Stat, owner: &Owner) -> Option<StaleWorker> {
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
