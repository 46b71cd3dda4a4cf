//! Plans the end of an application: all of its rows are deleted. Pure.

use lease_store::ShardId;

use crate::plan::change::{Change, Expected, RowChange};
use crate::plan::effect::{Effect, EffectKind};
use crate::plan::guard::Situation;
use crate::plan::planned::Plan;
use crate::plan::refusal::Note;

/// Plans the deletion of all leases. It is refused while a worker renews.
///
/// Children come before their parents: if the deletion is cut short, no child is left whose missing parent would count as
/// read to its end.
pub fn delete(situation: &Situation<'_>) -> Plan {
    let mut plan = situation.plan();
    let look = situation.look;
    plan.refusals.extend(situation.live_workers());
    let malformed = look.malformed.iter().map(|row| row.key.clone());
    let foreign = look.foreign.iter().map(|row| row.key.clone());
    plan.notes.extend(malformed.chain(foreign).map(|key| Note::RowStays { key }));
    let rows = look.rows();
    let ids: Vec<ShardId> = rows.keys().map(|shard_id| (*shard_id).clone()).collect();
    for shard_id in situation.lineage().children_first(&ids) {
        let Some(row) = rows.get(&shard_id) else { continue };
        plan.effects.push(Effect {
            shard_id: shard_id.clone(),
            kind: EffectKind::Forgotten,
            from: Some(row.checkpoint.clone()),
            to: None,
            span_millis: None,
        });
        plan.changes.push(RowChange { shard_id, expected: Expected::unchanged(row), change: Change::Delete });
    }
    plan
}
