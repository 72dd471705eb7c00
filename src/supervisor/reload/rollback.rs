//! `rotad rollback`: rolls a pool to the generation before the current one, or to any other remembered generation that
//! was fully up. A rollback that would only start the same files once more, or undo what does not serve, is refused,
//! with what can be done instead.

use crate::control::protocol::{Selector, Wait};
use crate::exit_code::ExitCode;
use crate::plan::Kind;
use crate::supervisor::Supervisor;
use crate::supervisor::pool_registry::PoolSpec;
use crate::supervisor::reload::lookup::Lookup;
use rotad_core::{Generation, PoolId, PoolView, Request, RollState};
use std::sync::Arc;

/// A possible rollback.
pub(crate) struct Way {
    pub to: Generation,
    spec: Arc<PoolSpec>,
}

/// Why a rollback is refused.
pub(crate) enum Refusal {
    /// The pool is there already.
    Here(String),
    No(String),
}

impl Supervisor {
    /// Handles `rotad rollback`. `to`: None means the generation before. `dry_run`: only says what would be done. The
    /// number of workers of `rotad scale` stays.
    pub(crate) fn roll_back(
        &mut self,
        client: u64,
        pools: Vec<String>,
        to: Option<u32>,
        dry_run: bool,
        wait: Wait,
    ) {
        let named = !pools.is_empty();
        let Some(pools) = self.select_pools(
            client,
            &Selector {
                pools,
                ..Selector::default()
            },
            false,
        ) else {
            return;
        };
        let target = to.map_or_else(String::new, |to| format!(" to generation {to}"));
        let only = if dry_run { ", as a dry run" } else { "" };
        let text = format!(
            "{} asks to roll back {}{target}{only}",
            self.clients.name(client),
            self.pools.list(&pools)
        );
        self.emit_request("rollback", text);
        if !dry_run {
            self.service_manager.reloading();
        }
        let waits = wait != Wait::No && !dry_run;
        let waiting = self
            .clients
            .tickets
            .open(Some(client).filter(|_| waits), wait == Wait::Drained);
        let asker = self.clients.asker(client, "rollback");
        let (mut lines, mut code, mut moves) = (Vec::new(), ExitCode::DONE, false);
        // With neither name nor number, the pools that can go back do. A named pool or number has to.
        let strict = named || to.is_some();
        for pool in self.pools.in_order(&pools) {
            let (line, worth) = match self.lookup().way_to(pool, to) {
                Ok(way) => {
                    moves = true;
                    if !dry_run {
                        self.pools.ask_for(pool, &asker);
                    }
                    lines.push(self.go_back(pool, way, waiting, dry_run));
                    continue;
                }
                Err(Refusal::Here(why)) => (why, ExitCode::DONE),
                Err(Refusal::No(why)) if strict => (why, ExitCode::FAILED),
                Err(Refusal::No(why)) => (why, ExitCode::DONE),
            };
            let line = format!("{}: {line}", self.pools.name(pool));
            code = code.worse(worth);
            self.clients.tickets.note(waiting, worth, line.clone());
            lines.push(line);
        }
        if !moves && !strict {
            code = ExitCode::FAILED;
            self.clients
                .tickets
                .note(waiting, ExitCode::FAILED, "nothing was changed".to_owned());
        }
        self.close_wait(waiting);
        if !waits {
            self.done(client, code, lines.join("\n"));
        }
    }

    /// Starts the rollback, or only says so.
    fn go_back(
        &mut self,
        pool: PoolId,
        way: Way,
        wait: crate::supervisor::clients::tickets::WaitId,
        dry_run: bool,
    ) -> String {
        let Way { to, spec } = way;
        let name = self.pools.name(pool).to_owned();
        if dry_run {
            return format!("{name}: would roll {}", self.lookup().shown_way(pool, to));
        }
        self.pools.set_next_spec(pool, spec);
        self.refresh_plan();
        let Some(policy) = self.pools.policy(pool) else {
            return format!("{name}: is not there any more");
        };
        // Its directory may be gone: resolving it again would start something else under its number.
        self.workers.spawn_specs.hold_to(pool, Some(to));
        let ticket = self.clients.tickets.join(wait, pool);
        self.engine
            .request_with(ticket, Request::RollBack { pool, to, policy });
        format!("{name}: back to generation {to}")
    }
}

