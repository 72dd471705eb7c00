//! Requests over the control socket: accepts clients, reads their requests, checks that they mean this master's
//! configuration, and dispatches them (`requests.rs`, `reload.rs`, `rollback.rs`, `event_log.rs`, `log_clients.rs`).

use crate::control::protocol::{Method, Request, Response, Selector};
use crate::control::server::ReadOutcome;
use crate::event_loop::poller::{Interest, Source};
use crate::observe::events::EventKind;
use crate::plan::{Kind, PoolPlan};
use crate::supervisor::Supervisor;
use crate::supervisor::event_log::EventBuilder;
use crate::supervisor::pool_registry::is_meant;
use crate::supervisor::reload::ReloadRequest;
use rotad_core::{PoolId, Time};
use std::path::Path;

impl Supervisor {
    pub(crate) fn accept_clients(&mut self) {
        for client in self.clients.server.accept(self.clock.now()) {
            let watched = self.clients.server.stream(client).is_some_and(|stream| {
                self.event_loop
                    .poller
                    .watch(stream, Source::Client(client), Interest::Read)
                    .is_ok()
            });
            if !watched {
                self.clients.server.forget(client);
            }
        }
        for client in self.clients.server.surplus() {
            self.drop_client(client);
        }
        match self.clients.server.shortage() {
            Some(true) => tracing::warn!(
                "no descriptor is left for clients of the control socket (limit of open files, `nofile`): they are \
                 refused or wait; workers are supervised on"
            ),
            Some(false) => {
                tracing::info!("there are descriptors for clients of the control socket again")
            }
            None => {}
        }
        if self.clients.server.is_paused() {
            self.clients
                .server
                .listeners()
                .for_each(|listener_fd| self.event_loop.poller.unwatch(listener_fd));
        }
    }

    /// Accepts connections again after a lack of descriptors.
    pub(crate) fn resume_accepting(&mut self, now: Time) {
        if self.clients.server.resume(now) {
            self.watch_control_sockets();
        }
    }

