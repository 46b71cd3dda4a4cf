//! Live processes under this worker's own id: which leases of its name belong to another process. Pure decisions.

use std::collections::{HashMap, HashSet};

use lease_store::{Lease, LeaseVersion, ShardId, WorkerId};

/// The process that the row of a lease names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerProcess {
    /// None: the lease was handed over to this name, or its owner is a KCL worker.
    Unnamed,
    /// This process: an earlier take of unknown outcome was applied, or it lost the lease without a new owner.
    This,
    /// Another process, which does not run any more as far as this host can tell.
    Gone,
    /// Another process, which may run.
    Other,
}

/// What this process knows about other processes under its worker id.
///
/// This process may take a lease of its own name again only if no other live process can hold it. Otherwise both processes
/// would fence each other in every round. A lease that another process may hold is left alone like that of any other owner:
/// it is free once it has not changed for the fail-over time.
#[derive(Debug, Default)]
pub(crate) struct Namesakes {
    has_looked: bool,
    /// The leases of a predecessor that was gone at the first look. Each can be taken at once, as long as its row does not
    /// change.
    of_predecessor: HashMap<ShardId, LeaseVersion>,
    /// Leases that another process of this name took from this one.
    lost: HashSet<ShardId>,
    /// The leases of namesakes at the last look.
    last_seen: HashMap<ShardId, Row>,
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    counter: u64,
    owner_process: Option<String>,
}

/// The result of one look at the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look<'a> {
    /// The shards whose leases belong to another process of this name.
    pub(crate) shards: HashSet<ShardId>,
    /// The leases of these shards that the other process has renewed since the last look, so it is alive.
    pub(crate) renewed: Vec<&'a Lease>,
}

impl Namesakes {
    /// Looks at a listing. `process_of` returns the process that wrote a row with the name of this worker.
    pub(crate) fn look<'a>(
        &mut self,
        leases: &'a [Lease],
        worker_id: &WorkerId,
        is_held: impl Fn(&ShardId) -> bool,
        process_of: impl Fn(&Lease) -> OwnerProcess,
    ) -> Look<'a> {
        let mut look = Look::default();
        let last_seen = std::mem::take(&mut self.last_seen);
        let lost = std::mem::take(&mut self.lost);
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        for lease in leases {
            let shard_id = &lease.shard_id;
            let is_unheld = lease.is_owned_by(worker_id)
                && lease.checkpoint_owner.is_none()
                && !lease.is_finished()
                && !is_held(shard_id);
            if !is_unheld {
                continue;
            }
            let process = process_of(lease);
            if is_first && process == OwnerProcess::Gone {
                self.of_predecessor.insert(shard_id.clone(), lease.version());
            }
            let is_untouched = self.of_predecessor.get(shard_id).is_some_and(|seen| seen.matches(lease));
            let is_own = match process {
                OwnerProcess::Unnamed | OwnerProcess::This => !lost.contains(shard_id),
                OwnerProcess::Gone => is_untouched,
                OwnerProcess::Other => false,
            };
            if is_own {
                continue;
            }
            let row = Row { counter: lease.counter, owner_process: lease.owner_process.clone() };
            let before = last_seen.get(shard_id);
            if before.is_some_and(|before| {
                before.owner_process == row.owner_process && before.counter != row.counter
            }) {
                look.renewed.push(lease);
            }
            if lost.contains(shard_id) {
                self.lost.insert(shard_id.clone());
            }
            look.shards.insert(shard_id.clone());
            self.last_seen.insert(shard_id.clone(), row);
        }
        look
    }

    /// Records that another process of this name took a lease from this one.
    pub(crate) fn record_loss(&mut self, shard_id: &ShardId) {
        self.lost.insert(shard_id.clone());
    }
}

/// Whether another process of this name took the lease after it was handed over to this name.
pub(crate) fn is_taken_by_namesake(process: OwnerProcess) -> bool {
    matches!(process, OwnerProcess::Gone | OwnerProcess::Other)
}

#[cfg(test)]
mod tests {
    use lease_store::{LeaseChange, LeaseFacts, Position};

