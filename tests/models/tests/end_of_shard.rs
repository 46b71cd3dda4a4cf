//! Visits every state of the end of a shard with the creation of its children, at small sizes.

use models::explore;
use models::shard_end::{Happened, History, ShardEndModel};

/// Visits the states. There must be no fewer than before, and all of these steps must happen.
fn check(model: &ShardEndModel, least_states: usize, happened: &[Happened]) {
    let explored = explore(model.clone());
    println!("{model:?}: {explored:?}");
    for happened in happened {
        assert!(model.witnesses.contains(*happened), "{happened:?} did not happen");
    }
    assert!(explored.states >= least_states, "the model visits fewer states than before: {explored:?}");
}

#[test]
fn a_split_keeps_its_promises_with_crashes_and_lost_answers() {
    let faults = ShardEndModel { crashes: 1, lost_answers: 1, ..ShardEndModel::default() };
    let model = ShardEndModel {
        workers: 2,
        history: History::Split,
        starts_at_latest: true,
        has_leases: true,
        ..faults
    };
    check(&model, 40_000, &[Happened::Ended, Happened::Deleted, Happened::Blocked, Happened::Over]);
}

#[test]
fn a_split_keeps_its_promises_with_pauses_and_missed_rows() {
    let faults = ShardEndModel { pauses: 1, listings_lag: true, ..ShardEndModel::default() };
    let model = ShardEndModel { workers: 2, history: History::Split, has_leases: true, ..faults };
    check(&model, 10_000, &[Happened::Ended, Happened::Deleted, Happened::Fenced, Happened::Over]);
}

#[test]
fn a_merge_keeps_its_promises_from_an_empty_table() {
    let model = ShardEndModel { workers: 2, history: History::Merge, ..ShardEndModel::default() };
    check(&model, 50_000, &[Happened::Ended, Happened::Deleted, Happened::Blocked, Happened::Over]);
}

#[test]
fn a_split_and_merge_keeps_its_promises() {
    let model = ShardEndModel {
        workers: 2,
        history: History::SplitAndMerge,
        has_leases: true,
        ..ShardEndModel::default()
    };
    check(&model, 15_000, &[Happened::Ended, Happened::Deleted, Happened::Blocked, Happened::Over]);
}
