//! The scenario `fan-out` over the readers of `kinesis-asl`: it is deterministic, its faults happen, and its checks
//! can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::collections::BTreeSet;

use simulation::checks::Promise;
use simulation::event::{EventKind, SubscriptionStep};
use simulation::plan::{Defect, FaultKind, Plan};
use simulation::run::run;
use simulation::scenario::Scenario;

/// Number of seeds tried here at most; `cargo xtask ci` tries 600 in an optimised build, and `cargo xtask sim --scenario fan-out` any number.
const SEEDS: u64 = 30;

/// How a subscription can end.
const ENDINGS: [&str; 10] = [
    "ended early",
    "reset",
    "reset inside an event",
    "reset by a partition",
    "end of shard",
    "closed by the reader",
    "InternalFailureException",
    "ResourceInUseException",
    "ResourceNotFoundException",
    "LimitExceededException",
];

/// Number of seeds of `odd-answers` tried here.
const ODD_SEEDS: u64 = 6;

#[test]
fn promises_hold_over_fan_out_and_all_its_faults_happen() {
    let mut endings = BTreeSet::new();
    let mut silent = 0;
    for seed in 0..SEEDS {
        let outcome = run(&Plan::of(Scenario::FanOut, seed));
        assert_eq!(outcome.violation, None, "seed {seed}");
        for event in &outcome.events {
            if let EventKind::Subscription { step, .. } = event.kind {
                match step {
                    SubscriptionStep::Over(how) | SubscriptionStep::Refused(how) => drop(endings.insert(how)),
                    SubscriptionStep::Silent => silent += 1,
                    SubscriptionStep::Requested | SubscriptionStep::Accepted => {}
                }
            }
        }
        if silent > 0 && ENDINGS.iter().all(|ending| endings.contains(ending)) {
            return;
        }
    }
    panic!("of {ENDINGS:?} only these happen in {SEEDS} seeds: {endings:?}; {silent} were silent");
}

#[test]
fn a_seed_gives_the_same_trace_over_the_sdk() {
    for seed in [1, 2] {
        let trace = || run(&Plan::of(Scenario::FanOut, seed)).trace();
        let first = trace();
        assert!(first.contains("subscription") && first.len() > 10_000);
        assert!(first == trace(), "seed {seed}");
    }
}

#[test]
fn odd_answers_of_the_stream_are_not_believed() {
    let mut odd = 0;
    for seed in 0..ODD_SEEDS {
        let plan = Plan::of(Scenario::OddAnswers, seed);
        odd +=
            plan.faults.iter().filter(|fault| matches!(fault.kind, FaultKind::StreamFaults { .. })).count();
        assert_eq!(run(&plan).violation, None, "seed {seed}");
    }
    assert!(odd > 0);
    let is_found = (0..SEEDS).any(|seed| {
        let mut plan = Plan::of(Scenario::OddAnswers, seed);
        plan.defect = Some(Defect::OddAnswersSkip);
        run(&plan).violation.is_some_and(|violation| violation.promise == Promise::NothingSkipped)
    });
    assert!(is_found);
}

#[test]
fn subscription_checks_can_fail() {
    for (defect, promise) in [
        (Defect::SilenceTolerated, Promise::SilenceDetected),
        (Defect::ResubscribesTooSoon, Promise::SubscribeInterval),
    ] {
        let mut broken = (0..SEEDS).filter_map(|seed| {
            let mut plan = Plan::of(Scenario::FanOut, seed);
            plan.defect = Some(defect);
            run(&plan).violation
        });
        assert!(broken.any(|violation| violation.promise == promise), "{defect:?} must break {promise:?}");
    }
}
