//! Signals that a master had got, and had not recorded when it was killed: the next one acts on them.
//!
//! The guardian counts what it passes on, and the handlers of a master count what arrives, in memory that outlives it.
//! What a signal asks for is saved together with the counts that it makes up for ([`Supervisor::on_signals`]). So the next
//! master sees by the counts that one is missing, and never repeats one that was recorded.

use super::Supervisor;
use super::deploys::Asker;
use crate::event_loop::signals::{Meaning, ReceivedSignal};
use nix::libc;
use serde::{Deserialize, Serialize};

/// The signals that ask for something.
const COUNTED: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGPWR,
    libc::SIGXCPU,
];
/// A second INT kills; more of a kind ask for nothing else.
const MOST: u64 = 2;

/// How often the signals are read again in one turn because others have come meanwhile.
const MOST_BATCHES: u32 = 16;
const COUNT: usize = COUNTED.len() + 1;

fn counted() -> [i32; COUNT] {
    std::array::from_fn(|index| match COUNTED.get(index) {
        Some(signal) => *signal,
        None => libc::SIGRTMIN(),
    })
}

/// Of each of these signals: how many were passed on and have arrived, when the last of them was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TakenSignals([(u64, u64); COUNT]);

impl TakenSignals {
    /// The signals that were counted since then, each at most twice.
    fn missing(&self, now: &Self) -> Vec<i32> {
        let pairs = self.0.iter().zip(&now.0).zip(counted());
        let missing = |(before, now): (&(u64, u64), &(u64, u64))| {
            // One that was passed on counts once more when it arrives.
            let passed = now.0.saturating_sub(before.0);
            passed.max(now.1.saturating_sub(before.1)).min(MOST) as usize
        };
        pairs
            .flat_map(|(counts, signal)| std::iter::repeat_n(signal, missing(counts)))
            .collect()
    }

    /// This signal is taken: its counts are those of `now`.
    fn take(&mut self, signal: i32, now: &Self) {
        if let Some(index) = counted().iter().position(|counted| *counted == signal) {
            self.0[index] = now.0[index];
        }
    }
}

impl Supervisor {
    /// The handlers of this master count from now on. `taken`: what the master before it had taken. For the first master
    /// nothing is missing.
    pub(super) fn restore_signals(&mut self, taken: Option<TakenSignals>) {
        let Some(now) = self.signals_so_far() else {
            return;
        };
        *self.taken_signals = taken.unwrap_or(now);
        let Some(saver) = &self.saver else {
            return;
        };
        let counting = saver.state().arrivals().and_then(|arrivals| {
            let mut signals = counted().into_iter();
            signals.try_for_each(|signal| crate::sys::signal::count(signal, arrivals.of(signal)))
        });
        if let Err(error) = counting {
            tracing::warn!(
                "a signal that comes just before this master is killed may be lost: {error}"
            );
        }
    }

    /// Acts on the signals that dead masters had got and not recorded.
    pub(super) fn take_missed_signals(&mut self) {
        // Those that have come to this master are not missing.
        let received = self.event_loop.signals.pending();
        let Some(now) = self.signals_so_far() else {
            return;
        };
        self.act_on_signals(received, Some(&now));
        let missing = self.taken_signals.missing(&now).into_iter();
        let missing: Vec<_> = missing
            .map(|signal| self.event_loop.signals.repeated(signal))
            .collect();
        self.act_on_signals(missing, Some(&now));
    }

    /// The counts at this moment: to be read before the signals are.
    pub(super) fn signals_so_far(&self) -> Option<TakenSignals> {
        let state = self.saver.as_ref()?.state();
        Some(TakenSignals(counted().map(|signal| state.signals(signal))))
    }

    /// A signal is being acted on: what it asks for is saved together with that.
    pub(super) fn take_signal(&mut self, signal: i32, now: &TakenSignals) {
        let mut taken = self.taken_signals.clone();
        taken.take(signal, now);
        self.set_taken(taken);
    }

    /// Saved when it differs.
    pub(super) fn set_taken(&mut self, taken: TakenSignals) {
        if taken != *self.taken_signals {
            *self.taken_signals = taken;
        }
    }

    /// Acts on the signals that have come.
    pub(super) fn on_signals(&mut self) {
        for _ in 0..MOST_BATCHES {
            let so_far = self.signals_so_far();
            let received = self.event_loop.signals.pending();
            self.act_on_signals(received, so_far.as_ref());
            if so_far == self.signals_so_far() {
                if let Some(so_far) = so_far {
                    self.set_taken(so_far);
                    self.save();
                }
                break;
            }
            // One has arrived meanwhile, which may have been acted on: its count has not been taken.
        }
        if self.event_loop.signals.has_more() {
            self.event_loop.waker.wake();
        }
    }

    /// `so_far`: the counts that these signals make up for.
    fn act_on_signals(&mut self, received: Vec<ReceivedSignal>, so_far: Option<&TakenSignals>) {
        for ReceivedSignal {
            number,
            meaning,
            text,
            uid,
        } in received
        {
            if let Some(so_far) = so_far {
                self.take_signal(number, so_far);
            }
            match meaning {
                Meaning::Nothing => {}
                Meaning::Stray => self.emit_signal(format!("{text}: has no meaning here, ignored")),
                Meaning::Stop | Meaning::Interrupt if !self.shutdown.stopping => {
                    self.emit_signal(format!("{text}: stopping"));
                    self.stop(false);
                }
                Meaning::Stop => self.emit_signal(format!("{text}: already stopping")),
                Meaning::Interrupt if self.shutdown.interrupted => {
                    self.emit_signal(format!("{text}: killing what is left"));
                    self.stop(true);
                }
                Meaning::Interrupt => {
                    self.emit_signal(format!(
                        "{text}: already stopping; once more kills what is left"
                    ));
                }
                Meaning::Act(action) => self.act(action, &text, Asker::signal(number, uid)),
            }
            if meaning == Meaning::Interrupt {
                self.shutdown.interrupted = true;
            }
            self.save();
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_missing_until_it_is_taken() {
        let mut taken = TakenSignals::default();
        let mut now = TakenSignals::default();
        let at = |signal| counted().iter().position(|counted| *counted == signal);
        let (usr1, int) = (at(libc::SIGUSR1).unwrap(), at(libc::SIGINT).unwrap());
        // Passed on and arrived; arrived alone; passed on and lost on the way.
        now.0[usr1] = (1, 1);
        now.0[int] = (0, 7);
        now.0[COUNT - 1] = (1, 0);
        let rtmin = libc::SIGRTMIN();
        let all = [libc::SIGINT, libc::SIGINT, libc::SIGUSR1, rtmin];
        assert_eq!(taken.missing(&now), all);
        taken.take(libc::SIGUSR1, &now);
        taken.take(libc::SIGCONT, &now);
        assert_eq!(taken.missing(&now), [libc::SIGINT, libc::SIGINT, rtmin]);
        assert!(now.missing(&now).is_empty());
    }
}
