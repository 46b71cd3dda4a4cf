//! The scenario over the readers of `kinesis-asl`: the same trace from the same seed, its faults happen, its checks can fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::collections::BTreeSet;

use simulation::checks::Promise;
use simulation::event::{SubscriptionStep, What};
use simulation::plan::{Plan, Planted};
use simulation::run::run;
use simulation::scenario::Scenario;

/// How many seeds are tried here; `cargo xtask sim --scenario fan-out` tries thousands.
const SEEDS: u64 = 30;

#[test]
fn the_promises_hold_over_fan_out_and_all_of_its_faults_happen() {
    let mut ways = BTreeSet::new();
    let mut silent = 0;
    for seed in 0..SEEDS {
        let outcome = run(&Plan::of(Scenario::FanOut, seed));
        assert_eq!(outcome.violation, None, "seed {seed}");
        for event in &outcome.events {
            if let What::Subscription { step, .. } = event.what {
                match step {
                    SubscriptionStep::Over(how) | SubscriptionStep::Refused(how) => drop(ways.insert(how)),
                    SubscriptionStep::Silent => silent += 1,
                    SubscriptionStep::Asked | SubscriptionStep::Accepted => {}
                }
            }
        }
    }
    assert!(silent > 0);
    for way in [
        "early",
        "torn",
        "torn inside an event",
        "torn by a partition",
        "the shard is over",
        "closed by the reader",
        "InternalFailureException",
        "ResourceInUseException",
        "ResourceNotFoundException",
        "LimitExceededException",
    ] {
        assert!(ways.contains(way), "{way} is not among {ways:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_over_the_sdk() {
    for seed in [1, 2] {
        let trace = || run(&Plan::of(Scenario::FanOut, seed)).trace();
        let first = trace();
        assert!(first.contains("subscription") && first.len() > 10_000);
        assert!(first == trace(), "seed {seed}");
    }
}

#[test]
fn the_checks_of_subscriptions_can_fail() {
    for (planted, promise) in
        [(Planted::SilenceUnnoticed, Promise::Silence), (Planted::Impatient, Promise::Distance)]
    {
        let broken = (0..SEEDS).filter_map(|seed| {
            let mut plan = Plan::of(Scenario::FanOut, seed);
            plan.planted = Some(planted);
            run(&plan).violation
        });
        let broken: BTreeSet<Promise> = broken.map(|violation| violation.promise).collect();
        assert!(broken.contains(&promise), "{planted:?} breaks {broken:?}");
    }
}
