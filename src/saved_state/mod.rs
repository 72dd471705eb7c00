//! The state of the master in the memory that outlives it: what is written ([`store::Store`]), and how a part is known
//! to have changed ([`tracked::Tracked`]). The supervisor writes it before each act that cannot be undone, and the next
//! master reads it.

pub mod format;
pub mod os_text;
pub mod pairs;
pub mod store;
pub mod tracked;

/// For serde: what has its first value is left out of records that there are many of.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
