//! The simulator itself: the same bytes from the same seed, every scenario green, every check able to fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::process::Command;

use simulation::checks::Promise;
use simulation::page::page;
use simulation::plan::{Fault, FaultKind, Mood, Plan, Planted, Start, Weather};
use simulation::run::{Outcome, run};
use simulation::scenario::Scenario;
use simulation::shrink::shrink;
use simulation::timeline::timeline;

/// How many seeds of each scenario are tried here; `cargo xtask sim` tries thousands.
const SEEDS: u64 = 2;

/// Seeds that failed once, each for a defect that is mended.
const REGRESSIONS: [(Scenario, u64); 17] = [
    // Children that showed late were overtaken by their own children.
    (Scenario::ReshardStorm, 9),
    (Scenario::ReshardStorm, 30),
    // Nobody listed the shards again, since the leader was gone and the hole accepted.
    (Scenario::Everything, 13),
    (Scenario::MixedKcl, 7),
    // A hand-over without an answer was followed by a release of the new owner's lease.
    (Scenario::UnknownOutcomes, 197),
    // The stream kept a closed shard shorter than its parents; a paused worker read what its heir had done.
    (Scenario::ReshardStorm, 279),
    (Scenario::Pauses, 202),
    // A stale listing showed the child of a merge and not yet its parent.
    (Scenario::Scale, 2_000_708),
    // The KCL worker of the model opened the child of a merge before the other parent had a lease.
    (Scenario::MixedKcl, 3_002_029),
    // `LATEST`: a shard that closed between the start and the first row was not read.
    (Scenario::FirstStart, 20),
    (Scenario::FirstStart, 314),
    // `LATEST`: the children of a shard that had closed before the start were read as a whole.
    (Scenario::FirstStart, 28),
    // A line was started at a shard that had closed before the instant, and what came out of it on another side was read again.
    (Scenario::FirstStart, 664),
    // A worker put the row of a shard back that was read to its end; it could not end again.
    (Scenario::FirstStart, 884),
    // The write that created a row arrived after the shard had ended and its row was deleted.
    (Scenario::FirstStart, 2675),
    // Workers that start before there is a row have an instant each.
    (Scenario::FirstStart, 1078),
    // A take that arrived late was taken for the next one, which was refused without an answer.
    (Scenario::FanOut, 11_519),
];

#[track_caller]
fn assert_holds(scenario: Scenario, seed: u64) {
    let outcome = run(&Plan::of(scenario, seed));
    if let Some(violation) = outcome.violation {
        panic!("{scenario}, seed {seed}: {violation}");
    }
}

#[test]
fn the_promises_hold_in_every_scenario() {
    for scenario in Scenario::available() {
        for seed in 0..SEEDS {
            assert_holds(scenario, seed);
        }
    }
}

