//! Rolling restarts as they are asked for by signals, clients and changed files.

use super::on_change::PassedOver;
use crate::control::protocol::Wait;
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::tickets::WaitId;
use crate::supervisor::deploys::Asker;
use crate::supervisor::event_builder::EventBuilder;
use rotad_core::{PoolId, Request};

impl Supervisor {
    /// Reports the pools that are passed over, in the log and to the waiting client.
    pub(crate) fn report_passed_over(&mut self, wait: Option<WaitId>, passed_over: &PassedOver) {
        for (pool, (code, text)) in passed_over {
            let event = EventBuilder::new(EventKind::PassedOver, text.clone()).pool(*pool);
            self.emit(if *code == ExitCode::DONE {
                event.cause("unchanged")
            } else {
                event.cause("unseen").error()
            });
            if let Some(wait) = wait {
                self.clients.tickets.note(wait, *code, text.clone());
            }
        }
    }

    /// Rolls those of `pools` that are not passed over, and reports the others.
    pub(crate) fn roll_except(
        &mut self,
        (client, asker): (Option<u64>, Asker),
        wait: Wait,
        pools: &[PoolId],
        passed_over: &PassedOver,
    ) {
        let rolled: Vec<PoolId> = pools
            .iter()
            .filter(|pool| !passed_over.contains_key(*pool))
            .copied()
            .collect();
        let waits = client.filter(|_| wait != Wait::No);
        let waiting = self.clients.tickets.open(waits, wait == Wait::Drained);
        self.report_passed_over(Some(waiting), passed_over);
        if rolled.is_empty() {
            self.clients
                .tickets
                .note(waiting, ExitCode::DONE, "no pool was rolled".to_owned());
        }
        if let (Some(client), Wait::No) = (client, wait) {
            let first = if rolled.is_empty() {
                "no pool is rolled".to_owned()
            } else {
                format!("rolling {}", self.pools.list(&rolled))
            };
            let lines: Vec<&str> = passed_over
                .values()
                .map(|(_, text)| text.as_str())
                .chain([first.as_str()])
                .collect();
            let code = passed_over
                .values()
                .map(|(code, _)| *code)
                .reduce(ExitCode::worse)
                .unwrap_or(ExitCode::DONE);
            self.done(client, code, lines.join("\n"));
        }
        self.check_all_listeners();
        self.roll_with_wait(waiting, &asker, &rolled);
    }

    /// Starts a rolling restart of `pools`, for which no client waits: the outcome goes to the log.
    pub(crate) fn roll(&mut self, asker: &Asker, pools: &[PoolId]) {
        self.check_all_listeners();
        self.service_manager.reloading();
        let wait = self.clients.tickets.open(None, false);
        self.roll_with_wait(wait, asker, pools);
    }

    /// The same with a wait that is already open; closes it.
    pub(crate) fn roll_with_wait(&mut self, wait: WaitId, asker: &Asker, pools: &[PoolId]) {
        let pools = self.pools.in_order(pools);
        let tickets: Vec<_> = pools
            .iter()
            .map(|pool| (*pool, self.clients.tickets.join(wait, *pool)))
            .collect();
        self.close_wait(wait);
        for (pool, ticket) in tickets {
            self.pools.ask_for(pool, asker);
            self.engine.request_with(ticket, Request::Roll(pool));
        }
    }
}