    use super::*;

    fn me() -> WorkerId {
        WorkerId::new("me").unwrap()
    }

    fn taken_by(process: Option<&str>) -> Lease {
        let lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        let facts = LeaseFacts { owner_process: process.map(str::to_owned), ..LeaseFacts::default() };
        LeaseChange::Take { owner: me(), facts }.apply(&lease)
    }

    /// Looks at one lease that this process does not hold. Returns whether the lease belongs to a namesake, and whether the
    /// namesake has renewed it.
    fn look(namesakes: &mut Namesakes, lease: &Lease) -> (bool, bool) {
        let process_of = |lease: &Lease| match lease.owner_process.as_deref() {
            None => OwnerProcess::Unnamed,
            Some("this") => OwnerProcess::This,
            Some("gone") => OwnerProcess::Gone,
            Some(_) => OwnerProcess::Other,
        };
        let look = namesakes.look(std::slice::from_ref(lease), &me(), |_| false, process_of);
        (look.shards.contains(&lease.shard_id), !look.renewed.is_empty())
    }

    fn renewed(lease: &Lease) -> Lease {
        LeaseChange::Renew.apply(lease)
    }

    #[test]
    fn leases_of_a_dead_predecessor_are_own_at_first_look() {
        let mut namesakes = Namesakes::default();
        let lease = taken_by(Some("gone"));
        assert_eq!(look(&mut namesakes, &lease), (false, false));
        assert_eq!(look(&mut namesakes, &lease), (false, false), "a take that failed can be tried again");
        assert_eq!(look(&mut namesakes, &renewed(&lease)), (true, false), "it was not dead after all");
        assert_eq!(look(&mut namesakes, &renewed(&renewed(&lease))), (true, true));
    }

    #[test]
    fn a_later_lease_of_a_dead_process_is_left_alone() {
        let mut namesakes = Namesakes::default();
        let held = Lease { owner: None, ..taken_by(None) };
        assert_eq!(look(&mut namesakes, &held), (false, false));
        assert_eq!(look(&mut namesakes, &taken_by(Some("gone"))), (true, false));
    }

    #[test]
    fn a_lease_of_a_live_namesake_is_left_alone() {
        let mut namesakes = Namesakes::default();
        let lease = taken_by(Some("other"));
        assert_eq!(look(&mut namesakes, &lease), (true, false), "it may be dead");
        assert_eq!(look(&mut namesakes, &lease), (true, false));
        assert_eq!(look(&mut namesakes, &renewed(&lease)), (true, true), "it lives");
        assert_eq!(look(&mut namesakes, &taken_by(Some("third"))), (true, false), "another one took it");
    }

    #[test]
    fn an_unnamed_or_own_lease_is_taken_until_it_is_lost() {
        for process in [None, Some("this")] {
            let mut namesakes = Namesakes::default();
            let lease = taken_by(process);
            assert_eq!(look(&mut namesakes, &lease), (false, false));
            namesakes.record_loss(&lease.shard_id);
            assert_eq!(look(&mut namesakes, &lease), (true, false), "a process that keeps the attribute");
            assert_eq!(look(&mut namesakes, &renewed(&lease)), (true, true));
            let given_up = Lease { owner: None, ..lease.clone() };
            assert_eq!(look(&mut namesakes, &given_up), (false, false));
            assert_eq!(look(&mut namesakes, &lease), (false, false), "handed over to this name");
        }
    }

    #[test]
    fn held_and_finished_leases_are_never_a_namesakes() {
        let mut namesakes = Namesakes::default();
        let lease = taken_by(Some("other"));
        let held = namesakes.look(std::slice::from_ref(&lease), &me(), |_| true, |_| OwnerProcess::Other);
        assert_eq!(held, Look::default());
        let finished = Lease { checkpoint: Position::ShardEnd, ..lease.clone() };
        assert_eq!(look(&mut namesakes, &finished), (false, false));
        let other_owner = Lease { owner: Some(WorkerId::new("you").unwrap()), ..lease };
        assert_eq!(look(&mut namesakes, &other_owner), (false, false));
    }
}
