//! The table in `docs/balancing.md`: rounds and moves until a fleet is balanced.

use std::fmt::Write as _;
use std::path::Path;

use crate::fleet::{Fleet, LIMITS};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/balancing.md");
const BEGIN: &str = "<!-- table: begin -->";
const END: &str = "<!-- table: end -->";

const SHARDS: [usize; 5] = [4, 16, 100, 1_000, 4_000];
const WORKERS: [usize; 4] = [2, 5, 20, 200];
const SEED: u64 = 20_250_101;

/// Something that happens to a fleet of so many workers.
struct Scenario {
    title: &'static str,
    /// How many workers have to be there for it.
    at_least: usize,
    start: fn(shards: usize, workers: usize) -> Fleet,
    /// How many workers come anew.
    joining: fn(workers: usize) -> usize,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        title: "All start at once, nothing is owned",
        at_least: 1,
        start: |shards, workers| Fleet::new(shards, workers, SEED),
        joining: |workers| workers,
    },
    Scenario {
        title: "One more worker joins",
        at_least: 1,
        start: |shards, workers| joined(shards, workers, 1),
        joining: |_| 1,
    },
    Scenario {
        title: "As many again join at once",
        at_least: 1,
        start: |shards, workers| joined(shards, workers, workers),
        joining: |workers| workers,
    },
    Scenario {
        title: "One worker stops and offers its leases",
        at_least: 2,
        start: |shards, workers| {
            let mut fleet = Fleet::balanced(shards, workers, SEED);
            fleet.leave(0);
            fleet
        },
        joining: |_| 0,
    },
    Scenario {
        title: "One worker crashes",
        at_least: 2,
        start: |shards, workers| crashed(shards, workers, 1),
        joining: |_| 0,
    },
    Scenario {
        title: "A third of the workers crash",
        at_least: 3,
        start: |shards, workers| crashed(shards, workers, workers / 3),
        joining: |_| 0,
    },
];

fn joined(shards: usize, workers: usize, joining: usize) -> Fleet {
    let mut fleet = Fleet::balanced(shards, workers, SEED);
    fleet.join(joining);
    fleet
}

fn crashed(shards: usize, workers: usize, crashing: usize) -> Fleet {
    let mut fleet = Fleet::balanced(shards, workers, SEED);
    for member in 0..crashing {
        fleet.crash(member);
    }
    fleet
}

/// What a scenario came to.
struct Outcome {
    rounds: usize,
    moves: usize,
    least_moves: usize,
    takes: usize,
}

fn play(scenario: &Scenario, shards: usize, workers: usize) -> Outcome {
    let started = std::time::Instant::now();
    let name = format!("{}, {shards} shards, {workers} workers", scenario.title);
    let mut fleet = (scenario.start)(shards, workers);
    let least_moves = fleet.least_moves();
    let mut rounds = 0;
    while !fleet.is_balanced() {
        assert!(rounds < 1000, "{name}: no balance: {:?}", fleet.loads());
        fleet.round_at_once();
        rounds += 1;
    }
    eprintln!("{name}: {rounds} {} {least_moves} {} {:?}", fleet.moves, fleet.takes, started.elapsed());
    Outcome { rounds, moves: fleet.moves, least_moves, takes: fleet.takes }
}

#[test]
fn the_table_in_the_documentation_is_what_the_planner_does() {
    for scenario in &SCENARIOS {
        for shards in SHARDS {
            for workers in WORKERS {
                if workers <= 2 * shards && workers >= scenario.at_least {
                    play(scenario, shards, workers);
                }
            }
        }
    }
}
