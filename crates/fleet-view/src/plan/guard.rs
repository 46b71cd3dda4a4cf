//! Which rows may be changed directly, by asking their owner, or not at all. Pure.

use std::collections::BTreeMap;

use lease_store::{Lease, ShardId, WorkerId};

use crate::history::{History, Renewal};
use crate::lineage::Lineage;
use crate::look::{FleetMode, Look};
use crate::owner_process::OwnerProcess;
use crate::plan::planned::Plan;
use crate::plan::refusal::Refusal;

/// What a plan is made from: the newest look, and the history that it was added to.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The newest look.
    pub look: &'a Look,
    /// The looks up to it.
    pub history: &'a History,
}

/// How a row may be changed.
pub(crate) enum Access {
    /// No live worker owns it.
    Direct,
    /// Its live owner understands requests.
    Ask,
    /// Not at all.
    Refused(Refusal),
}

impl Situation<'_> {
    /// A plan without changes, refused if look and history do not belong together.
    pub(crate) fn plan(&self) -> Plan {
        let mut plan = Plan {
            application: self.look.application.clone(),
            decided_at_millis: self.look.taken_at_millis,
            ..Plan::default()
        };
        let newest = self.history.snapshot();
        let is_of_look = newest.is_some_and(|newest| {
            newest.taken_at_millis == self.look.taken_at_millis && newest.application == self.look.application
        });
        if !is_of_look {
            plan.refusals.push(Refusal::HistoryOfOtherLook);
        }
        plan
    }

    pub(crate) fn lineage(&self) -> Lineage {
        Lineage::of(self.look)
    }

    /// How the row of a lease may be changed. Not the shard alone matters: a worker that is alive writes any row of its fleet.
    pub(crate) fn access(&self, lease: &Lease, is_live: bool) -> Access {
        let shard_id = lease.shard_id.clone();
        let notes = self.look.notes.get(&shard_id);
        if notes.is_some_and(|notes| notes.request.is_some()) {
            return Access::Refused(Refusal::RequestPending { shard_id });
        }
        if lease.checkpoint_owner.is_some() {
            return Access::Refused(Refusal::HandOverUnderWay { shard_id });
        }
        let Some(owner) = &lease.owner else { return Access::Direct };
        if is_live && lease.is_finished() && OwnerProcess::of(lease).is_some() {
            // The worker that read the shard to its end stays in the row. It holds the lease no more, so it can carry out no
            // request, and it never writes the row again.
            return Access::Direct;
        }
        match self.history.renewal(&shard_id) {
            Renewal::Silent => Access::Direct,
            Renewal::Renewing | Renewal::Unowned | Renewal::Unknown
                if is_live && OwnerProcess::of(lease).is_some() =>
            {
                Access::Ask
            }
            Renewal::Renewing if !is_live => Access::Refused(Refusal::WorkerRenews {
                worker_id: owner.clone(),
                leases: self.leases_of(owner),
            }),
            Renewal::Unowned | Renewal::Unknown if !is_live => Access::Refused(Refusal::WorkerMayRenew {
                worker_id: owner.clone(),
                leases: self.leases_of(owner),
            }),
            Renewal::Renewing | Renewal::Unowned | Renewal::Unknown => {
                Access::Refused(Refusal::OwnerCannotBeAsked { shard_id, worker_id: owner.clone() })
            }
        }
    }

    fn leases_of(&self, worker_id: &WorkerId) -> usize {
        self.look.leases.iter().filter(|lease| lease.is_owned_by(worker_id)).count()
    }

    /// Workers that renew leases, or may.
    pub(crate) fn live_workers(&self) -> Vec<Refusal> {
        let mut workers: BTreeMap<&WorkerId, (usize, bool)> = BTreeMap::new();
        for lease in &self.look.leases {
            let Some(owner) = &lease.owner else { continue };
            let renewal = self.history.renewal(&lease.shard_id);
            if renewal != Renewal::Silent {
                let (leases, renews) = workers.entry(owner).or_default();
                *leases += 1;
                *renews |= renewal == Renewal::Renewing;
            }
        }
        let refusal = |(worker_id, (leases, renews)): (&WorkerId, (usize, bool))| {
            let worker_id = worker_id.clone();
            if renews {
                Refusal::WorkerRenews { worker_id, leases }
            } else {
                Refusal::WorkerMayRenew { worker_id, leases }
            }
        };
        workers.into_iter().map(refusal).collect()
    }

    /// Whether a worker of the KCL may own leases of this table, now or soon.
    pub(crate) fn has_kcl_workers(&self) -> bool {
        let mut owned = self.look.leases.iter().filter(|lease| lease.owner.is_some() && !lease.is_finished());
        self.look.mode == FleetMode::LeaderAssigns
            || !self.look.workers.is_empty()
            || owned.any(|lease| OwnerProcess::of(lease).is_none())
    }

    /// Rows that cannot be read, as refusals.
    pub(crate) fn malformed(&self) -> impl Iterator<Item = Refusal> {
        self.look.malformed.iter().map(|row| Refusal::MalformedRow { key: row.key.clone() })
    }

    /// Rows of another stream, as refusals.
    pub(crate) fn other_stream(&self) -> Option<Refusal> {
        let expected = self.look.identity()?;
        let mut streams = self.look.leases.iter().filter_map(|lease| lease.stream.as_ref());
        let found = streams.find(|stream| *stream != expected)?;
        Some(Refusal::OtherStream { expected: expected.clone(), found: found.clone() })
    }

    /// The earliest time at which the first unread record of a shard can have arrived, in milliseconds since 1970. `None`: not
    /// known.
    pub(crate) fn unread_from_millis(&self, shard_id: &ShardId) -> Option<u64> {
        let snapshot = self.history.snapshot()?;
        let shard = snapshot.shard(shard_id)?;
        let now_millis = snapshot.taken_at_millis;
        match snapshot.behind_millis(shard)? {
            // Records may have arrived since the measurement.
            0 => shard.lag.as_ref().map(|lag| lag.measured_at_millis.min(now_millis)),
            behind => Some(now_millis.saturating_sub(behind)),
        }
    }
}
