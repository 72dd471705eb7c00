//! The names of things. Nothing here is ever reused: a late fact about the dead is harmless.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($kind:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $kind);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// One birth of one worker.
    WorkerId(u64)
);
number!(
    /// A pool, in the order of the plan.
    PoolId(u32)
);
number!(
    /// What a worker is made from. 1 is the first of a pool; 0 means "none".
    Generation(u32)
);
number!(
    /// A place in a pool, 0 to count - 1; a successor has the slot of the worker that it replaces.
    Slot(u32)
);
number!(
    /// One asker who waits for the outcome of a wish.
    Ticket(u64)
);
number!(
    /// A signal by its number (signal(7)).
    Signal(i32)
);

impl Generation {
    pub const NONE: Self = Self(0);
}

impl Signal {
    pub const TERM: Self = Self(15);
    pub const KILL: Self = Self(9);
}