    /// Watches every listening control socket; those already watched stay so.
    pub(crate) fn watch_control_sockets(&self) {
        for listener_fd in self
            .clients
            .server
            .listeners()
            .filter(|_| !self.clients.server.is_paused())
        {
            if let Err(error) =
                self.event_loop
                    .poller
                    .watch(listener_fd, Source::Control, Interest::Read)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                tracing::error!("cannot watch the control socket: {error}");
            }
        }
    }

    pub(crate) fn drop_client(&mut self, client: u64) {
        if let Some(stream) = self.clients.server.stream(client) {
            self.event_loop.poller.unwatch(stream);
        }
        self.clients.server.forget(client);
        self.clients.tickets.detach(client);
        self.event_log.forget(client);
        self.clients.statuses.forget(client);
        self.clients.stop_clients.retain(|known| *known != client);
    }

    pub(crate) fn on_client_readable(&mut self, client: u64) {
        match self.clients.server.read(client) {
            ReadOutcome::Request(request) => self.on_request(client, *request),
            ReadOutcome::Nothing => {
                self.flush(client);
                self.catch_up(client);
            }
            ReadOutcome::Gone => self.drop_client(client),
        }
    }

    pub(crate) fn answer(&mut self, client: u64, answer: &Response, last: bool) {
        self.clients.server.send(client, answer, last);
        self.flush(client);
    }

    pub(crate) fn flush(&mut self, client: u64) {
        match self.clients.server.flush(client) {
            None => self.drop_client(client),
            Some(more) => {
                let interest = if more {
                    Interest::ReadWrite
                } else {
                    Interest::Read
                };
                if let Some(stream) = self.clients.server.stream(client) {
                    self.event_loop
                        .poller
                        .change(stream, Source::Client(client), interest)
                        .ok();
                }
            }
        }
    }

    pub(crate) fn done(&mut self, client: u64, code: u8, message: String) {
        self.answer(client, &Response::Done { code, message }, true);
    }

    /// The client's pid and uid, for the log.
    pub(crate) fn client_name(&self, client: u64) -> String {
        self.clients.server.peer(client).map_or_else(
            || "a client".to_owned(),
            |(pid, uid)| format!("pid {pid} (uid {uid})"),
        )
    }

    fn on_request(&mut self, client: u64, request: Request) {
        if request.method == Method::Where {
            let runtime_dir = self.runtime_dir().to_owned();
            return self.answer(
                client,
                &Response::Here {
                    runtime_dir,
                    config: Some(self.plan.config.clone()),
                },
                true,
            );
        }
        let ours = [&self.plan.config, &self.plan.real];
        if [Some(&request.config), request.real.as_ref()]
            .into_iter()
            .flatten()
            .any(|path| ours.contains(&path))
        {
            return self.handle_request(client, request.method);
        }
        // A symlink in our path may have been changed since the configuration was read.
        if self
            .reload
            .blocking
            .resolve_config(self.plan.config.clone(), client, request)
            .is_err()
        {
            self.refuse_other_config(client);
        }
    }

    /// Our configuration's path has been resolved again: compares it with the request's.
    pub(crate) fn on_config_resolved(
        &mut self,
        client: u64,
        request: Request,
        real: Option<&Path>,
    ) {
        let meant = [Some(request.config.as_path()), request.real.as_deref()];
        if real.is_some() && meant.contains(&real) {
            return self.handle_request(client, request.method);
        }
        self.refuse_other_config(client);
    }

    fn refuse_other_config(&mut self, client: u64) {
        let (config, real) = (self.plan.config.display(), &self.plan.real);
        let mut message = format!("this is the master of {config}");
        if *real != self.plan.config {
            message.push_str(&format!(
                " (which led to {} when it was read)",
                real.display()
            ));
        }
        let quoted = shell_words::quote(&self.plan.config.to_string_lossy()).into_owned();
        message.push_str(&format!(
            "\n  it is asked by `-c {quoted}`; if your file is to take its place, `rotad stop -c {quoted}` first; if both \
             are to run, give each its own `name` (or `runtime_dir`) in [master]"
        ));
        self.done(client, 4, message);
    }

    fn handle_request(&mut self, client: u64, ask: Method) {
        match ask {
            // Handled in `on_request`.
            Method::Where => {}
            Method::Status => self.status_requested(client),
            Method::Stop { pools, now } if pools.is_empty() => {
                let text = format!(
                    "{} asks to stop{}",
                    self.client_name(client),
                    if now { " at once" } else { "" }
                );
                self.emit(EventBuilder::new(EventKind::Request, text).cause("stop"));
                self.clients.stop_clients.push(client);
                self.stop(now);
            }
            Method::Stop { pools, now } => self.stop_pools(client, pools, now),
            Method::Start { pools, wait } => self.start_pools(client, pools, wait),
            Method::Roll { which, wait } => self.roll_requested(client, &which, wait),
            Method::Replace { pool, slot, wait } => self.replace_worker(client, &pool, slot, wait),
            Method::Reload {
                which,
                extent,
                wait,
            } => {
                let who = self.client_name(client);
                self.reload(ReloadRequest {
                    client: Some(client),
                    who,
                    extent,
                    which,
                    wait,
                });
            }
            Method::Rollback {
                pools,
                to,
                dry_run,
                wait,
            } => self.roll_back(client, pools, to, dry_run, wait),
            Method::Cancel { pools } => self.cancel(client, pools),
            Method::Scale { pool, to } => self.scale(client, &pool, to),
            Method::Signal { pool, slot, signal } => self.send_signal(client, &pool, slot, signal),
            Method::Events { follow } => self.events_for(client, follow),
            Method::Logs {
                pool,
                slot,
                lines,
                follow,
            } => self.logs_for(client, pool, slot, (lines, follow)),
        }
    }

    /// The pools that a selector means. An unknown name is answered with an error. `oneshots`: whether "all pools"
    /// includes oneshots.
    pub(crate) fn select_pools(
        &mut self,
        client: u64,
        which: &Selector,
        oneshots: bool,
    ) -> Option<Vec<PoolId>> {
        if let Some(unknown) = which
            .pools
            .iter()
            .find(|name| self.pools.find(name).is_none())
        {
            let message = format!(
                "no such pool: {unknown}; there are: {}",
                self.pools.names().join(", ")
            );
            self.done(client, 4, message);
            return None;
        }
        let wanted = |pool: &PoolPlan| {
            is_meant(which, pool)
                && (oneshots || pool.kind != Kind::Oneshot || which.pools.contains(&pool.name))
        };
        let pools: Vec<PoolId> = self
            .pools
            .iter()
            .filter(|(_, pool)| wanted(pool))
            .map(|(id, _)| id)
            .collect();
        if pools.is_empty() {
            self.done(client, 0, "there is no pool of that kind".to_owned());
            return None;
        }
        Some(pools)
    }
}
