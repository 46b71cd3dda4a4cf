//! Visits the states of a model at chosen sizes: `cargo run -p models -- lease --workers 3 --lost-answers 2`.

use std::fmt::Debug;
use std::hash::Hash;

use clap::{Parser, Subcommand};
use models::lease::LeaseModel;
use models::shard_end::ShardEndModel;
use models::{Explored, explore_and_report};
use stateright::Model;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    model: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// The lease protocol
    Lease(LeaseModel),
    /// The end of a shard
    ShardEnd(ShardEndModel),
}

fn main() {
    let (model, explored) = match Arguments::parse().model {
        Which::Lease(model) => (format!("{model:?}"), visit(model)),
        Which::ShardEnd(model) => (format!("{model:?}"), visit(model)),
    };
    println!("{model}\n{explored:?}");
}

/// Visits every state of a model, with its progress on standard error.
fn visit<M>(model: M) -> Explored
where
    M: Model + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    eprintln!("visiting every state of {model:?}");
    explore_and_report(model, |Explored { states, depth, elapsed }| {
        eprintln!("[{} s] {states} states so far, at most {depth} steps from the start", elapsed.as_secs());
    })
}
