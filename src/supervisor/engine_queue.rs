//! The engine, and the inputs that it has not been given yet.
//!
//! An input that comes while another one is being handled is queued: the commands of one call of the engine are all
//! executed before the next call. `effects.rs` drains the queue.

use rotad_core::{Engine, Input, Output, Time, View};
use std::collections::VecDeque;

pub(super) struct EngineQueue {
    engine: Engine,
    inputs: VecDeque<Input>,
    /// The queue is being drained.
    pub draining: bool,
    /// The time of the last call: the engine's clock never goes backwards.
    last_call: Time,
}

impl EngineQueue {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            inputs: VecDeque::new(),
            draining: false,
            last_call: Time(0),
        }
    }

    pub(super) fn push(&mut self, input: Input) {
        self.inputs.push_back(input);
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
