//! A worker with knobs.
fn main() {}
