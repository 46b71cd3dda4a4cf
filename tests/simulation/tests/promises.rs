//! Tests of the simulator itself: it is deterministic, every scenario holds, and every check can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::process::{Command, Stdio};

use simulation::checks::Promise;
use simulation::page::page;
use simulation::plan::{Defect, Fault, FaultKind, FaultRates, HandlerFault, Plan, Start};
use simulation::run::{Outcome, run};
use simulation::scenario::Scenario;
use simulation::shrink::shrink;
use simulation::timeline::timeline;

/// Number of seeds of each scenario tried in a quick run; `cargo xtask sim` tries thousands.
const QUICK_SEEDS: u64 = 1;

/// Scenarios that take the most computation: only the long tests run them. What they are about has smaller tests that always run.
const LARGE_SCENARIOS: [Scenario; 6] = [
    Scenario::SlowStart,
    Scenario::FirstStart,
    Scenario::Clones,
    Scenario::LateAcknowledgement,
    Scenario::RecreatedStream,
    Scenario::Scale,
];

/// Seeds that failed once, each because of a defect that is fixed now.
const REGRESSIONS: [(Scenario, u64); 36] = [
    // Grandchildren were visible before children that a listing showed late.
    (Scenario::ReshardStorm, 9),
    (Scenario::ReshardStorm, 30),
    // No worker listed the shards again after the leader was gone and the hole was accepted.
    (Scenario::Everything, 13),
    (Scenario::MixedKcl, 7),
    // A hand-over without an answer was followed by a release of the new owner's lease.
    (Scenario::UnknownOutcomes, 197),
    // Retention removed a closed shard before its parents; a paused worker repeated its successor's work.
    (Scenario::ReshardStorm, 279),
    (Scenario::Pauses, 202),
    // A stale listing showed the child of a merge and not yet its parent.
    (Scenario::Scale, 2_000_708),
    // The modelled KCL worker opened the child of a merge before the other parent had a lease.
    (Scenario::MixedKcl, 3_002_029),
    // `LATEST`: a shard that closed between the start and the first row was not read.
    (Scenario::FirstStart, 20),
    (Scenario::FirstStart, 314),
    // `LATEST`: the children of a shard that had closed before the start were read from their beginning.
    (Scenario::FirstStart, 28),
    // Reading started at a shard closed before the start time, and its descendants by another parent were read twice.
    (Scenario::FirstStart, 664),
    // A worker recreated the row of a finished shard, which could not finish again.
    (Scenario::FirstStart, 884),
    // The write that created a row was applied after the shard had ended and its row was deleted.
    (Scenario::FirstStart, 2675),
    // Workers that start before the first row each have their own start time.
    (Scenario::FirstStart, 1078),
    // A late take was mistaken for the next one, which was refused without an answer.
    (Scenario::FanOut, 11_519),
    // A worker took a row that was created again at its beginning although it knew the position.
    (Scenario::VanishingRows, 294),
    // A new worker took such a row before a worker that knew its position saw it.
    (Scenario::VanishingRows, 141),
    // A row that had been missing once was restored under its live holder without any patience, at an older position.
    (Scenario::VanishingRows, 12),
    (Scenario::VanishingRows, 197),
    // A row that was known unfinished was restored, although the shard had ended generations ago.
    (Scenario::ReshardStorm, 21_881),
    (Scenario::ReshardStorm, 23_021),
    (Scenario::FirstStart, 21_832),
    // Workers that had waited for an absent service waited up to 30 s more after each throttled request.
    (Scenario::SlowStart, 9),
    // A new worker created the rows of ended shards in an emptied table, and the fleet read them again.
    (Scenario::VanishingRows, 68),
    (Scenario::VanishingRows, 76),
    (Scenario::VanishingRows, 585),
    // A row restored at an older position was deleted again: the check believed that the newer one was still known.
    (Scenario::VanishingRows, 22_176),
    // A worker was replaced by one that had left meanwhile, so that none was left.
    (Scenario::Everything, 21_394),
    // The check took a successor of the same name for the holder that does not know of an edit.
    (Scenario::Operators, 24_770),
    // A worker that was paused restored a deleted row at its own older position before the live holder did.
    (Scenario::Everything, 25_376),
    // The row of a closed parent was deleted before a live reset reached its child, and created again at its beginning.
    (Scenario::Operations, 20_354),
    // The check did not know hand-overs that the leader of a KCL fleet begins.
    (Scenario::Adoption, 622),
    // The check did not let a fleet balance itself again after slow calls had cost it a lease.
    (Scenario::LongTails, 41_671),
    // After a long outage some workers asked so late that not all of them started within the minute.
    (Scenario::SlowStart, 45_858),
];

#[track_caller]
fn assert_holds(scenario: Scenario, seed: u64) {
    let outcome = run(&Plan::of(scenario, seed));
    if let Some(violation) = outcome.violation {
        panic!("{scenario}, seed {seed}: {violation}");
    }
}

#[test]
fn promises_hold_in_scenarios_of_usual_size() {
    for scenario in Scenario::available().filter(|scenario| !LARGE_SCENARIOS.contains(scenario)) {
        for seed in 0..QUICK_SEEDS {
            assert_holds(scenario, seed);
        }
    }
}

