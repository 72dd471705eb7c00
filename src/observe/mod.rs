//! Eyes without hands: status, diary, manager.

pub mod print;
pub mod status;
pub mod table;
