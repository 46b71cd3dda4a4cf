//! Plans who reads a shard: a certain worker, or any other than its owner. Pure.

use std::collections::BTreeSet;

use lease_store::{ShardId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::history::Renewal;
use crate::look::FleetMode;
use crate::plan::change::{Change, Expected, RowChange};
use crate::plan::guard::{Access, Situation};
use crate::plan::planned::Plan;
use crate::plan::refusal::{Note, Refusal};
use crate::request::OperatorRequest;

/// How a shard is to be assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AssignOptions {
    /// Whether a worker is accepted that renews no lease. A worker without leases leaves no trace in the table.
    pub accepts_unknown_worker: bool,
}

/// Plans that a worker reads a shard. A live owner is asked to hand the shard over, so no record is read twice; the request is
/// one that the workers of this library carry out anyway, so no `live` is needed.
pub fn assign(
    situation: &Situation<'_>,
    shard_id: &ShardId,
    worker_id: &WorkerId,
    options: AssignOptions,
) -> Plan {
    let mut plan = situation.plan();
    let look = situation.look;
    if look.mode == FleetMode::LeaderAssigns {
        plan.refusals.push(Refusal::LeaderAssigns);
    }
    let renews = look.leases.iter().any(|lease| {
        lease.is_owned_by(worker_id) && situation.history.renewal(&lease.shard_id) == Renewal::Renewing
    });
    if !renews && !options.accepts_unknown_worker {
        plan.refusals.push(Refusal::UnknownWorker { worker_id: worker_id.clone() });
    }
    let shard_id = shard_id.clone();
    let Some(lease) = look.lease(&shard_id) else {
        let is_listed = look.listed().contains_key(&shard_id);
        plan.refusals.push(if is_listed {
            Refusal::NoRow { shard_id }
        } else {
            Refusal::UnknownShard { shard_id }
        });
        return plan;
    };
    if lease.is_finished() {
        plan.refusals.push(Refusal::ShardEnded { shard_id });
        return plan;
    }
    if lease.is_owned_by(worker_id) {
        plan.notes.push(Note::AlreadySo { shard_id });
        return plan;
    }
    let worker = worker_id.clone();
    let (expected, change) = match situation.access(lease, true) {
        Access::Refused(refusal) => {
            plan.refusals.push(refusal);
            return plan;
        }
        Access::Ask => {
            let instead_of = lease.requested_by.clone();
            (Expected::same_owner(lease), Change::RequestFor { worker_id: worker, instead_of })
        }
        Access::Direct => {
            plan.notes.push(Note::MustTakeUp { shard_id: shard_id.clone(), worker_id: worker.clone() });
            (Expected::unchanged(lease), Change::GiveTo { worker_id: worker })
        }
    };
    plan.changes.push(RowChange { shard_id, expected, change });
    plan
}

/// Plans that the owners of some shards release them, so that any worker can take them. `None`: all shards.
pub fn release(situation: &Situation<'_>, shards: Option<&BTreeSet<ShardId>>, is_live: bool) -> Plan {
    let mut plan = situation.plan();
    let look = situation.look;
    for shard_id in shards.into_iter().flatten() {
        if look.lease(shard_id).is_none() {
            let shard_id = shard_id.clone();
            plan.refusals.push(match look.listed().contains_key(&shard_id) {
                true => Refusal::NoRow { shard_id },
                false => Refusal::UnknownShard { shard_id },
            });
        }
    }
    let leases =
        look.leases.iter().filter(|lease| shards.is_none_or(|shards| shards.contains(&lease.shard_id)));
    for lease in leases.filter(|lease| shards.is_some() || !lease.is_finished()) {
        let shard_id = lease.shard_id.clone();
        if lease.owner.is_none() {
            plan.notes.push(Note::AlreadySo { shard_id });
            continue;
        }
        let (expected, change) = match situation.access(lease, is_live) {
            Access::Direct => (Expected::unchanged(lease), Change::Release),
            Access::Ask => (Expected::same_owner(lease), Change::Ask(OperatorRequest::Release)),
            Access::Refused(refusal) => {
                plan.refusals.push(refusal);
                continue;
            }
        };
        plan.changes.push(RowChange { shard_id, expected, change });
    }
    plan.refusals.sort();
    plan.refusals.dedup();
    plan
}
