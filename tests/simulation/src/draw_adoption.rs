//! Draws the plan of the scenario `adoption`: the table of a KCL fleet, its last workers, the operator who adopts the table, and
//! our workers, which start before, during or after it.

use fastrand::Rng;

use crate::plan::{Fault, FaultKind, FormerFleet, Operation, Plan};

/// The time from the first look of the operator to its plan, in milliseconds: what races with the adoption happens around it.
const LOOKS_MILLIS: u64 = 64_000;

/// Draws the fleet that leaves the table, and what happens around its adoption.
pub(crate) fn draw_adoption(plan: &mut Plan, rng: &mut Rng) {
    let is_led = rng.bool();
    let is_latest = is_led && rng.bool();
    plan.former_fleet = Some(FormerFleet { is_led, is_latest });
    plan.kcl_can_fail = rng.u64(..3) == 0;
    plan.workers = rng.u64(1..=3);
    plan.shards = rng.u64(2..=6);
    let adopts_at = rng.u64(30_000..90_000);
    let planned_at = adopts_at + LOOKS_MILLIS;
    plan.workers_from = match rng.u64(..4) {
        // Workers that are refused wait for the operator.
        0 if is_led => rng.u64(5_000..adopts_at),
        0 => planned_at + rng.u64(60_000..200_000),
        // They see a dead owner's lease expire while the operator writes.
        1 | 2 => planned_at - 11_000 + rng.u64(..8_000),
        _ => planned_at - 5_000 + rng.u64(..15_000),
    };
    plan.workers_within = *rng.choice([1, 3_000, 20_000].iter()).unwrap_or(&1);
    plan.quiet_from = planned_at;
    let row = rng.u64(..);
    let mut faults = vec![(adopts_at, FaultKind::Operate { row, operation: Operation::Adopt })];
    for _ in 0..if is_latest { rng.u64(0..=1) } else { rng.u64(0..=3) } {
        faults.push((rng.u64(1_000..adopts_at), FaultKind::KclJoin));
        let leaves_at = match rng.u64(..3) {
            0 => rng.u64(planned_at + 1_000..planned_at + 130_000),
            _ => rng.u64(adopts_at - 20_000..planned_at + 1_000),
        };
        faults.push((leaves_at, FaultKind::KclLeave { worker: rng.u64(..) }));
    }
    // One that starts while the operator plans or writes. At `LATEST` a worker of the KCL would skip records, by its own rules.
    if !is_latest && rng.bool() {
        let joins_at = planned_at - 22_000 + rng.u64(..26_000);
        faults.push((joins_at, FaultKind::KclJoin));
        faults.push((joins_at + rng.u64(1_000..90_000), FaultKind::KclLeave { worker: rng.u64(..) }));
    }
    for _ in 0..rng.u64(0..=3) {
        faults.push((rng.u64(10_000..planned_at + 5_000), FaultKind::KclHandOver { row: rng.u64(..) }));
    }
    for _ in 0..rng.u64(0..=2) {
        let kind = FaultKind::Pause { worker: rng.u64(..), for_millis: rng.u64(5_000..110_000) };
        faults.push((rng.u64(20_000..planned_at + 30_000), kind));
    }
    for _ in 0..rng.u64(0..=2) {
        let kind =
            FaultKind::Crash { worker: rng.u64(..), back_after: rng.u64(0..40_000), same_name: rng.bool() };
        faults.push((planned_at + rng.u64(..200_000), kind));
    }
    for _ in 0..if is_latest { 0 } else { rng.u64(0..=3) } {
        let kind = FaultKind::Reshard { shard: rng.u64(..), is_merge: rng.u64(..5) < 2, hidden_for: 0 };
        faults.push((rng.u64(10_000..planned_at + 200_000), kind));
    }
    plan.faults.extend(faults.into_iter().map(|(at, kind)| Fault { at, kind }));
}
