//! The state of one slot of a pool, and how many of a pool's slots are in which state.

use crate::{Time, WorkerId};

/// How a slot ended that stays empty until an operator acts (policy `never`, `on-failure` after a success, or
/// `never_on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Ended {
    Done,
    Failed,
}

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default)
)]
pub(crate) struct SlotState {
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) current: Option<WorkerId>,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) successor: Option<WorkerId>,
    /// Consecutive deaths that count as failures, and how many of them were followed by a delay.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) deaths: u32,
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) delays: u32,
    /// Consecutive successful exits before readiness. They are not failures, but nothing should wait for the next
    /// worker.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) early_exits: u32,
    /// The first of consecutive deaths, if its worker had been ready for a while: it counts for a crash loop only
    /// once the slot fails again.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) first_death: Option<Time>,
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) not_before: Option<Time>,
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) ended: Option<Ended>,
    /// How often the slot was filled again after an exit that was not requested and not a success.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) restarts: u32,
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) restart_due: bool,
    /// Workers of this slot that are leaving and not gone yet; and those of them that were asked to stop, without the
    /// lost ones.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) leaving: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) stopping_workers: u32,
    /// Those of them that may still be working and were never ready.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) stopping_unready: u32,
}

impl SlotState {
    /// Forgets the slot's failures: an operator has acted, or a new generation has passed its soak.
    pub(crate) fn reset(&mut self) {
        self.not_before = None;
        self.ended = None;
        self.early_exits = 0;
        self.reset_deaths();
    }

    /// Resets the failure counters.
    pub(crate) fn reset_deaths(&mut self) {
        self.deaths = 0;
        self.delays = 0;
        self.first_death = None;
    }
}

/// How many of the desired slots have failed or ended. Each change of a slot moves it, so that no input has to look at
/// every slot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Slots whose `ended` is `Done`; and those whose it is `Failed`.
    pub(crate) done: u32,
    pub(crate) failed: u32,
    /// Slots that have ended, or have failed since a worker of theirs was stable.
    pub(crate) troubled: u32,
    /// Slots that have ended, or have failed twice or more in a row.
    pub(crate) stuck: u32,
}

impl Tally {
    pub(crate) fn of(slot: &SlotState) -> Self {
        let ended = slot.ended.is_some();
        Self {
            done: u32::from(slot.ended == Some(Ended::Done)),
            failed: u32::from(slot.ended == Some(Ended::Failed)),
            troubled: u32::from(ended || slot.deaths > 0),
            stuck: u32::from(ended || slot.deaths > 1),
        }
    }

    /// Slots that stay empty until an operator acts.
    pub(crate) fn ended(self) -> u32 {
        self.done + self.failed
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.troubled += other.troubled;
        self.stuck += other.stuck;
    }

    pub(crate) fn take_away(&mut self, other: Self) {
        self.done -= other.done;
        self.failed -= other.failed;
        self.troubled -= other.troubled;
        self.stuck -= other.stuck;
    }
}
