//! An operator who adopts the table of a KCL fleet, as `kinesis-streaming adopt` does: looks, the plan of `fleet-view`, its
//! changes, and the mode last. A refused operator comes back.

use std::collections::BTreeMap;

use fastrand::Rng;
use fleet_view::plan::{Refusal, Situation, adopt};
use fleet_view::{FleetMode, History, Look, WorkerRow};
use lease_store::{ShardId, WorkerId};
use tokio::time::{Duration, sleep};

use crate::event::{EPOCH_MILLIS, EventKind};
use crate::operator::{LOOK_INTERVAL_MILLIS, LOOKS, carry_out, take_look};
use crate::plan::{ADOPTION_MILLIS, Defect};
use crate::worker::World;

/// The time that one attempt may take, in milliseconds: the looks and the changes.
const ATTEMPT_MILLIS: u64 = 100_000;

/// The longest wait between two changes, in milliseconds: longer than those of other operations, since what races with an
/// adoption needs a fail-over time.
const MAX_STEP_MILLIS: u64 = 4_000;

/// Looks, plans and writes until the table is adopted, or the time is over.
pub async fn adopt_table(world: World, defect: Option<Defect>, mut rng: Rng) {
    let deadline = world.observer.now() + ADOPTION_MILLIS;
    while world.observer.now() + ATTEMPT_MILLIS <= deadline {
        if attempt(&world, defect, &mut rng).await {
            return;
        }
    }
}

/// One run of the command. Returns whether the table is adopted.
async fn attempt(world: &World, defect: Option<Defect>, rng: &mut Rng) -> bool {
    let observer = &world.observer;
    let (mut history, mut look) = (History::new(), look_at(world));
    let first: BTreeMap<ShardId, u64> =
        look.leases.iter().map(|lease| (lease.shard_id.clone(), lease.counter)).collect();
    for _ in 1..LOOKS {
        drop(history.add(&look));
        sleep(Duration::from_millis(LOOK_INTERVAL_MILLIS)).await;
        look = look_at(world);
        if defect == Some(Defect::RenewalsHidden) {
            for lease in &mut look.leases {
                lease.counter = first.get(&lease.shard_id).copied().unwrap_or(lease.counter);
            }
            look.workers.clear();
        }
    }
    drop(history.add(&look));
    let plan = adopt(&Situation { look: &look, history: &history });
    observer.record_note(format!("operator plans to adopt: {}", plan.summary()));
    if plan.is_refused() {
        observer.record_note(format!("the adoption is refused: {}", names(&plan.refusals)));
        return false;
    }
    observer.record(EventKind::AdoptionAllowed);
    let operation_id = rng.u64(1..1 << 53);
    for change in &plan.changes {
        sleep(Duration::from_millis(rng.u64(..MAX_STEP_MILLIS))).await;
        if !carry_out(world, change, operation_id) {
            observer.record_note(format!("{} is not as it was, the adoption stops", change.shard_id));
            return false;
        }
    }
    world.table.pin();
    observer.record_note("the table is adopted");
    true
}

/// The kinds of refusals, as the tests of the simulator look for them.
fn names(refusals: &[Refusal]) -> String {
    let names: Vec<&str> = refusals
        .iter()
        .map(|refusal| match refusal {
            Refusal::WorkerRenews { .. } => "a worker renews",
            Refusal::WorkerMayRenew { .. } => "a worker may renew",
            Refusal::WorkerReports { .. } => "a worker reports",
            _ => "another reason",
        })
        .collect();
    names.join(", ")
}

fn look_at(world: &World) -> Look {
    let mut look = take_look(world);
    if world.table.is_led() {
        look.mode = FleetMode::LeaderAssigns;
    }
    let reports = world.table.reports().into_iter();
    let workers = reports.filter_map(|(name, millis)| {
        let updated_at_seconds = (EPOCH_MILLIS + millis) / 1000;
        Some(WorkerRow { worker_id: WorkerId::new(name).ok()?, updated_at_seconds, is_failing: false })
    });
    look.workers = workers.collect();
    look
}
