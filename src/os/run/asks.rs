//! Questions over the control socket, and the clerk who reads files for them.

use super::Keeper;
use super::chronicle::Note;
use crate::control::server::Heard;
use crate::control::wire::{Answer, Ask, Extent, Question, Wait, Which};
use crate::observe::events::What;
use crate::os::reactor::{Interest, Source};
use crate::os::wake::Wake;
use crate::plan::{self, Kind, Plan};
use crossbeam_channel::{Receiver, Sender, bounded};
use rotad_core::{Event, PoolId, Request};
use std::path::PathBuf;

/// Errands at once: a dead mount holds the clerk who reads from it.
const MOST_ERRANDS: usize = 8;

/// Why the files are looked at.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    ApplyConfig,
    Reload,
    /// A client's `reload`.
    Ask {
        client: u64,
        pools: Vec<PoolId>,
        wait: bool,
    },
}

/// Reads the configuration files again, off the main thread.
pub(super) struct Clerk {
    wake: Wake,
    done: Sender<Told>,
    told: Receiver<Told>,
    out: usize,
}

struct Told {
    errand: Errand,
    changed: std::io::Result<Vec<PathBuf>>,
}

impl Clerk {
    pub(super) fn new(wake: Wake) -> Self {
        let (done, told) = bounded(MOST_ERRANDS);
        Self { wake, done, told, out: 0 }
    }

    /// False: too many are out already.
    pub(super) fn look(&mut self, errand: Errand, plan: Plan) -> bool {
        if self.out >= MOST_ERRANDS {
            return false;
        }
        let (done, wake) = (self.done.clone(), self.wake.clone());
        let go = move || {
            let changed = plan::changed(&plan);
            done.send(Told { errand, changed }).ok();
            wake.ring();
        };
        let sent = std::thread::Builder::new().name("clerk".into()).stack_size(256 * 1024).spawn(go).is_ok();
        self.out += usize::from(sent);
        sent
    }
}

impl Keeper {
    pub(super) fn new_clients(&mut self) {
        for client in self.server.accept() {
            let watched = self
                .server
                .stream(client)
                .is_some_and(|stream| self.reactor.watch(stream, Source::Client(client), Interest::Read).is_ok());
            if !watched {
                self.server.forget(client);
            }
        }
        for client in self.server.surplus() {
            self.drop_client(client);
        }
    }

    pub(super) fn drop_client(&mut self, client: u64) {
        if let Some(stream) = self.server.stream(client) {
            self.reactor.unwatch(stream);
        }
        self.server.forget(client);
        self.tickets.detach(client);
        self.chronicle.forget(client);
        self.stop_clients.retain(|known| *known != client);
    }

    pub(super) fn hear(&mut self, client: u64) {
        match self.server.read(client) {
            Heard::Question(question) => self.asked(client, *question),
            Heard::Nothing => {
                self.flush(client);
                self.catch_up(client);
            }
            Heard::Gone => self.drop_client(client),
        }
    }

    pub(super) fn answer(&mut self, client: u64, answer: &Answer, last: bool) {
        self.server.say(client, answer, last);
        self.flush(client);
    }

    pub(super) fn flush(&mut self, client: u64) {
        match self.server.flush(client) {
            None => self.drop_client(client),
            Some(more) => {
                let interest = if more { Interest::ReadWrite } else { Interest::Read };
                if let Some(stream) = self.server.stream(client) {
                    self.reactor.change(stream, Source::Client(client), interest).ok();
                }
            }
        }
    }

    pub(super) fn done(&mut self, client: u64, code: u8, message: String) {
        self.answer(client, &Answer::Done { code, message }, true);
    }

