//! Ten thousand workers cost ten thousand times as much as one, not the square of it.

mod fleet;

use fleet::{Fleet, Phase, measure};
use rotad_core::Time;
use std::time::{Duration, Instant};

/// Start, roll, exit of every worker, roll, stop. Returns how long that took.
fn run(count: u32, surge: u32, max_draining: u32) -> Duration {
    let began = Instant::now();
    let mut fleet = Fleet::new(count, surge, max_draining);
    fleet.start();
    fleet.roll();
    fleet.pass(1000);
    for worker in fleet.workers() {
        fleet.exit(worker, 0);
    }
    fleet.roll();
    assert_eq!(fleet.last_good(), Some(3));
    fleet.stop();
    assert!(fleet.exited);
    assert!(fleet.engine.now() > Time(0));
    let steps = fleet.steps();
    assert!(steps < u64::from(count) * 30, "{steps} steps");
    began.elapsed()
}

#[test]
fn the_cost_grows_in_proportion_to_the_number_of_workers() {
    for (surge, max_draining) in [(2500, 10_000), (1, 1), (2500, 1), (0, 1), (10_000, 10_000)] {
        let took = run(10_000, surge, max_draining);
        assert!(
            took < Duration::from_secs(5),
            "surge {surge}, max_draining {max_draining}: {took:?}"
        );
    }
}

/// Best of some rounds, in nanoseconds for each input.
fn best(phase: Phase, count: u32, rounds: u32) -> f64 {
    let costs = (0..rounds).map(|_| measure(phase, count).each());
    costs.fold(f64::INFINITY, f64::min)
}

/// A cost that is linear in the number of workers makes a hundred times as much of it. The benchmark in `bench/engine`
/// holds it to three times; here the machine may be busy.
#[test]
fn an_input_costs_as_much_in_a_pool_of_ten_thousand_as_in_one_of_a_hundred() {
    const AT_MOST: f64 = 12.0;
    for phase in Phase::ALL {
        let small = best(phase, 100, 20);
        let mut large = best(phase, 10_000, 1);
        for _ in 0..4 {
            if large <= small * AT_MOST {
                break;
            }
            large = large.min(best(phase, 10_000, 1));
        }
        let name = phase.name();
        assert!(
            large <= small * AT_MOST,
            "{name}: an input takes {small:.0} ns in a pool of 100, and {large:.0} in one of 10 000"
        );
    }
}
