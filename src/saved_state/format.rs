//! The version of the records' format (`supervisor/saver.rs`). Versions of rotad that replace each other read each other's state.

/// The version of the format. It changes when a master that does not know of a change would act wrongly: fields and records
/// that an older version may ignore do not count.
pub const FORMAT: u32 = 2;
/// The oldest version of the format whose masters can go on with what this version saves.
pub const READABLE_BY: u32 = 2;
