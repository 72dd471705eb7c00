//! Shrinks a failing run while the same promise stays broken.

use crate::plan::{FAULTS, Plan};
use crate::run;

pub(crate) fn shrink(mut plan: Plan, oracle: &'static str) -> Plan {
    let fails = |plan: &Plan| run(plan).is_err_and(|violation| violation.oracle == oracle);
    loop {
        let mut smaller = false;
        let mut attempt = |plan: &mut Plan, with: &dyn Fn(&mut Plan)| {
            let mut next = plan.clone();
            with(&mut next);
            if fails(&next) {
                *plan = next;
                smaller = true;
            }
        };
        for i in (0..plan.acts.len()).rev() {
            attempt(&mut plan, &|plan| {
                plan.acts.remove(i);
            });
        }
        for i in (0..plan.deaths.len()).rev() {
            attempt(&mut plan, &|plan| {
                plan.deaths.remove(i);
            });
        }
        for fault in 0..FAULTS {
            if plan.rates[fault] > 0 {
                attempt(&mut plan, &|plan| plan.rates[fault] = 0);
            }
        }
        for pool in 0..plan.pools.len() {
            if plan.pools[pool].count > 1 {
                attempt(&mut plan, &|plan| plan.pools[pool].count -= 1);
            }
            if plan.pools[pool].stop.len() > 1 {
                attempt(&mut plan, &|plan| plan.pools[pool].stop.truncate(1));
            }
        }
        if !smaller {
            return plan;
        }
    }
}
