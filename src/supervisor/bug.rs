//! What cannot be, unless the master itself has a fault. A lookup that finds nothing because a worker, pool or client is
//! gone meanwhile returns without a word; everything else that must be there and is not goes through [`bug!`].

/// Reports a fault of the master: an error in the log, and in debug builds, which the tests use, a panic.
macro_rules! bug {
    ($($text:tt)*) => {{
        tracing::error!("fault of the master, please report it: {}", format_args!($($text)*));
        if cfg!(debug_assertions) {
            panic!($($text)*);
        }
    }};
}

pub(super) use bug;