#[test]
fn promises_hold_for_another_seed_of_every_scenario() {
    for scenario in Scenario::available() {
        assert_holds(scenario, QUICK_SEEDS);
    }
    for scenario in LARGE_SCENARIOS {
        for seed in 0..QUICK_SEEDS {
            assert_holds(scenario, seed);
        }
    }
}

#[test]
fn seeds_that_failed_once_hold() {
    for (scenario, seed) in REGRESSIONS.into_iter().filter(|(scenario, _)| scenario.is_available()) {
        assert_holds(scenario, seed);
    }
}

#[test]
fn a_seed_gives_the_same_trace_in_two_processes() {
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
        assert!(first == second, "seed {seed}: the traces of two processes differ");
    }
}

#[test]
fn a_reader_that_ends_early_changes_no_verdict() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_simulation"));
    program.args(["--trace", "--seed", "10", "--pages", env!("CARGO_TARGET_TMPDIR")]);
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As `| head -1` does.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A plan with reshards and a restart, in which every seeded defect can show itself.
fn eventful(seed: u64, defect: Defect) -> Plan {
    let mut plan = Plan::of(Scenario::Calm, seed);
    plan.workers = 3;
    plan.shards = 6;
    plan.record_interval = 300;
    plan.quiet_from = 140_000;
    plan.defect = Some(defect);
    let reshard =
        |at, shard, is_merge| Fault { at, kind: FaultKind::Reshard { shard, is_merge, hidden_for: 0 } };
    plan.faults = vec![
        reshard(20_000, 0, false),
        reshard(40_000, 1, true),
        Fault { at: 50_000, kind: FaultKind::Leave { worker: 0 } },
        reshard(60_000, 2, true),
        Fault { at: 70_000, kind: FaultKind::Join },
        Fault { at: 90_000, kind: FaultKind::Crash { worker: 1, back_after: 20_000, same_name: false } },
        // One parent of a merge ends while the other one is slow.
        Fault {
            at: 95_000,
            kind: FaultKind::Handler {
                worker: 0,
                for_millis: 30_000,
                handler_fault: HandlerFault::Slow(8_000),
            },
        },
        reshard(100_000, 3, false),
        reshard(110_000, 0, true),
        reshard(120_000, 1, true),
    ];
    if defect == Defect::ChildrenNotStored {
        // With a merge the other parent would only wait, which breaks no promise.
        plan.faults.retain(|fault| !matches!(fault.kind, FaultKind::Reshard { is_merge: true, .. }));
    }
    if defect == Defect::OneLeaseOnly {
        // That worker must still run at the end.
        plan.faults.clear();
    }
    if defect == Defect::ConditionsIgnored {
        // Delayed writes find a changed row.
        let rates = FaultRates { delayed: 300, ..FaultRates::default() };
        plan.faults.push(Fault { at: 45_000, kind: FaultKind::TableFaults { for_millis: 50_000, rates } });
        plan.faults.sort_by_key(|fault| fault.at);
    }
    plan
}

#[track_caller]
fn find(defect: Defect, promise: Promise) -> Outcome {
    let mut others = Vec::new();
    for seed in 0..4 {
        let outcome = run(&eventful(seed, defect));
        match &outcome.violation {
            Some(violation) if violation.promise == promise => return outcome,
            violation => others.push(violation.clone()),
        }
    }
    panic!("{defect:?} must break {promise:?}, not {others:?}");
}

#[test]
fn an_eventful_plan_without_a_defect_holds() {
    let mut plan = eventful(0, Defect::StreamSkips);
    plan.defect = None;
    assert_eq!(run(&plan).violation, None);
}

#[test]
fn every_check_can_fail() {
    for (defect, promise) in [
        (Defect::StreamSkips, Promise::NothingSkipped),
        (Defect::BatchesReversed, Promise::Order),
        (Defect::ParentsLookFinished, Promise::ParentsFirst),
        (Defect::ConditionsIgnored, Promise::OneOwner),
        (Defect::CountersGoBack, Promise::Forward),
        (Defect::ChildrenNotStored, Promise::Coverage),
        (Defect::ChildrenLookFinished, Promise::ChildrenRead),
        (Defect::CheckpointsNotStored, Promise::Redelivery),
        (Defect::OneLeaseOnly, Promise::Balance),
        (Defect::LeasesStolen, Promise::Stability),
        (Defect::StopsIgnored, Promise::StopsInTime),
        (Defect::TablePanics, Promise::NoPanic),
    ] {
        find(defect, promise);
    }
}

/// Number of seeds in which a scenario must find its defect. The first seed is the one that finds it at once.
const DEFECT_SEEDS: u64 = 20;

#[track_caller]
fn assert_finds(scenario: Scenario, defect: Defect, promise: Promise, first_seed: u64) {
    let mut others = Vec::new();
    let is_found = (first_seed..first_seed + DEFECT_SEEDS).any(|seed| {
        let mut plan = Plan::of(scenario, seed);
        plan.defect = Some(defect);
        if promise == Promise::StopReport {
            // A crash would show the missing checkpoints first.
            plan.faults.clear();
        }
        let violation = run(&plan).violation;
        let is_found = violation.as_ref().is_some_and(|violation| violation.promise == promise);
        others.extend(violation);
        is_found
    });
    assert!(is_found, "{defect:?} must break {promise:?} in {scenario}, not {others:?}");
}

