//! Searches the smallest plan that breaks the same promise: first removes faults, then simplifies the rest.

use crate::checks::Promise;
use crate::plan::Plan;
use crate::run::{Outcome, run};

/// Most plans to try.
pub const MAX_RUNS: usize = 400;

/// The result of shrinking.
#[derive(Debug)]
pub struct Shrunk {
    /// The outcome of the smallest plan.
    pub outcome: Outcome,
    /// Number of plans tried.
    pub runs: usize,
}

/// Shrinks the plan of an outcome while the same promise breaks. Calls `on_run` before each run.
pub fn shrink(outcome: Outcome, on_run: impl FnMut(usize)) -> Shrunk {
    let Some(violation) = &outcome.violation else { return Shrunk { outcome, runs: 0 } };
    let mut search = Search { promise: violation.promise, best: outcome, runs: 0, on_run };
    search.remove_faults();
    search.simplify();
    search.remove_faults();
    Shrunk { outcome: search.best, runs: search.runs }
}

struct Search<F> {
    promise: Promise,
    best: Outcome,
    runs: usize,
    on_run: F,
}

impl<F: FnMut(usize)> Search<F> {
    /// Keeps a plan if it breaks the same promise.
    fn keeps(&mut self, plan: &Plan) -> bool {
        if self.runs >= MAX_RUNS || *plan == self.best.plan {
            return false;
        }
        self.runs += 1;
        (self.on_run)(self.runs);
        let outcome = run(plan);
        let is_same = outcome.violation.as_ref().is_some_and(|violation| violation.promise == self.promise);
        if is_same {
            self.best = outcome;
        }
        is_same
    }

    /// Removes halves, quarters, and so on down to single faults.
    fn remove_faults(&mut self) {
        let mut size = self.best.plan.faults.len();
        while size > 0 {
            let mut start = 0;
            while start < self.best.plan.faults.len() {
                let mut plan = self.best.plan.clone();
                let end = (start + size).min(plan.faults.len());
                plan.faults.drain(start..end);
                if !self.keeps(&plan) {
                    start = end;
                }
            }
            size /= 2;
        }
    }

    /// Tries a smaller fleet, fewer shards, plain records, equal clocks and an earlier end.
    fn simplify(&mut self) {
        let steps: [fn(&mut Plan); 7] = [
            |plan| plan.workers = (plan.workers - 1).max(1),
            |plan| plan.shards = (plan.shards - 1).max(1),
            |plan| plan.kcl_workers = plan.kcl_workers.saturating_sub(1),
            |plan| plan.aggregates = 0,
            |plan| plan.clock_spread = 0,
            |plan| plan.record_interval = (plan.record_interval * 2).min(20_000),
            |plan| {
                let last = plan.faults.last().map_or(0, |fault| fault.at);
                plan.quiet_from = plan.quiet_from.min(last + 10_000);
            },
        ];
        for step in steps {
            loop {
                let mut plan = self.best.plan.clone();
                step(&mut plan);
                if !self.keeps(&plan) {
                    break;
                }
            }
        }
    }
}
