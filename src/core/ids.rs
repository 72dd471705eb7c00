//! Identifiers. None is ever reused, so a late input about a worker that is gone changes nothing.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($kind:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub $kind);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// One worker: one spawn, from its command until its whole tree is gone.
    WorkerId(u64)
);
number!(
    /// A pool; numbered in the order of the plan.
    PoolId(u32)
);
number!(
    /// The version of a pool's configuration and files that a worker is made from. A pool begins with 1; 0 means
    /// "none".
    Generation(u32)
);
number!(
    /// The index of a slot in its pool, 0 to count - 1. A successor has the slot of the worker that it replaces.
    Slot(u32)
);
number!(
    /// A signal number (signal(7)).
    Signal(i32)
);

impl Generation {
    /// No generation.
    pub const NONE: Self = Self(0);
}

impl Signal {
    /// SIGTERM.
    pub const TERM: Self = Self(15);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
}

/// One request that is waiting for its [`crate::Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ticket {
    /// Identifies the request; each is given out once.
    pub number: u64,
    /// The reply waits until the pool's workers that are leaving are gone.
    pub drained: bool,
}

impl Ticket {
    /// A ticket that is answered as soon as the outcome is known.
    pub const fn new(number: u64) -> Self {
        Self {
            number,
            drained: false,
        }
    }
}

impl core::fmt::Display for Ticket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.number.fmt(f)
    }
}
