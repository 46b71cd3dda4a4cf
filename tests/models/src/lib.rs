//! Models of the two riskiest protocols, of which every state is visited: the [`lease`] protocol, and the [`shard_end`] with the
//! creation of children.
//!
//! A model decides nothing by itself. What a write does to a row, what a holder makes of an answer, when a lease has expired,
//! what is taken, which lease a child gets and when: all of that is asked of the functions that the fleet runs on. The model
//! adds what lies between them: the order in which things happen, the answers that are lost, the writes that arrive late, the
//! processes that stop, and the time that goes by.

use std::time::{Duration, Instant};

use stateright::{Checker as _, Model};

pub mod lease;
pub mod shard_end;
mod witness;

pub use witness::Witnesses;

/// What an exploration has found.
#[derive(Debug, Clone, Copy)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// The length of the longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
}

/// Visits every state, and panics with the shortest way to one that breaks a property.
#[allow(clippy::disallowed_methods, reason = "it measures how long it takes, and decides nothing")]
pub fn explore<M>(model: M) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static,
{
    let started_at = Instant::now();
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done(), "not all states were visited");
    Explored {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed: started_at.elapsed(),
    }
}