    fn asked(&mut self, client: u64, question: Question) {
        if question.config != self.plan.config {
            let message = format!("this is the master of {}", self.plan.config.display());
            return self.done(client, 4, message);
        }
        match question.ask {
            Ask::Status => {
                let status = self.snapshot();
                self.answer(client, &Answer::Status(Box::new(status)), true);
            }
            Ask::Stop { pools, now } if pools.is_empty() => {
                let text = format!("a client asks to stop{}", if now { " at once" } else { "" });
                self.note(Note::new(What::Request, text).cause("stop"));
                self.stop_clients.push(client);
                self.stop(now);
            }
            Ask::Roll { which, wait } => {
                if let Some(pools) = self.chosen(client, &which) {
                    let text = format!("a client asks to roll {}", self.names(&pools));
                    self.note(Note::new(What::Request, text).cause("roll"));
                    self.roll_for(client, &pools, wait != Wait::No);
                }
            }
            Ask::Reload { which, extent: Extent::Everything, wait } => {
                let wait = wait != Wait::No;
                if let Some(pools) = self.chosen(client, &which)
                    && !self.clerk.look(Errand::Ask { client, pools, wait }, self.plan.clone())
                {
                    self.done(client, 1, "the files of earlier requests are still being read".to_owned());
                }
            }
            Ask::Cancel { pools } => {
                if let Some(pools) = self.chosen(client, &Which { pools, ..Which::default() }) {
                    let text = format!("a client asks to cancel {}", self.names(&pools));
                    self.note(Note::new(What::Request, text).cause("cancel"));
                    for (pool, ticket) in self.tickets.issue(Some(client), &pools) {
                        self.fact(Event::Requested(ticket, Request::Cancel(pool)));
                    }
                }
            }
            Ask::Logs { pool, slot, lines, follow } => self.logs_for(client, pool, slot, (lines, follow)),
            Ask::Events { follow } => self.events_for(client, follow),
            Ask::Stop { .. }
            | Ask::Start { .. }
            | Ask::Renew { .. }
            | Ask::Reload { .. }
            | Ask::Rollback { .. }
            | Ask::Scale { .. }
            | Ask::Signal { .. } => self.done(client, 78, "not supported yet: this request".to_owned()),
        }
    }

    /// The pools that are meant; an unknown name is answered.
    fn chosen(&mut self, client: u64, which: &Which) -> Option<Vec<PoolId>> {
        if let Some(unknown) = which.pools.iter().find(|name| self.posts.find(name).is_none()) {
            let message = format!("no such pool: {unknown}; there are: {}", self.posts.names().join(", "));
            self.done(client, 4, message);
            return None;
        }
        let all = !which.workers && !which.tasks && which.pools.is_empty();
        let wanted = |pool: &plan::PoolPlan| {
            all || which.pools.contains(&pool.name)
                || (which.workers && pool.kind == Kind::Worker)
                || (which.tasks && pool.kind == Kind::Task)
        };
        let pools: Vec<PoolId> = self.posts.iter().filter(|(_, pool)| wanted(pool)).map(|(id, _)| id).collect();
        if pools.is_empty() {
            self.done(client, 0, "there is no pool of that kind".to_owned());
            return None;
        }
        Some(pools)
    }

    fn roll_for(&mut self, client: u64, pools: &[PoolId], wait: bool) {
        if wait {
            self.roll(Some(client), pools);
        } else {
            self.roll(None, pools);
            let message = format!("rolling {}", self.names(pools));
            self.done(client, 0, message);
        }
    }

    pub(super) fn clerk_answers(&mut self) {
        while let Ok(Told { errand, changed }) = self.clerk.told.try_recv() {
            self.clerk.out -= 1;
            let verdict = match changed {
                Ok(files) if files.is_empty() => Ok(()),
                Ok(files) => {
                    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                    Err(format!(
                        "not supported yet: applying a changed configuration to a running master ({} changed since it \
                         was read)\nnothing was changed, and all pools serve on; `roll` rolls them as they are, \
                         `stop` and `start` take the new configuration",
                        files.join(", ")
                    ))
                }
                Err(error) => Err(format!("the configuration cannot be read: {error}\nnothing was changed")),
            };
            match (errand, verdict) {
                (Errand::ApplyConfig, Ok(())) => tracing::info!("the configuration has not changed"),
                (Errand::Reload, Ok(())) => {
                    let all = self.posts.of_kind(None);
                    self.roll(None, &all);
                }
                (Errand::ApplyConfig | Errand::Reload, Err(why)) => {
                    self.note(Note::new(What::ConfigRefused, why).error());
                }
                (Errand::Ask { client, pools, wait }, Ok(())) => {
                    let text = format!("a client asks to reload {}", self.names(&pools));
                    self.note(Note::new(What::Request, text).cause("reload"));
                    self.roll_for(client, &pools, wait);
                }
                (Errand::Ask { client, .. }, Err(why)) => self.done(client, 78, why),
            }
        }
    }
}