#[test]
fn scenarios_of_an_unruly_world_find_their_defects() {
    for (scenario, defect, promise) in [
        (Scenario::VanishingRows, Defect::ListingsForget, Promise::Redelivery),
        (Scenario::RecreatedStream, Defect::IdentityStays, Promise::OneStream),
        (Scenario::LongTails, Defect::ListingsLate, Promise::FailOver),
        (Scenario::LongTails, Defect::LeasesStolen, Promise::LeaseKept),
        (Scenario::LongTails, Defect::CheckpointsNotStored, Promise::StopReport),
    ] {
        assert_finds(scenario, defect, promise, 0);
    }
}

#[test]
fn edit_of_other_rows_is_found() {
    assert_finds(Scenario::Operators, Defect::EditsSpill, Promise::Forward, 0);
}

#[test]
fn defects_of_operations_are_found() {
    assert_finds(Scenario::Operations, Defect::PausesHidden, Promise::PauseKept, 3);
    assert_finds(Scenario::Operations, Defect::ResetsSpill, Promise::NothingSkipped, 8);
}

#[test]
fn defects_of_adoption_are_found() {
    assert_finds(Scenario::Adoption, Defect::RenewalsHidden, Promise::OneOwner, 1);
    assert_finds(Scenario::Adoption, Defect::ResetsSpill, Promise::NothingSkipped, 2);
}

/// Seeds in which each circumstance of an adoption occurs: a live worker of a led fleet, `LATEST` without an instant, and a row
/// that a worker of ours takes while the operator writes.
const ADOPTION_SEEDS: [u64; 3] = [2, 3, 4];

#[test]
fn adoptions_meet_live_workers_and_races() {
    let traces = ADOPTION_SEEDS.map(|seed| run(&Plan::of(Scenario::Adoption, seed)).trace());
    for circumstance in [
        "refused: a worker renews",
        "refused: a worker reports",
        "is not as it was, the adoption stops",
        "the leader assigns the leases",
        "the table is adopted",
        " operator release: kcl",
        " operator reset: kcl",
        " operator reset: unowned",
    ] {
        let is_met = traces.iter().any(|trace| trace.contains(circumstance));
        assert!(is_met, "no adoption of the seeds {ADOPTION_SEEDS:?} meets {circumstance:?}");
    }
}

#[test]
fn large_scenarios_find_their_defects() {
    assert_finds(Scenario::SlowStart, Defect::DescriptionsRefused, Promise::StartsInTime, 0);
}

/// A start at `LATEST` or at a time, in a stream that has existed for a while.
fn starting(seed: u64, start: Start, defect: Option<Defect>) -> Plan {
    let mut plan = Plan::of(Scenario::Calm, seed);
    plan.shards = 4;
    plan.record_interval = 100;
    plan.workers_from = 30_000;
    plan.quiet_from = 60_000;
    plan.start = start;
    plan.defect = defect;
    plan
}

#[test]
fn initial_position_checks_can_fail() {
    for (start, defect, promise) in [
        (Start::Latest, Defect::StartTimesDiffer, Promise::NothingSkipped),
        (Start::Latest, Defect::TimestampsIgnored, Promise::InitialPosition),
        (Start::AtTimestamp(20_000), Defect::TimestampsIgnored, Promise::InitialPosition),
    ] {
        let broken = (0..4).filter_map(|seed| run(&starting(seed, start, Some(defect))).violation);
        let broken: Vec<Promise> = broken.map(|violation| violation.promise).collect();
        assert!(broken.contains(&promise), "{defect:?} must break {promise:?}, not {broken:?}");
        for seed in 0..4 {
            assert_eq!(run(&starting(seed, start, None)).violation, None, "{start:?}, seed {seed}");
        }
    }
}

#[test]
fn a_failing_plan_shrinks_and_is_rendered() {
    let outcome = find(Defect::CheckpointsNotStored, Promise::Redelivery);
    let faults = outcome.plan.faults.len();
    let shrunk = shrink(outcome, |_| {}).outcome;
    assert!(
        shrunk.plan.faults.len() <= 2,
        "{} of {faults}: {:?}",
        shrunk.plan.faults.len(),
        shrunk.plan.faults
    );
    assert_eq!(shrunk.violation.as_ref().map(|violation| violation.promise), Some(Promise::Redelivery));
    assert_eq!(run(&shrunk.plan).trace(), shrunk.trace(), "the shrunk plan replays");
    let text = timeline(&shrunk);
    for part in ["plan: scenario calm", "shard ", "checkpoint", "BROKEN"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let html = page(&shrunk);
    assert!(html.starts_with("<!doctype html>") && html.contains("<svg") && html.contains("<rect"));
    assert!(!html.contains("<script") && !html.contains("http://localhost"), "the page is self-contained");
}
