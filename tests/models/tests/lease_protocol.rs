//! Every state of the lease protocol, at small sizes.

use models::explore;
use models::lease::{Happened, LeaseModel};

/// Visits the states, which are no fewer than they were, and in which all this happens.
fn check(model: &LeaseModel, least_states: usize, happened: &[Happened]) {
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
fn two_workers_and_lost_answers_keep_every_promise_of_a_lease() {
    let model = LeaseModel { workers: 2, leases: 1, records: 1, lost_answers: 1, ..LeaseModel::default() };
    let happened = [
        Happened::Taken,
        Happened::TakeSettled,
        Happened::UnknownApplied,
        Happened::UnknownNotApplied,
        Happened::Lost,
        Happened::GivenUp,
        Happened::ReadOn,
    ];
    check(&model, 100_000, &happened);
}

#[test]
fn a_process_that_dies_beside_a_lost_answer_breaks_no_promise_of_a_lease() {
    let faults = LeaseModel { lost_answers: 1, crashes: 1, ..LeaseModel::default() };
    let model = LeaseModel { workers: 2, leases: 1, records: 1, ..faults };
    check(
        &model,
        250_000,
        &[Happened::Taken, Happened::TakeSettled, Happened::UnknownApplied, Happened::ReadOn],
    );
}

#[test]
fn a_lease_that_is_asked_for_goes_over_without_breaking_a_promise() {
    let model = LeaseModel { workers: 2, leases: 1, records: 1, asks: true, ..LeaseModel::default() };
    check(&model, 60_000, &[Happened::HandedOver, Happened::Taken, Happened::GivenUp, Happened::ReadOn]);
}

#[test]
fn three_workers_keep_every_promise_of_a_lease() {
    let model = LeaseModel { workers: 3, leases: 1, records: 1, ..LeaseModel::default() };
    check(&model, 200_000, &[Happened::Taken, Happened::Lost, Happened::GivenUp, Happened::ReadOn]);
}

#[test]
fn a_kcl_worker_that_takes_the_lease_or_hands_it_over_breaks_no_promise_of_ours() {
    let model = LeaseModel { workers: 2, leases: 1, records: 1, kcl_moves: 1, ..LeaseModel::default() };
    check(&model, 100_000, &[Happened::KclHandOver, Happened::HandedOver, Happened::Lost, Happened::ReadOn]);
}

#[test]
fn two_leases_share_their_workers_and_nothing_else() {
    let model = LeaseModel { workers: 1, leases: 2, records: 1, lost_answers: 1, ..LeaseModel::default() };
    check(&model, 10_000, &[Happened::UnknownApplied, Happened::UnknownNotApplied, Happened::ReadOn]);
}
