//! Plans a second application that starts at the positions of the first one. Pure.

use lease_store::Position;

use crate::lineage::Lineage;
use crate::look::Look;
use crate::plan::change::{Change, Expected, NewRow, RowChange};
use crate::plan::guard::Situation;
use crate::plan::planned::Plan;
use crate::plan::refusal::{Note, Refusal};

/// Plans rows for the application of `to`, at the positions of the look `from`, whose workers may run.
///
/// Rows that are already there at the same position are kept, so a copy that was cut short can be made again.
pub fn copy(from: &Look, to: &Situation<'_>) -> Plan {
    let mut plan = to.plan();
    let application = to.look.application.clone();
    plan.refusals.extend(from.malformed.iter().map(|row| Refusal::MalformedRow { key: row.key.clone() }));
    plan.refusals.extend(to.malformed());
    match (from.identity(), to.look.identity()) {
        (Some(found), Some(expected)) if found != expected => {
            plan.refusals.push(Refusal::OtherStream { expected: expected.clone(), found: found.clone() });
        }
        (Some(_), Some(_)) => {}
        (None, _) | (_, None) => plan.refusals.push(Refusal::StreamUnknown),
    }
    let present = to.look.rows();
    let lineage = Lineage::of(from);
    let rows = from.rows();
    for shard_id in lineage.children_first(rows.keys().copied()) {
        let Some(row) = rows.get(&shard_id) else { continue };
        let (position, initial_time_millis) = match row.checkpoint {
            // The first application has stored nothing, and would decide later what is latest.
            Position::Latest if row.initial_time_millis.is_none() => {
                plan.notes.push(Note::InstantUnknown { shard_id: shard_id.clone() });
                (Position::AtTimestamp, Some(from.taken_at_millis))
            }
            _ => (row.checkpoint.clone(), row.initial_time_millis),
        };
        match present.get(&shard_id) {
            None => {}
            Some(there) if there.owner.is_none() && there.checkpoint == position => {
                plan.notes.push(Note::AlreadySo { shard_id });
                continue;
            }
            Some(_) => {
                plan.refusals.push(Refusal::TableInUse { application: application.clone() });
                continue;
            }
        }
        let new = NewRow {
            position,
            initial_time_millis,
            parents: row.parents.clone(),
            children: row.children.clone(),
            hash_key_range: row.hash_key_range,
            stream: from.identity().cloned(),
        };
        plan.changes.push(RowChange { shard_id, expected: Expected::Absent, change: Change::Create(new) });
    }
    if present.keys().any(|shard_id| !rows.contains_key(*shard_id)) {
        plan.refusals.push(Refusal::TableInUse { application });
    }
    plan.refusals.sort();
    plan.refusals.dedup();
    plan
}
