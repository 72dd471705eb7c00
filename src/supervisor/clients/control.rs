//! Requests over the control socket: checks that they mean this master's configuration, and dispatches them
//! (`requests.rs`, `reload/`, `log_clients.rs`, `status.rs`).

use crate::control::protocol::{LogPlace, LogTarget, Method, Request, Response};
use crate::exit_code::ExitCode;
use crate::log::FollowFrom;
use crate::observe::events::EventKind;
use crate::supervisor::Supervisor;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::reload::ReloadRequest;
use std::path::Path;

impl Supervisor {
    pub(crate) fn on_client_readable(&mut self, client: u64) {
        if let Some(request) = self.clients.read(client, &self.event_loop.poller) {
            // If this master dies while it answers, the next one answers.
            self.save();
            self.on_request(client, request);
            self.save();
            self.clients.consume_request(client);
        }
    }

    pub(crate) fn on_request(&mut self, client: u64, request: Request) {
        if request.method == Method::Where {
            let runtime_dir = self.runtime.path().to_owned();
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
        self.done(client, ExitCode::NOT_FOUND, message);
    }

    fn handle_request(&mut self, client: u64, ask: Method) {
        match ask {
            // Handled in `on_request`.
            Method::Where => {}
            Method::Status => self.status_requested(client),
            Method::Metrics => self.metrics_requested(client),
            Method::ScrapeTargets => self.answer_scrape_targets(client),
            Method::InProgress { pools } => self.answer_in_progress(client, pools),
            Method::Stop { pools, now } if pools.is_empty() => {
                let text = format!(
                    "{} asks to stop{}",
                    self.clients.name(client),
                    if now { " at once" } else { "" }
                );
                self.emit(EventBuilder::new(EventKind::Request, text).cause("stop"));
                self.clients.wait_for_stop(client);
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
                let (who, asker) = (
                    self.clients.name(client),
                    self.clients.asker(client, "reload"),
                );
                self.reload(ReloadRequest {
                    client: Some(client),
                    who,
                    asker,
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
            Method::Hook { name } => self.try_hook(client, &name),
            Method::Upgrade { to } => self.upgrade_requested(client, to),
            Method::Events { follow: true } => {
                self.save();
                let latest = self.event_log.latest();
                self.clients
                    .follow_events(client, latest, &self.event_loop.poller);
            }
            Method::Events { follow: false } => {
                self.save();
                let all = self.event_log.all();
                self.clients
                    .send_events(client, all, &self.event_loop.poller);
            }
            Method::Logs {
                pool,
                slot,
                more,
                lines,
                follow,
                after,
            } => {
                let last = FollowFrom::Last(lines as usize);
                let behind = |LogPlace { log, end }| FollowFrom::After { log, end };
                let first = pool.map(|pool| LogTarget { pool, slot });
                let targets = first.into_iter().chain(more).collect();
                self.logs_for(client, targets, after.map_or(last, behind), follow);
            }
        }
    }
}
