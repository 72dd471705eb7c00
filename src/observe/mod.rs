//! Eyes without hands: status, diary, manager.

pub mod status;
