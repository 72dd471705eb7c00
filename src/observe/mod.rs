//! Eyes without hands: status, diary, manager; and how they are shown to people.

pub mod clip;
pub mod diary;
pub mod events;
pub mod harmless;
pub mod manager;
pub mod print;
mod rates;
pub mod status;
pub mod table;
