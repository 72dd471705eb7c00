//! How threads report to the loop that owns them: one channel for all, and one waker.
//!
//! A thread gets a [`Mailbox`] for messages of its own kind, which wraps them into the kind of its owner
//! ([`Mailbox::of`]). Messages arrive in the order in which they were sent, also those of different threads.
//!
//! The channel has no bound: what is in it was requested by the owner, who bounds that.

use super::waker::Waker;
use crossbeam_channel::{Receiver, unbounded};
use std::fmt;
use std::sync::Arc;

/// Sends messages to a loop, and wakes it. Its clones send to the same.
pub struct Mailbox<T>(Arc<dyn Fn(T) + Send + Sync>);

/// A mailbox, and where its messages come out. `waker` is woken after each message.
pub fn channel<T: Send + 'static>(waker: Waker) -> (Mailbox<T>, Receiver<T>) {
    let (sender, receiver) = unbounded();
    let send = move |message| {
        // Fails only if the owner is gone.
        sender.send(message).ok();
        waker.wake();
    };
    (Mailbox(Arc::new(send)), receiver)
}

impl<T: 'static> Mailbox<T> {
    /// Sends a message. Never blocks.
    pub fn send(&self, message: T) {
        (self.0)(message);
    }

    /// The same mailbox for a thread's own messages.
    pub fn of<U: 'static>(&self, wrap: fn(U) -> T) -> Mailbox<U> {
        let send = self.0.clone();
        Mailbox(Arc::new(move |message| send(wrap(message))))
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::is_ready;
    use nix::poll::PollFlags;

    #[test]
    fn messages_of_all_kinds_keep_their_order_and_wake_the_owner() {
        let waker = Waker::new().unwrap();
        let (mailbox, received) = channel::<String>(waker.clone());
        let numbers: Mailbox<u32> = mailbox.of(|number| number.to_string());
        assert!(!is_ready(&waker, PollFlags::POLLIN));
        numbers.send(1);
        mailbox.send("two".to_owned());
        numbers.clone().send(3);
        assert!(is_ready(&waker, PollFlags::POLLIN));
        assert_eq!(received.try_iter().collect::<Vec<_>>(), ["1", "two", "3"]);
        drop((mailbox, numbers));
        assert!(received.recv().is_err(), "all senders are gone");
    }
}
