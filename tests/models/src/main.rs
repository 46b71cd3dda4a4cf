//! Visits the states of a model at sizes of your choice: `cargo run -p models -- lease --workers 3 --lost-answers 2`.

use clap::{Parser, Subcommand};
use models::explore;
use models::lease::LeaseModel;
use models::shard_end::ShardEndModel;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    model: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// The lease protocol.
    Lease(LeaseModel),
    /// The end of a shard.
    ShardEnd(ShardEndModel),
}

fn main() {
    let (model, explored) = match Arguments::parse().model {
        Which::Lease(model) => (format!("{model:?}"), explore(model)),
        Which::ShardEnd(model) => (format!("{model:?}"), explore(model)),
    };
    println!("{model}\n{explored:?}");
}
