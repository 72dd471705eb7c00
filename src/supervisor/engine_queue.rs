//! The engine, and the inputs that it has not been given yet.
//!
//! What reports, requests and timers lead to is queued here. `effects.rs` hands it over once the present event is
//! handled: the commands of one call of the engine are all executed before the next call. Below a guardian each input is
//! saved before that, with its time, and counted from 1: a master that is restored gives the engine the same again.

use rotad_core::{Engine, Input, Output, Request, Ticket, Time, View};
use std::collections::VecDeque;

pub(super) struct EngineQueue {
    engine: Engine,
    inputs: VecDeque<QueuedInput>,
    /// How many of the queued inputs have their time.
    timed: usize,
    /// How many inputs the engine was given.
    handled: u64,
    /// The time of the last input that has one: the engine's clock never goes backwards.
    last: Time,
}

struct QueuedInput {
    /// Set when it is saved, or handled.
    at: Time,
    input: Input,
}

impl EngineQueue {
    pub(super) fn new(engine: Engine) -> Self {
        Self::restored(engine, 0, Time(0))
    }

    /// An engine that was given so many inputs, the last one at this time.
    pub(super) fn restored(engine: Engine, handled: u64, last: Time) -> Self {
        Self {
            engine,
            inputs: VecDeque::new(),
            timed: 0,
            handled,
            last,
        }
    }

    pub(super) fn push(&mut self, input: Input) {
        let at = Time(0);
        self.inputs.push_back(QueuedInput { at, input });
    }

    /// Queues an input that a dead master has saved with its time.
    pub(super) fn push_at(&mut self, (at, input): (Time, Input)) {
        self.inputs.push_back(QueuedInput { at, input });
        self.timed = self.inputs.len();
    }

    /// Queues a request that nothing waits for.
    pub(super) fn request(&mut self, request: Request) {
        self.push(Input::Requested(None, request));
    }

    /// Queues a request whose outcome comes back by `Command::Reply`.
    pub(super) fn request_with(&mut self, ticket: Ticket, request: Request) {
        self.push(Input::Requested(Some(ticket), request));
    }

    /// Gives the inputs that were queued since the last call their time, and returns them.
    pub(super) fn take_time(&mut self, now: Time) -> impl Iterator<Item = (Time, &Input)> {
        self.last = self.last.max(now);
        let new = self.inputs.range_mut(self.timed..);
        self.timed += new.len();
        let last = self.last;
        new.map(move |queued| {
            queued.at = last;
            (queued.at, &queued.input)
        })
    }

    /// The next input, with the time that it counts for. Its number is [`EngineQueue::handled`] once the engine has it.
    pub(super) fn pop(&mut self, now: Time) -> Option<(Time, Input)> {
        if self.timed == 0 {
            self.take_time(now).for_each(drop);
        }
        let QueuedInput { at, input } = self.inputs.pop_front()?;
        self.timed -= 1;
        Some((at, input))
    }

    pub(super) fn handle(&mut self, at: Time, input: Input) -> Output {
        self.handled += 1;
        self.engine.handle(at, input)
    }

    /// How many inputs the engine was given.
    pub(super) fn handled(&self) -> u64 {
        self.handled
    }

    /// The engine, between two inputs, to be saved.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The inputs that the engine was not given yet and that have their time.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Time, &Input)> {
        let timed = self.inputs.range(..self.timed);
        timed.map(|queued| (queued.at, &queued.input))
    }

    pub(super) fn view(&self) -> View<'_> {
        self.engine.view()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.engine.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_gets_its_time_once_and_in_order() {
        let mut queue = EngineQueue::new(Engine::new());
        queue.push(Input::TimerFired);
        assert_eq!(queue.take_time(Time(5)).count(), 1);
        queue.push(Input::TimerFired);
        // A clock that was read before cannot turn the time back.
        let times: Vec<Time> = queue.take_time(Time(3)).map(|(at, _)| at).collect();
        assert_eq!(times, [Time(5)]);
        assert_eq!(queue.waiting().count(), 2);
        assert_eq!(queue.pop(Time(9)), Some((Time(5), Input::TimerFired)));
        assert_eq!(queue.pop(Time(9)), Some((Time(5), Input::TimerFired)));
        queue.push(Input::TimerFired);
        assert_eq!(queue.pop(Time(9)), Some((Time(9), Input::TimerFired)));
        assert_eq!(queue.pop(Time(9)), None);
    }
}
