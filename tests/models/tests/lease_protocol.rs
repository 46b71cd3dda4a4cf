//! Visits every state of the lease protocol, at small sizes.

use models::explore;
use models::lease::{Happened, LeaseModel};

/// Visits the states. There must be no fewer than before, and all of these steps must happen.
fn check(model: &LeaseModel, least_states: usize, happened: &[Happened]) {
    let explored = explore(model.clone());
    println!("{model:?}: {explored:?}");
    for happened in happened {
        assert!(model.witnesses.contains(*happened), "{happened:?} did not happen");
    }
    assert!(explored.states >= least_states, "the model visits fewer states than before: {explored:?}");
}

#[test]
fn two_workers_with_lost_answers_keep_the_lease_promises() {
    let model = LeaseModel { workers: 2, leases: 1, records: 1, lost_answers: 1, ..LeaseModel::default() };
    let happened = [
        Happened::Taken,
        Happened::TakeSettled,
        Happened::UnknownApplied,
        Happened::UnknownNotApplied,
        Happened::Lost,
        Happened::Expired,
        Happened::ReadToEnd,
    ];
    check(&model, 100_000, &happened);
}

#[test]
fn a_crash_with_a_lost_answer_keeps_the_lease_promises() {
    let faults = LeaseModel { lost_answers: 1, crashes: 1, ..LeaseModel::default() };
    let model = LeaseModel { workers: 2, leases: 1, records: 1, ..faults };
    check(
        &model,
        250_000,
        &[Happened::Taken, Happened::TakeSettled, Happened::UnknownApplied, Happened::ReadToEnd],
    );
}

#[test]
fn a_requested_hand_over_keeps_the_lease_promises() {
    let model = LeaseModel { workers: 2, leases: 1, records: 1, asks: true, ..LeaseModel::default() };
    check(&model, 60_000, &[Happened::HandedOver, Happened::Taken, Happened::Expired, Happened::ReadToEnd]);
}

#[test]
fn three_workers_keep_the_lease_promises() {
    let model = LeaseModel { workers: 3, leases: 1, records: 1, ..LeaseModel::default() };
    check(&model, 200_000, &[Happened::Taken, Happened::Lost, Happened::Expired, Happened::ReadToEnd]);
}

#[test]
fn a_kcl_take_or_hand_over_keeps_the_lease_promises() {
    let model = LeaseModel { workers: 2, leases: 1, records: 1, kcl_moves: 1, ..LeaseModel::default() };
    check(
        &model,
        100_000,
        &[Happened::KclHandOver, Happened::HandedOver, Happened::Lost, Happened::ReadToEnd],
    );
}

#[test]
fn two_leases_share_only_their_workers() {
    let model = LeaseModel { workers: 1, leases: 2, records: 1, lost_answers: 1, ..LeaseModel::default() };
    check(&model, 10_000, &[Happened::UnknownApplied, Happened::UnknownNotApplied, Happened::ReadToEnd]);
}
