//! Who belongs to which worker: groups, sessions, orphans; and the sweep.
