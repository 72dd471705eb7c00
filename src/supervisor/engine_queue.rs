//! The engine, and the inputs that it has not been given yet.
//!
//! What reports, requests and timers lead to is queued here. `effects.rs` hands it over once the present event is
//! handled: the commands of one call of the engine are all executed before the next call.

use rotad_core::{Engine, Input, Output, Request, Ticket, Time, View};
use std::collections::VecDeque;

pub(super) struct EngineQueue {
    engine: Engine,
    inputs: VecDeque<Input>,
    /// The time of the last call: the engine's clock never goes backwards.
    last_call: Time,
}

impl EngineQueue {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            inputs: VecDeque::new(),
            last_call: Time(0),
        }
    }

    pub(super) fn push(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Queues a request that nothing waits for.
    pub(super) fn request(&mut self, request: Request) {
        self.push(Input::Requested(None, request));
    }

    /// Queues a request whose outcome comes back by `Command::Reply`.
    pub(super) fn request_with(&mut self, ticket: Ticket, request: Request) {
        self.push(Input::Requested(Some(ticket), request));
    }

    pub(super) fn pop(&mut self) -> Option<Input> {
        self.inputs.pop_front()
    }

    pub(super) fn handle(&mut self, now: Time, input: Input) -> Output {
        self.last_call = now.max(self.last_call);
        self.engine.handle(self.last_call, input)
    }

    pub(super) fn view(&self) -> View<'_> {
        self.engine.view()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.engine.deadline()
    }
}
