//! The tables in `docs/balancing.md`: rounds and moves until a fleet is balanced.

use crate::balancing::fleet::Fleet;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/balancing.md");
const BEGIN: &str = "<!-- table: begin -->";
const END: &str = "<!-- table: end -->";

const SHARDS: [usize; 5] = [4, 16, 100, 1_000, 4_000];
const WORKERS: [usize; 4] = [2, 5, 20, 200];
const SEED: u64 = 1;

/// A fleet that takes more rounds fails the test.
const MOST_ROUNDS: usize = 1_000;

/// How many workers of a balanced fleet have to plan nothing.
const EMPTY_PLANS: usize = 20;

/// A change in a fleet of a given size.
struct Scenario {
    title: &'static str,
    /// The fewest workers for which the scenario is possible.
    at_least: usize,
    start: fn(shards: usize, workers: usize) -> Fleet,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        title: "All start at once, nothing is owned",
        at_least: 1,
        start: |shards, workers| Fleet::new(shards, workers, SEED),
    },
    Scenario {
        title: "One more worker joins",
        at_least: 1,
        start: |shards, workers| joined(shards, workers, 1),
    },
    Scenario {
        title: "As many again join at once",
        at_least: 1,
        start: |shards, workers| joined(shards, workers, workers),
    },
    Scenario {
        title: "One worker stops and offers its leases",
        at_least: 2,
        start: |shards, workers| {
            let mut fleet = Fleet::balanced(shards, workers, SEED);
            fleet.leave(0);
            fleet
        },
    },
    Scenario {
        title: "One worker crashes",
        at_least: 2,
        start: |shards, workers| crashed(shards, workers, 1),
    },
    Scenario {
        title: "A third of the workers crash",
        at_least: 3,
        start: |shards, workers| crashed(shards, workers, workers / 3),
    },
];

fn joined(shards: usize, workers: usize, joining: usize) -> Fleet {
    let mut fleet = Fleet::balanced(shards, workers, SEED);
    fleet.join(joining);
    fleet
}

fn crashed(shards: usize, workers: usize, crashing: usize) -> Fleet {
    let mut fleet = Fleet::balanced(shards, workers, SEED);
    for worker in 0..crashing {
        fleet.crash(worker);
    }
    fleet
}

/// The result of a scenario.
struct Outcome {
    rounds: usize,
    failover_times: f64,
    moves: usize,
    least_moves: usize,
    takes: usize,
}

fn play(scenario: &Scenario, shards: usize, workers: usize) -> Outcome {
    let name = format!("{}: {shards} shards, {workers} workers", scenario.title);
    let mut fleet = (scenario.start)(shards, workers);
    let least_moves = fleet.least_moves();
    let empty_handed = fleet.loads().into_iter().filter(|load| *load == 0).count();
    let (mut rounds, mut failover_times) = (0, 0.0);
    while !fleet.is_balanced() {
        assert!(rounds < MOST_ROUNDS, "{name}: not balanced after {rounds} rounds");
        failover_times = fleet.failover_times();
        fleet.round_at_once();
        rounds += 1;
    }
    assert!(fleet.plans_nothing(EMPTY_PLANS), "{name}: a lease still moves");
    let moves = fleet.moves;
    // The others do not know of a worker without leases, so its first lease may come from the wrong owner.
    assert!((least_moves..=least_moves + empty_handed).contains(&moves), "{name}: {moves} moves");
    Outcome { rounds, failover_times, moves, least_moves, takes: fleet.takes }
}

/// The sizes for which a scenario is played. More workers than twice the shards would only be standbys.
fn sizes(scenario: &Scenario) -> impl Iterator<Item = (usize, usize)> {
    let sizes = SHARDS.into_iter().flat_map(|shards| WORKERS.map(|workers| (shards, workers)));
    sizes.filter(|(shards, workers)| (scenario.at_least..=2 * shards).contains(workers))
}

fn section(scenario: &Scenario) -> String {
    let rows: Vec<String> = std::thread::scope(|scope| {
        let row = |shards, workers| {
            let Outcome { rounds, failover_times, moves, least_moves, takes } =
                play(scenario, shards, workers);
            format!(
                "| {shards} | {workers} | {rounds} | {failover_times:.1} | {moves} | {least_moves} | {takes} |\n"
            )
        };
        let threads: Vec<_> =
            sizes(scenario).map(|(shards, workers)| scope.spawn(move || row(shards, workers))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    format!(
        "### {}\n\n\
         | shards | workers | rounds | fail-over times | moves | least possible | free leases taken |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n{}",
        scenario.title,
        rows.concat()
    )
}

#[test]
fn the_tables_in_the_documentation_match_the_planner() {
    let sections: Vec<String> = std::thread::scope(|scope| {
        let threads = SCENARIOS.each_ref().map(|scenario| scope.spawn(|| section(scenario)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let table = format!("{BEGIN}\n\n{}\n{END}", sections.join("\n"));
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, format!("{before}{table}{after}")).unwrap();
        return;
    }
    assert!(
        format!("{BEGIN}{shown}{END}") == table,
        "docs/balancing.md differs from the planner; update it and check the difference with \
         UPDATE_DOCS=1 cargo test -p kinesis-receiver --features internals --test it the_tables"
    );
}
