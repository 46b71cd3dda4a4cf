//! Plans a reset: another position for a whole application, or for some of its shards. Pure.

use std::collections::BTreeSet;

use lease_store::{Lease, Position, ShardId};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;
use crate::look::ShardInfo;
use crate::plan::change::{Change, Expected, NewRow, RowChange};
use crate::plan::effect::{Effect, EffectKind, Place, effect};
use crate::plan::guard::{Access, Situation};
use crate::plan::planned::Plan;
use crate::plan::refusal::{Note, Refusal};
use crate::plan::reset_targets::{ResetTo, Scope, targets};
use crate::request::OperatorRequest;

/// How a reset is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetOptions {
    /// Which shards are reset.
    pub scope: Scope,
    /// Whether live owners are asked. Otherwise the plan is refused while a worker renews a lease of the application.
    pub is_live: bool,
}

/// Plans a reset.
///
/// Rows are added first, parents before their children, since a shard without a row counts as read once a descendant has one.
/// Then positions are set, children before their parents, since the children of an ended shard must have rows. So a reset that
/// is cut short reads again rather than skips.
pub fn reset(situation: &Situation<'_>, to: &ResetTo, options: &ResetOptions) -> Plan {
    let look = situation.look;
    let mut plan = situation.plan();
    let lineage = situation.lineage();
    if look.shards.is_none() {
        plan.refusals.push(Refusal::ShardsUnknown);
    }
    plan.refusals.extend(situation.malformed());
    plan.refusals.extend(situation.other_stream());
    if !options.is_live {
        plan.refusals.extend(situation.live_workers());
    }
    let targets = targets(look, &lineage, to, &options.scope);
    plan.refusals.extend(targets.refusals);
    plan.notes.extend(targets.notes);
    let (rows, listed) = (look.rows(), look.listed());
    let cleaned_up = lineage.ancestors_of_any(rows.keys().copied());
    let children_first = lineage.children_first(targets.places.keys());
    let (mut with_row, mut ordered): (Vec<ShardId>, Vec<ShardId>) =
        children_first.into_iter().partition(|shard_id| rows.contains_key(shard_id));
    ordered.reverse();
    ordered.append(&mut with_row);
    for shard_id in ordered {
        let (Some(place), Some(shard)) = (targets.places.get(&shard_id), listed.get(&shard_id)) else {
            continue;
        };
        let row = rows.get(&shard_id).copied();
        let children: BTreeSet<ShardId> = lineage.children(&shard_id).cloned().collect();
        match row {
            None => add_row(situation, &mut plan, shard, place, cleaned_up.contains(&shard_id), &lineage),
            Some(row) => set_row(situation, &mut plan, row, place, children, options.is_live),
        }
    }
    let is_by_instant = plan.changes.iter().any(|change| match &change.change {
        Change::Create(NewRow { position, .. }) | Change::SetPosition { position, .. } => {
            matches!(position, Position::AtTimestamp)
        }
        _ => false,
    });
    if is_by_instant && situation.has_kcl_workers() {
        plan.notes.push(Note::KclIgnoresInstants);
    }
    plan.refusals.sort();
    plan.refusals.dedup();
    plan.notes.sort();
    plan.notes.dedup();
    plan
}

/// Adds the row of a shard that has none.
fn add_row(
    situation: &Situation<'_>,
    plan: &mut Plan,
    shard: &ShardInfo,
    place: &Place,
    is_cleaned_up: bool,
    lineage: &Lineage,
) {
    let has_listed_children = lineage.children(&shard.shard_id).next().is_some();
    let is_ended = place.position.is_shard_end();
    // Its children have rows, which say that it is ended.
    let needs_no_row = is_ended && (is_cleaned_up || has_listed_children);
    if !needs_no_row {
        let row = NewRow {
            position: place.position.clone(),
            initial_time_millis: place.initial_time_millis,
            parents: shard.parents.clone(),
            children: BTreeSet::new(),
            hash_key_range: shard.hash_key_range,
            stream: situation.look.identity().cloned(),
        };
        plan.changes.push(RowChange {
            shard_id: shard.shard_id.clone(),
            expected: Expected::Absent,
            change: Change::Create(row),
        });
    }
    let is_from_the_beginning =
        matches!(place.position, Position::TrimHorizon if place.initial_time_millis.is_none());
    let kind = match (is_cleaned_up, is_ended, is_from_the_beginning) {
        (true, true, _) => return,
        (false, _, true) => EffectKind::Begun,
        (true, false, _) => EffectKind::ReadAgain,
        (false, _, false) => EffectKind::Skipped,
    };
    let from = is_cleaned_up.then_some(Position::ShardEnd);
    let to = Some(place.position.clone());
    plan.effects.push(Effect { shard_id: shard.shard_id.clone(), kind, from, to, span_millis: None });
}

/// Changes the row of a shard.
fn set_row(
    situation: &Situation<'_>,
    plan: &mut Plan,
    row: &Lease,
    place: &Place,
    children: BTreeSet<ShardId>,
    is_live: bool,
) {
    let shard_id = row.shard_id.clone();
    let before = Place::new(row.checkpoint.clone(), row.initial_time_millis);
    // The instant of a position that is a record has no meaning.
    let is_so = row.checkpoint == place.position
        && (before.initial_time_millis == place.initial_time_millis
            || matches!(place.position, Position::After(_) | Position::ShardEnd));
    if is_so {
        plan.notes.push(Note::AlreadySo { shard_id });
        return;
    }
    let (expected, change) = match situation.access(row, is_live) {
        Access::Direct => {
            let change = Change::SetPosition {
                position: place.position.clone(),
                initial_time_millis: place.initial_time_millis,
                children: if place.position.is_shard_end() { children } else { BTreeSet::new() },
            };
            (Expected::unchanged(row), change)
        }
        Access::Ask => {
            let (position, initial_time_millis) = (place.position.clone(), place.initial_time_millis);
            let request = OperatorRequest::Reset { position, initial_time_millis };
            (Expected::same_owner(row), Change::Ask(request))
        }
        Access::Refused(refusal) => {
            plan.refusals.push(refusal);
            // The change is shown all the same; the refusal keeps it from being made.
            let change = Change::SetPosition {
                position: place.position.clone(),
                initial_time_millis: place.initial_time_millis,
                children: BTreeSet::new(),
            };
            (Expected::unchanged(row), change)
        }
    };
    let unread = situation.unread_from_millis(&shard_id);
    let (kind, span_millis) = effect(&before, place, unread, situation.look.taken_at_millis);
    if kind != EffectKind::Nothing {
        let (from, to) = (Some(row.checkpoint.clone()), Some(place.position.clone()));
        plan.effects.push(Effect { shard_id: shard_id.clone(), kind, from, to, span_millis });
    }
    plan.changes.push(RowChange { shard_id, expected, change });
}
