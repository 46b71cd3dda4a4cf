//! Every state of the end of a shard with the creation of its children, at small sizes.

use models::explore;
use models::shard_end::{Happened, History, ShardEndModel};

/// Visits the states, which are no fewer than they were, and in which all this happens.
fn check(model: &ShardEndModel, least_states: usize, happened: &[Happened]) {
    let explored = explore(model.clone());
    println!("{model:?}: {explored:?}");
    for happened in happened {
        assert!(model.witnesses.has_seen(*happened), "{happened:?} did not happen");
    }
    assert!(
        explored.states >= least_states,
        "a model that does little holds its properties easily: {explored:?}"
    );
}

#[test]
fn a_split_keeps_its_promises_whoever_dies_and_whatever_is_not_answered() {
    let faults = ShardEndModel { crashes: 1, lost_answers: 1, ..ShardEndModel::default() };
    let model = ShardEndModel {
        workers: 2,
        history: History::Split,
        starts_at_latest: true,
        has_leases: true,
        ..faults
    };
    check(&model, 40_000, &[Happened::Ended, Happened::Deleted, Happened::Obstacle, Happened::Over]);
}

#[test]
fn a_split_keeps_its_promises_although_a_holder_pauses_and_listings_miss_rows() {
    let faults = ShardEndModel { pauses: 1, listings_lag: true, ..ShardEndModel::default() };
    let model = ShardEndModel { workers: 2, history: History::Split, has_leases: true, ..faults };
    check(&model, 10_000, &[Happened::Ended, Happened::Deleted, Happened::Fenced, Happened::Over]);
}

#[test]
fn a_merge_keeps_its_promises_from_an_empty_table_on() {
    let model = ShardEndModel { workers: 2, history: History::Merge, ..ShardEndModel::default() };
    check(&model, 50_000, &[Happened::Ended, Happened::Deleted, Happened::Obstacle, Happened::Over]);
}

#[test]
fn halves_that_are_merged_again_keep_their_promises() {
    let model = ShardEndModel {
        workers: 2,
        history: History::SplitAndMerge,
        has_leases: true,
        ..ShardEndModel::default()
    };
    check(&model, 15_000, &[Happened::Ended, Happened::Deleted, Happened::Obstacle, Happened::Over]);
}
