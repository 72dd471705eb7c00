//! What the signals that the master receives lead to. `mod.rs` reads them; `[signals]` of the configuration maps them to
//! actions.

use super::Supervisor;
use super::deploys::Asker;
use super::event_builder::EventBuilder;
use super::reload::ReloadRequest;
use crate::control::protocol::{ReloadScope, Selector, Wait};
use crate::observe::events::EventKind;
use crate::plan::{Kind, SignalAction};
use rotad_core::PoolId;

impl Supervisor {
    /// Emits a received signal and what it leads to.
    pub(super) fn emit_signal(&mut self, text: String) {
        self.emit(EventBuilder::new(EventKind::SignalReceived, text));
    }

    pub(super) fn act(&mut self, action: SignalAction, text: &str, asker: Asker) {
        match action {
            SignalAction::RollWorkers => self.roll_kind(text, asker, Some(Kind::Worker)),
            SignalAction::RollTasks => self.roll_kind(text, asker, Some(Kind::Task)),
            SignalAction::RollAll => self.roll_kind(text, asker, None),
            SignalAction::ApplyConfig => self.apply_by_signal(text, asker, ReloadScope::ConfigOnly),
            SignalAction::Reload => self.apply_by_signal(text, asker, ReloadScope::Everything),
            SignalAction::ReopenLogs => {
                self.emit_signal(format!("{text}: opening the log again"));
                self.log.writer.reopen();
                self.check_all_listeners();
                let action = self.runtime.check(self.clock.now());
                self.perform(action);
            }
            SignalAction::Ignore => self.emit_signal(format!("{text}: ignored, as configured")),
        }
    }

    pub(super) fn apply_by_signal(&mut self, text: &str, asker: Asker, extent: ReloadScope) {
        let (who, which) = (text.to_owned(), Selector::default());
        self.reload(ReloadRequest {
            client: None,
            who,
            asker,
            extent,
            which,
            wait: Wait::No,
        });
    }

    fn roll_kind(&mut self, text: &str, asker: Asker, kind: Option<Kind>) {
        let pools = self.pools.of_kind(kind);
        if pools.is_empty() {
            // `Type=notify-reload` waits for the end of a reload: there is nothing to do, so it ends now.
            self.service_manager.reloading();
            return self.emit_signal(format!("{text}: there is no pool of that kind to roll"));
        }
        let comparisons = self.lookup().comparisons_for_roll(&pools, &[]);
        if comparisons.is_empty() {
            self.emit_signal(format!("{text}: rolling {}", self.pools.list(&pools)));
            return self.roll_if_changed((None, asker), Wait::No, pools, comparisons);
        }
        let (conditional, certain): (Vec<PoolId>, Vec<PoolId>) = pools
            .iter()
            .partition(|pool| comparisons.iter().any(|(looked, _)| looked == *pool));
        let certain = if certain.is_empty() {
            String::new()
        } else {
            format!("rolling {}; ", self.pools.list(&certain))
        };
        let conditional = self.pools.list(&conditional);
        self.emit_signal(format!(
            "{text}: {certain}only if what it is made from has changed: {conditional}"
        ));
        self.roll_if_changed((None, asker), Wait::No, pools, comparisons);
    }
}
