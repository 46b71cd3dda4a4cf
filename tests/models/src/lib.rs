//! Models of the two most delicate protocols, with every state visited: the [`lease`] protocol, and the [`shard_end`]
//! with the creation of children.
//!
//! A model makes no decision of its own. It calls the functions that the fleet runs on: the effect of a write, the
//! meaning of an answer, the expiry of a lease, the plan of takes, the leases of children. The model adds the order
//! of steps, lost answers, delayed writes, crashes and time.

use std::time::{Duration, Instant};

use stateright::{Checker, Model};

mod internals;
pub mod lease;
pub mod shard_end;
mod witness;

pub use witness::Witnesses;

/// Interval between two reports of an exploration.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The result of an exploration.
#[derive(Debug, Clone, Copy)]
pub struct Explored {
    /// Number of distinct states.
    pub states: usize,
    /// Length of the longest of the shortest paths to a state.
    pub depth: usize,
    /// Elapsed time.
    pub elapsed: Duration,
}

/// Visits every state, and panics with the shortest path to one that breaks a property.
pub fn explore<M>(model: M) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static,
{
    let started_at = now();
    finish(model.checker().spawn_bfs(), started_at)
}

/// Like [`explore`], and reports the states visited so far about once a second.
#[allow(clippy::disallowed_methods, reason = "it waits for threads of the explorer, outside any runtime")]
pub fn explore_and_report<M>(model: M, report: impl Fn(Explored)) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static,
{
    let started_at = now();
    let checker = model.checker().spawn_bfs();
    while !checker.is_done() {
        report(found(&checker, started_at));
        std::thread::sleep(REPORT_INTERVAL);
    }
    finish(checker, started_at)
}

#[allow(clippy::disallowed_methods, reason = "the elapsed time is only displayed")]
fn now() -> Instant {
    Instant::now()
}

fn found<M: Model>(checker: &impl Checker<M>, started_at: Instant) -> Explored {
    Explored {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed: started_at.elapsed(),
    }
}

fn finish<M>(checker: impl Checker<M>, started_at: Instant) -> Explored
where
    M: Model,
    M::State: Clone + std::fmt::Debug + PartialEq,
    M::Action: Clone + std::fmt::Debug + PartialEq,
{
    let checker = checker.join();
    checker.assert_properties();
    assert!(checker.is_done(), "not all states were visited");
    found(&checker, started_at)
}
