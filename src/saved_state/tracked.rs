//! A value that knows whether it may have changed since it was saved.

use std::ops::{Deref, DerefMut};

/// A value, and whether it was borrowed to be changed since [`Tracked::take_change`].
#[derive(Debug, Default)]
pub struct Tracked<T> {
    value: T,
    changed: bool,
    /// How often it was borrowed to be changed.
    version: u64,
}

impl<T> Tracked<T> {
    /// A value that is not saved yet.
    pub fn new(value: T) -> Self {
        Self {
            value,
            changed: true,
            version: 0,
        }
    }

    /// Whether it may have changed since the last call.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A number that changes whenever the value may have changed.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<T> Deref for Tracked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Tracked<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.changed = true;
        self.version = self.version.wrapping_add(1);
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_borrowed_to_be_changed_counts_as_changed_once() {
        let mut value = Tracked::new(vec![1]);
        assert!(value.take_change(), "it was never saved");
        assert_eq!(value.len(), 1);
        assert!(!value.take_change(), "reading changes nothing");
        let version = value.version();
        value.push(2);
        assert_ne!(value.version(), version);
        assert!(value.take_change());
        assert!(!value.take_change());
    }
}
