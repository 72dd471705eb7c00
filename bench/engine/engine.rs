//! What one input costs the engine in pools of 100, 1 000 and 10 000 workers, for each phase of their lives.
//!
//! `cargo bench -p rotad-bench-engine` prints Criterion's figures and then a table: nanoseconds for each input in the
//! best sample, since what else the machine does is no work of the engine; and how many times as much it is in the
//! largest pool as in the smallest. More than [`AT_MOST`] fails. What is measured includes
//! all cache misses: the state of ten thousand workers does not fit where that of a hundred does.
#![expect(clippy::print_stdout, reason = "the table is the result")]

#[path = "../../src/core/tests/fleet/mod.rs"]
mod fleet;

use criterion::{BenchmarkId, Criterion, SamplingMode};
use fleet::{Phase, measure};
use std::process::ExitCode;
use std::time::Duration;

const COUNTS: [u32; 3] = [100, 1000, 10_000];
const AT_MOST: f64 = 3.0;

fn main() -> ExitCode {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut table = Vec::new();
    for phase in Phase::ALL {
        let mut group = criterion.benchmark_group(phase.name());
        group.sampling_mode(SamplingMode::Flat);
        let mut row = Vec::new();
        for count in COUNTS {
            let mut samples = Vec::new();
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter_custom(|inputs| {
                    let each = time_of_an_input(phase, count, inputs);
                    samples.push(each);
                    Duration::from_nanos((each * inputs as f64) as u64)
                });
            });
            row.push(samples.into_iter().min_by(f64::total_cmp));
        }
        group.finish();
        table.push((phase, row));
    }
    report(&table)
}

/// Nanoseconds, over as many whole phases as so many inputs need.
fn time_of_an_input(phase: Phase, count: u32, inputs: u64) -> f64 {
    let (mut took, mut done) = (0.0, 0);
    while done == 0 || done < inputs {
        let cost = measure(phase, count);
        took += cost.each() * cost.inputs as f64;
        done += cost.inputs;
    }
    took / done as f64
}

/// None: it was not measured, since the command line names other phases.
fn report(table: &[(Phase, Vec<Option<f64>>)]) -> ExitCode {
    println!(
        "{:<20}{:>8}{:>8}{:>8}",
        "ns for an input", 100, 1000, 10_000
    );
    let mut result = ExitCode::SUCCESS;
    for (phase, row) in table {
        let Some(row) = row.iter().copied().collect::<Option<Vec<f64>>>() else {
            continue;
        };
        let times = row[row.len() - 1] / row[0];
        let each: String = row.iter().map(|each| format!("{each:>8.0}")).collect();
        let verdict = if times <= AT_MOST { "" } else { "  too much" };
        println!("{:<20}{each}{times:>7.1} x{verdict}", phase.name());
        if times > AT_MOST {
            result = ExitCode::FAILURE;
        }
    }
    result
}
