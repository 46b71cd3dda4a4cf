//! Plans that a table of the KCL is ready for the workers of this library: positions and lineage stay as they are. Pure.

use std::collections::BTreeSet;

use lease_store::Position;

use crate::look::ForeignKind;
use crate::plan::change::{Change, Expected, RowChange};
use crate::plan::guard::Situation;
use crate::plan::planned::Plan;
use crate::plan::refusal::{Note, Refusal};

/// A worker of a KCL 3.x fleet writes its row every 30 s. For how long, in seconds, a row counts as that of a live worker.
const REPORT_SECONDS: u64 = 120;

/// Plans the changes of the rows. It is refused while a worker renews, or reports about itself as those of KCL 3.x do.
///
/// Leases of silent owners become free, so that the first worker need not wait for them. A hand-over that a leader had begun is
/// ended. `LATEST` without an instant gets that of the look; without it each new owner would start at its own time. The rest is
/// what a worker adds by itself when it takes a lease.
pub fn adopt(situation: &Situation<'_>) -> Plan {
    let mut plan = situation.plan();
    let look = situation.look;
    let now_millis = look.taken_at_millis;
    plan.refusals.extend(situation.malformed());
    plan.refusals.extend(situation.other_stream());
    plan.refusals.extend(situation.live_workers());
    for row in &look.workers {
        let seconds = (now_millis / 1000).saturating_sub(row.updated_at_seconds);
        if seconds < REPORT_SECONDS {
            plan.refusals.push(Refusal::WorkerReports { worker_id: row.worker_id.clone(), seconds });
        }
    }
    let unknown = look.foreign.iter().filter(|row| row.kind != ForeignKind::Coordination);
    plan.notes.extend(unknown.map(|row| Note::RowStays { key: row.key.clone() }));
    let others: BTreeSet<&String> =
        look.leases.iter().filter_map(|lease| lease.application.as_ref()).collect();
    let others = others.into_iter().filter(|name| **name != look.application);
    plan.notes.extend(others.map(|name| Note::FormerApplication { name: name.clone() }));
    for lease in look.leases.iter().filter(|lease| !lease.is_finished()) {
        let shard_id = lease.shard_id.clone();
        let is_without_instant = lease.initial_time_millis.is_none();
        let set = |initial_time_millis| Change::SetPosition {
            position: lease.checkpoint.clone(),
            initial_time_millis,
            children: BTreeSet::new(),
        };
        let change = match lease.checkpoint {
            Position::Latest if is_without_instant => {
                plan.notes.push(Note::InstantUnknown { shard_id: shard_id.clone() });
                set(Some(now_millis))
            }
            _ if lease.checkpoint_owner.is_some() => set(lease.initial_time_millis),
            _ if lease.owner.is_some() => Change::Release,
            _ => {
                if lease.checkpoint == Position::AtTimestamp && is_without_instant {
                    plan.notes.push(Note::InstantInSettings { shard_id });
                }
                continue;
            }
        };
        if lease.checkpoint == Position::AtTimestamp && is_without_instant {
            plan.notes.push(Note::InstantInSettings { shard_id: shard_id.clone() });
        }
        plan.changes.push(RowChange { shard_id, expected: Expected::unchanged(lease), change });
    }
    plan.refusals.sort();
    plan.refusals.dedup();
    plan
}
