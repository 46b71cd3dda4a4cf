//! Plans that shards are not read for a while, and that they are read again. Pure.
//!
//! A pause is kept in the row, so it survives its owner. A live owner stops at a batch boundary and releases the lease, which no worker of this library takes
//! until the pause is over.

use std::collections::BTreeSet;

use lease_store::{Lease, ShardId};

use crate::history::Renewal;
use crate::owner_process::OwnerProcess;
use crate::plan::change::{Change, Expected, RowChange};
use crate::plan::guard::Situation;
use crate::plan::planned::Plan;
use crate::plan::refusal::{Note, Refusal};
use crate::request::Pause;

/// Plans a pause of some shards; `None`: of all.
pub fn pause(situation: &Situation<'_>, shards: Option<&BTreeSet<ShardId>>, pause: &Pause) -> Plan {
    let mut plan = situation.plan();
    let now_millis = situation.look.taken_at_millis;
    if let Some(until_millis) = pause.until_millis.filter(|until| *until <= now_millis) {
        plan.refusals.push(Refusal::PauseInPast { until_millis });
    }
    for lease in leases(situation, &mut plan, shards) {
        let shard_id = lease.shard_id.clone();
        let is_owned_live = lease.owner.is_some() && situation.history.renewal(&shard_id) != Renewal::Silent;
        if let Some(worker_id) =
            lease.owner.clone().filter(|_| is_owned_live && OwnerProcess::of(lease).is_none())
        {
            plan.refusals.push(Refusal::OwnerCannotBeAsked { shard_id, worker_id });
            continue;
        }
        let present = note_of(situation, &shard_id);
        if present == Some(pause) {
            plan.notes.push(Note::AlreadySo { shard_id });
            continue;
        }
        plan.notes.extend(outlasted(situation, &shard_id, pause));
        let expected = Expected::same_owner(lease);
        let change = Change::Pause { pause: pause.clone(), instead_of: present.cloned() };
        plan.changes.push(RowChange { shard_id, expected, change });
    }
    if situation.has_kcl_workers() {
        plan.notes.push(Note::KclIgnoresPauses);
    }
    plan
}

/// Plans the end of all pauses of some shards; `None`: of all.
pub fn resume(situation: &Situation<'_>, shards: Option<&BTreeSet<ShardId>>) -> Plan {
    let mut plan = situation.plan();
    for lease in leases(situation, &mut plan, shards) {
        let shard_id = lease.shard_id.clone();
        match note_of(situation, &shard_id) {
            Some(pause) => {
                let (expected, change) =
                    (Expected::same_owner(lease), Change::Resume { pause: pause.clone() });
                plan.changes.push(RowChange { shard_id, expected, change });
            }
            None if shards.is_some() => plan.notes.push(Note::AlreadySo { shard_id }),
            None => {}
        }
    }
    plan
}

/// The rows of the named shards that are not ended. Names without one are refused.
fn leases<'a>(
    situation: &Situation<'a>,
    plan: &mut Plan,
    shards: Option<&BTreeSet<ShardId>>,
) -> Vec<&'a Lease> {
    let look = situation.look;
    let (rows, listed) = (look.rows(), look.listed());
    for shard_id in shards.into_iter().flatten() {
        let shard_id = shard_id.clone();
        match rows.get(&shard_id) {
            Some(row) if row.is_finished() => plan.refusals.push(Refusal::ShardEnded { shard_id }),
            Some(_) => {}
            None if listed.contains_key(&shard_id) => plan.refusals.push(Refusal::NoRow { shard_id }),
            None => plan.refusals.push(Refusal::UnknownShard { shard_id }),
        }
    }
    let is_named = |lease: &&Lease| shards.is_none_or(|shards| shards.contains(&lease.shard_id));
    look.leases.iter().filter(|lease| !lease.is_finished()).filter(is_named).collect()
}

fn note_of<'a>(situation: &Situation<'a>, shard_id: &ShardId) -> Option<&'a Pause> {
    situation.look.notes.get(shard_id)?.pause.as_ref()
}

/// Whether records are lost before a pause ends.
fn outlasted(situation: &Situation<'_>, shard_id: &ShardId, pause: &Pause) -> Option<Note> {
    let now_millis = situation.look.taken_at_millis;
    let retention = situation.look.stream.as_ref()?.retention_millis;
    // Without a waiting record, one may arrive right now.
    let unread_from = situation.unread_from_millis(shard_id).unwrap_or(now_millis);
    let lost_in_millis = retention.saturating_sub(now_millis.saturating_sub(unread_from));
    let lasts = pause.until_millis.is_none_or(|until| until.saturating_sub(now_millis) >= lost_in_millis);
    lasts.then(|| Note::PauseOutlastsRetention { shard_id: shard_id.clone(), lost_in_millis })
}
