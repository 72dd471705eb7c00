//! A request to apply the configuration, by a client, a signal or a changed file.

use super::machine::Joins;
use crate::control::protocol::{ReloadScope, Selector, Wait};
use crate::supervisor::deploys::Asker;
use serde::{Deserialize, Serialize};

/// Who asked for the configuration to be applied, and how far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReloadRequest {
    /// None: a signal, or a client that no longer waits.
    pub client: Option<u64>,
    /// Who asked, for the log.
    pub who: String,
    /// The same, for the status.
    #[serde(default)]
    pub asker: Asker,
    pub extent: ReloadScope,
    pub which: Selector,
    pub wait: Wait,
}

impl Joins for ReloadRequest {
    fn joins(&self, other: &Self) -> bool {
        let everything = Selector::default();
        self.client.is_none()
            && other.client.is_none()
            && self.extent == other.extent
            && self.which == everything
            && other.which == everything
    }
}