#[test]
fn what_failed_once_holds() {
    for (scenario, seed) in REGRESSIONS.into_iter().filter(|(scenario, _)| scenario.is_available()) {
        assert_holds(scenario, seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    for seed in ["10", "21"] {
        let trace = || {
            let program = env!("CARGO_BIN_EXE_simulation");
            let output =
                Command::new(program).args(["--trace", "--seed", seed, "--pages", directory]).output();
            let output = output.unwrap();
            assert!(output.status.success());
            output.stdout
        };
        let (first, second) = (trace(), trace());
        assert!(first.len() > 10_000, "{} bytes", first.len());
        assert!(first == second, "seed {seed}: two processes differ");
    }
}

/// A plan with some reshards and a restart, in which every planted defect can show itself.
fn eventful(seed: u64, planted: Planted) -> Plan {
    let mut plan = Plan::of(Scenario::Calm, seed);
    plan.workers = 3;
    plan.shards = 6;
    plan.record_interval = 300;
    plan.quiet_at = 140_000;
    plan.planted = Some(planted);
    let reshard =
        |at, shard, is_merge| Fault { at, kind: FaultKind::Reshard { shard, is_merge, hidden_for: 0 } };
    plan.faults = vec![
        reshard(20_000, 0, false),
        reshard(40_000, 1, true),
        Fault { at: 50_000, kind: FaultKind::Leave { worker: 0 } },
        reshard(60_000, 2, true),
        Fault { at: 70_000, kind: FaultKind::Join },
        Fault { at: 90_000, kind: FaultKind::Crash { worker: 1, back_after: 20_000, same_name: false } },
        // While one side of a merge is slow, the other one ends.
        Fault {
            at: 95_000,
            kind: FaultKind::Handler { worker: 0, for_millis: 30_000, mood: Mood::Slow(8_000) },
        },
        reshard(100_000, 3, false),
        reshard(110_000, 0, true),
        reshard(120_000, 1, true),
    ];
    if planted == Planted::ChildrenForgotten {
        // The other parent of a merge would wait, and nothing would go wrong but that.
        plan.faults.retain(|fault| !matches!(fault.kind, FaultKind::Reshard { is_merge: true, .. }));
    }
    if planted == Planted::OneLeaseOnly {
        // That worker must be there in the end.
        plan.faults.clear();
    }
    if planted == Planted::Unconditional {
        // Writes that arrive late find that the world has moved on.
        let weather = Weather { late: 300, ..Weather::default() };
        plan.faults.push(Fault { at: 45_000, kind: FaultKind::TableStorm { for_millis: 50_000, weather } });
        plan.faults.sort_by_key(|fault| fault.at);
    }
    plan
}

#[track_caller]
fn find(planted: Planted, promise: Promise) -> Outcome {
    let mut others = Vec::new();
    for seed in 0..4 {
        let outcome = run(&eventful(seed, planted));
        match &outcome.violation {
            Some(violation) if violation.promise == promise => return outcome,
            violation => others.push(violation.clone()),
        }
    }
    panic!("{planted:?} does not break the promise that {promise}, but {others:?}");
}

#[test]
fn an_eventful_plan_without_a_defect_is_green() {
    let mut plan = eventful(0, Planted::StreamSkips);
    plan.planted = None;
    assert_eq!(run(&plan).violation, None);
}

#[test]
fn every_check_can_fail() {
    for (planted, promise) in [
        (Planted::StreamSkips, Promise::NothingSkipped),
        (Planted::BackToFront, Promise::Order),
        (Planted::ParentsLookDone, Promise::ParentsFirst),
        (Planted::Unconditional, Promise::OneOwner),
        (Planted::RowsGoBack, Promise::Forward),
        (Planted::ChildrenForgotten, Promise::Tiling),
        (Planted::ChildrenLookDone, Promise::ChildrenBegin),
        (Planted::CheckpointsForgotten, Promise::Repeats),
        (Planted::OneLeaseOnly, Promise::Balance),
        (Planted::Restless, Promise::Rest),
        (Planted::Deaf, Promise::Ends),
        (Planted::TablePanics, Promise::NoPanic),
    ] {
        find(planted, promise);
    }
}

/// A start at the tip or at a time, in a stream that has been there for a while.
fn starting(seed: u64, start: Start, planted: Option<Planted>) -> Plan {
    let mut plan = Plan::of(Scenario::Calm, seed);
    plan.shards = 4;
    plan.record_interval = 100;
    plan.workers_from = 30_000;
    plan.quiet_at = 60_000;
    plan.start = start;
    plan.planted = planted;
    plan
}

#[test]
fn the_checks_of_starts_can_fail() {
    for (start, planted, promise) in [
        (Start::Latest, Planted::InstantsDiffer, Promise::NothingSkipped),
        (Start::Latest, Planted::TimesIgnored, Promise::StartsThere),
        (Start::AtTimestamp(20_000), Planted::TimesIgnored, Promise::StartsThere),
    ] {
        let broken = (0..4).filter_map(|seed| run(&starting(seed, start, Some(planted))).violation);
        let broken: Vec<Promise> = broken.map(|violation| violation.promise).collect();
        assert!(broken.contains(&promise), "{planted:?} breaks {broken:?}");
        for seed in 0..4 {
            assert_eq!(run(&starting(seed, start, None)).violation, None, "{start:?}, seed {seed}");
        }
    }
}

#[test]
fn a_failing_plan_shrinks_and_is_shown() {
    let outcome = find(Planted::CheckpointsForgotten, Promise::Repeats);
    let faults = outcome.plan.faults.len();
    let shrunk = shrink(outcome).outcome;
    assert!(
        shrunk.plan.faults.len() <= 2,
        "{} of {faults}: {:?}",
        shrunk.plan.faults.len(),
        shrunk.plan.faults
    );
    assert_eq!(shrunk.violation.as_ref().map(|violation| violation.promise), Some(Promise::Repeats));
    assert_eq!(run(&shrunk.plan).trace(), shrunk.trace(), "it replays");
    let text = timeline(&shrunk);
    for part in ["plan: scenario calm", "shard ", "checkpoint", "BROKEN"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let html = page(&shrunk);
    assert!(html.starts_with("<!doctype html>") && html.contains("<svg") && html.contains("<rect"));
    assert!(!html.contains("<script") && !html.contains("http://localhost"), "it needs nothing but itself");
}
