//! Eyes without hands: status, diary, manager.

pub mod diary;
pub mod manager;
pub mod status;
pub mod table;
