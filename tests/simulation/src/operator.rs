//! An operator who resets, releases, assigns and pauses shards of a running fleet, with the plans of `fleet-view`.
//!
//! It looks at the table and the stream for a while, as the command does, plans, and carries the plan out row by row while the
//! fleet goes on. It writes over a network without faults: the command of an operator is run again after a failure.

use std::collections::BTreeSet;

use fastrand::Rng;
use fleet_view::plan::{
    AssignOptions, Plan, ResetOptions, ResetTo, RowChange, Scope, Situation, adopt, assign, pause, release,
    reset, resume,
};
use fleet_view::{History, Look, Pause, PositionsFile, ShardInfo, StreamSummary};
use lease_store::{Lease, Position, ShardId, StreamIdentity, WorkerId, WriteOutcome};
use shard_worker::ShardFilter;
use tokio::time::{Duration, sleep};

use crate::event::{EPOCH_MILLIS, FIRST_CREATION_EPOCH, STREAM_ARN, Writer, record_number, sequence_number};
use crate::plan::{OPERATION_MILLIS, Operation, ResetKind};
use crate::worker::World;

/// How often the operator looks before planning: silent owners must be told from live ones.
pub(crate) const LOOKS: u64 = 5;

/// The time between two looks, in milliseconds.
pub(crate) const LOOK_INTERVAL_MILLIS: u64 = 16_000;

/// The longest wait between two changes of a plan, in milliseconds.
const MAX_STEP_MILLIS: u64 = 2_000;

// The looks, one minute of changes and drain time.
const _: () = assert!(LOOKS * LOOK_INTERVAL_MILLIS + 60_000 <= OPERATION_MILLIS);

/// The most attempts at one change of a row that its owner keeps renewing.
const MAX_ATTEMPTS: usize = 5;

/// Runs one operation.
pub async fn operate(world: World, choice: u64, operation: Operation, mut rng: Rng) {
    let mut history = History::new();
    let mut look = take_look(&world);
    for _ in 1..LOOKS {
        drop(history.add(&look));
        sleep(Duration::from_millis(LOOK_INTERVAL_MILLIS)).await;
        look = take_look(&world);
    }
    drop(history.add(&look));
    let unfinished: Vec<&Lease> = look.leases.iter().filter(|lease| !lease.is_finished()).collect();
    let Some(index) = choice.checked_rem(unfinished.len() as u64) else { return };
    let row = usize::try_from(index).ok().and_then(|index| unfinished.get(index).copied());
    let Some(row) = row else { return };
    let situation = Situation { look: &look, history: &history };
    let plan = plan(&world, situation, row, operation);
    let observer = &world.observer;
    observer.record_note(format!("operator plans {operation:?} of {}: {}", row.shard_id, plan.summary()));
    if plan.is_refused() {
        observer.record_note(format!("the plan is refused: {:?}", plan.refusals));
        return;
    }
    let operation_id = rng.u64(1..1 << 53);
    for change in &plan.changes {
        sleep(Duration::from_millis(rng.u64(..MAX_STEP_MILLIS))).await;
        if !carry_out(&world, change, operation_id) {
            observer.record_note(format!("{} is not as it was, the operator stops", change.shard_id));
            return;
        }
    }
}

fn plan(world: &World, situation: Situation<'_>, row: &Lease, operation: Operation) -> Plan {
    let shards = BTreeSet::from([row.shard_id.clone()]);
    let now_millis = situation.look.taken_at_millis;
    match operation {
        Operation::Reset { kind, all } => {
            let scope = if all { Scope::All } else { Scope::Shards { shards, with_descendants: true } };
            let to = match kind {
                ResetKind::TrimHorizon => ResetTo::TrimHorizon,
                ResetKind::Latest => ResetTo::Latest,
                ResetKind::Ago(millis) => ResetTo::Ago { millis },
                ResetKind::Moved { records, is_forward } => {
                    ResetTo::Positions(moved_positions(world, situation.look, records, is_forward))
                }
            };
            reset(&situation, &to, &ResetOptions { scope, is_live: true })
        }
        Operation::Release => release(&situation, Some(&shards), true),
        Operation::Assign { worker } => match WorkerId::new(format!("w{worker}")) {
            Ok(worker) => assign(&situation, &row.shard_id, &worker, AssignOptions::default()),
            Err(_) => Plan::default(),
        },
        Operation::PauseShard { for_millis, all } => {
            let until_millis = Some(now_millis + for_millis);
            let asked = Pause { until_millis, by: "operator".to_owned() };
            pause(&situation, (!all).then_some(&shards), &asked)
        }
        Operation::Resume => resume(&situation, None),
        Operation::Adopt => adopt(&situation),
    }
}

/// The positions of the application, moved by a number of records.
fn moved_positions(world: &World, look: &Look, records: u64, is_forward: bool) -> PositionsFile {
    let mut file = PositionsFile::of(look);
    for shard in &mut file.shards {
        let record = match &shard.position {
            Position::ShardEnd => continue,
            Position::After(at) => record_number(&at.sequence_number),
            _ => 0,
        };
        let moved = if is_forward {
            (record + records).min(world.kinesis.newest())
        } else {
            record.saturating_sub(records)
        };
        shard.position = match moved {
            0 => Position::TrimHorizon,
            moved => Position::after(sequence_number(moved), 0),
        };
    }
    file
}

/// Makes one change. Returns whether the row was as expected.
pub(crate) fn carry_out(world: &World, change: &RowChange, operation_id: u64) -> bool {
    for _ in 0..MAX_ATTEMPTS {
        let row = world.table.row(&change.shard_id);
        if !change.is_possible_on(row.as_ref()) {
            return false;
        }
        let write = change.write(row.as_ref(), operation_id);
        match world.table.apply(Writer::Operator, &write, world.observer.now()) {
            Some(WriteOutcome::Applied { .. }) => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

pub(crate) fn take_look(world: &World) -> Look {
    let listed = world.kinesis.list(&ShardFilter::All);
    let shards = listed.into_iter().map(|shard| ShardInfo {
        shard_id: shard.shard_id,
        parents: shard.parents.into_iter().collect::<BTreeSet<ShardId>>(),
        hash_key_range: shard.hash_key_range,
        is_open: !shard.is_closed,
    });
    let identity =
        StreamIdentity { arn: STREAM_ARN.to_owned(), creation_epoch_seconds: FIRST_CREATION_EPOCH };
    let mut look = Look {
        taken_at_millis: EPOCH_MILLIS + world.observer.now(),
        application: "simulated".to_owned(),
        leases: world.table.rows(),
        shards: Some(shards.collect()),
        stream: Some(StreamSummary {
            name: "simulated".to_owned(),
            identity,
            status: "ACTIVE".to_owned(),
            retention_millis: 86_400_000,
        }),
        ..Look::default()
    };
    look.note_operators();
    look
}