impl Lookup<'_> {
    /// Where a rollback of this pool leads. `to`: None means the generation before.
    pub(crate) fn way_to(&self, pool: PoolId, to: Option<u32>) -> Result<Way, Refusal> {
        let no = |text: String| Err(Refusal::No(text));
        let Some(view) = self.engine.pool(pool) else {
            return no("is not there any more".to_owned());
        };
        if self
            .pools
            .plan(pool)
            .is_some_and(|plan| plan.kind == Kind::Oneshot)
        {
            return no("is a oneshot: it has no generation to go back to".to_owned());
        }
        if self.pools.stopped_by_operator(pool) {
            return no("is stopped".to_owned());
        }
        let to = match to {
            Some(number) => Generation(number),
            None => self.before(pool, &view)?,
        };
        let known = self.engine.served(pool);
        if !known.contains(&to) {
            return no(format!(
                "generation {to} is not known; {}",
                self.remembered(&view, &known)
            ));
        }
        self.can_go(pool, &view, to).map(|spec| Way { to, spec })
    }

    /// The generation that `rollback` without a number means.
    fn before(&self, pool: PoolId, view: &PoolView) -> Result<Generation, Refusal> {
        let no = |text: String| Err(Refusal::No(text));
        let tried = view.roll.generation;
        match view.roll.state {
            // A running roll is undone.
            RollState::Running
                if view.last_good != Generation::NONE && Generation(tried) != view.last_good =>
            {
                Ok(view.last_good)
            }
            RollState::Aborted | RollState::RolledBack => {
                let mut text = format!(
                    "nothing to undo: generation {tried} never served in full; {}",
                    who(view)
                );
                let older = if view.serving.len() > 1 {
                    view.last_good
                } else {
                    view.previous_good
                };
                if older == Generation::NONE {
                    text.push_str("\nthere is no older generation");
                    return no(text);
                }
                let command = format!("rotad rollback {} --to {older}", self.pools.name(pool));
                match self.can_go(pool, view, older) {
                    Ok(_) => {
                        text.push_str(&format!(
                            "\n`{command}` would roll {}",
                            self.shown_way(pool, older)
                        ));
                    }
                    Err(Refusal::Here(why) | Refusal::No(why)) => {
                        text.push_str(&format!("\n`{command}` would not help: {why}"));
                    }
                }
                no(text)
            }
            _ if view.previous_good == Generation::NONE => {
                let of = if view.last_good == Generation::NONE {
                    "no generation has served in full yet".to_owned()
                } else {
                    format!(
                        "there is no generation before {} that served in full and is remembered",
                        view.last_good
                    )
                };
                no(format!("{of}: there is nothing to go back to"))
            }
            _ => Ok(view.previous_good),
        }
    }

    /// The spec of `to`, if rolling to it would change anything.
    fn can_go(
        &self,
        pool: PoolId,
        view: &PoolView,
        to: Generation,
    ) -> Result<Arc<PoolSpec>, Refusal> {
        let no = |text: String| Err(Refusal::No(text));
        let Some(spec) = self.pools.spec_of(pool, to) else {
            return no(format!(
                "what generation {to} was made from is not known any more"
            ));
        };
        let rolls = view.roll.state == RollState::Running;
        if !rolls
            && view.serving.iter().all(|(generation, _)| *generation == to)
            && view.fill_generation == to
        {
            if view.serving.is_empty() {
                return no(format!(
                    "nobody serves, and generation {to} is already being retried"
                ));
            }
            return Err(Refusal::Here(format!(
                "generation {to} serves already: nothing was changed"
            )));
        }
        let mut sockets = spec.listeners.iter().zip(&spec.sockets);
        if let Some((_, socket)) = sockets.find(|(id, _)| self.listening.get(**id).is_none()) {
            return no(format!(
                "generation {to} listened on {:?}, which the configuration has given up since: put it back into the \
                 file and reload",
                socket.name
            ));
        }
        let mut others: Vec<Generation> = view
            .serving
            .iter()
            .map(|(generation, _)| *generation)
            .collect();
        others.retain(|generation| *generation != to);
        if others.is_empty() {
            others.push(if rolls {
                Generation(view.roll.generation)
            } else {
                view.fill_generation
            });
        }
        if others
            .iter()
            .all(|other| *other != to && self.same_files(pool, *other, to))
        {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            let end = if rolls {
                "; `rotad cancel` ends what runs"
            } else {
                ""
            };
            return no(format!(
                "generation {to} is made of exactly the same files as generation {}{}: the code was edited in place, and \
                 its files would only be started once more\nput the old code there and `rotad reload`; releases in \
                 directories of their own, behind a link, can be rolled back{end}",
                others.join(" and "),
                self.place(pool, to)
                    .map_or_else(String::new, |place| format!(" ({place})")),
            ));
        }
        Ok(spec.clone())
    }

    /// Whether both generations have the same configuration, program and directory.
    pub(crate) fn same_files(&self, pool: PoolId, one: Generation, other: Generation) -> bool {
        let specs = self
            .pools
            .spec_of(pool, one)
            .zip(self.pools.spec_of(pool, other));
        let places = self
            .specs
            .resolved(pool, one)
            .zip(self.specs.resolved(pool, other));
        specs.is_some_and(|(one, other)| one.is_alike(other))
            && places.is_some_and(|(one, other)| one == other)
    }

    /// "3 workers from generation 2 to generation 1 (/srv/app/1)".
    pub(crate) fn shown_way(&self, pool: PoolId, to: Generation) -> String {
        let view = self.engine.pool(pool);
        let serving = view.map(|view| view.serving).unwrap_or_default();
        let moved: u32 = serving
            .iter()
            .filter(|(generation, _)| *generation != to)
            .map(|(_, count)| count)
            .sum();
        let from: Vec<String> = serving
            .iter()
            .filter(|(generation, _)| *generation != to)
            .map(|(of, _)| of.to_string())
            .collect();
        let from = if from.is_empty() {
            String::new()
        } else {
            format!(" from generation {}", from.join(" and "))
        };
        let mut text = format!(
            "{}{from} to generation {to}",
            crate::supervisor::clients::outcome_text::workers(moved)
        );
        if let Some(place) = self.place(pool, to) {
            text.push_str(&format!(" ({place})"));
        }
        let own = self.pools.next_spec(pool).zip(self.pools.spec_of(pool, to));
        if own.is_some_and(|(next_spec, then)| !next_spec.is_alike(then)) {
            text.push_str(
                ", with its configuration of that time, which differs from the present one",
            );
        }
        text
    }

    /// The directory of a generation, as resolved at its first spawn.
    fn place(&self, pool: PoolId, generation: Generation) -> Option<String> {
        self.specs
            .resolved(pool, generation)
            .map(|found| found.directory.display().to_string())
    }

    fn remembered(&self, view: &PoolView, known: &[Generation]) -> String {
        let serves = |generation: &Generation| view.serving.iter().any(|(of, _)| of == generation);
        let shown = |generation: &Generation| {
            let serves = if serves(generation) { " (serves)" } else { "" };
            format!("{generation}{serves}")
        };
        match known {
            [] => "none has served in full yet".to_owned(),
            known => format!(
                "known are {}",
                known.iter().map(shown).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

/// "generation 2 serves", "2 of generation 1 and 1 of generation 2 serve", "nobody serves".
fn who(view: &PoolView) -> String {
    match view.serving.as_slice() {
        [] => format!(
            "nobody serves; still retrying generation {}",
            view.fill_generation
        ),
        [(generation, _)] => format!("generation {generation} serves"),
        several => {
            let parts = several
                .iter()
                .map(|(generation, count)| format!("{count} of generation {generation}"));
            format!("{} serve", parts.collect::<Vec<_>>().join(" and "))
        }
    }
}
