//! The leases as one worker sees them: who is there, what counts for whom, and what can be had.

use std::collections::{BTreeSet, HashMap, HashSet};

use lease_store::{ShardId, WorkerId};

use super::{AssignmentLimits, Holdings, ObservedLease};

/// A request that stands for this many times the longest time an answer may take is stale: whoever left it would have
/// taken the lease by itself by then, if it were still there.
const STALE_AFTER_ANSWER_TIMES: u32 = 2;

/// The place of this worker in [`FleetView::workers`].
pub(super) const ME: usize = 0;

/// One worker, and what counts for it.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    /// Its name as it stands in a row; this worker may stand in none.
    id: Option<&'a WorkerId>,
    /// How many leases with work it holds or has asked for, without those that others have asked it for.
    pub(super) load: usize,
    /// The summed weight of those.
    pub(super) weight: u64,
    /// Those it can be asked for: not asked for yet, not owned for too short a time.
    pub(super) movable: Vec<ObservedLease<'a>>,
    has_offered: bool,
    has_not_offered: bool,
    has_asked: bool,
}

impl<'a> Worker<'a> {
    fn new(id: Option<&'a WorkerId>) -> Self {
        Self {
            id,
            load: 0,
            weight: 0,
            movable: Vec::new(),
            has_offered: false,
            has_not_offered: false,
            has_asked: false,
        }
    }

    /// All it has is on offer: it stops, and nothing counts for it any more.
    fn is_leaving(&self) -> bool {
        self.has_offered && !self.has_not_offered && !self.has_asked
    }
}

/// The leases, sorted by what can be done with them.
pub(super) struct FleetView<'a> {
    /// Everybody whom a row names and who is alive; this worker is at [`ME`].
    pub(super) workers: Vec<Worker<'a>>,
    /// The places of the workers among whom the work is divided, in the order of their names, which is the same for
    /// all. If the others cannot see this worker yet, it comes last: their deals do not know of it.
    pub(super) order: Vec<usize>,
    /// How many leases there are with work.
    pub(super) work: usize,
    /// Others can see that this worker is there.
    pub(super) is_visible: bool,
    /// How many leases this worker holds, or gets when what is under way comes.
    pub(super) occupied: usize,
    /// How many leases of live workers are on their way to this one.
    pub(super) under_way: usize,
    /// In this worker's name, but not held by this process: handed over to it, or from before a restart, or from a
    /// take that was never confirmed.
    pub(super) leftovers: Vec<ObservedLease<'a>>,
    /// Asked for by this worker, and not answered in time. They count as under way.
    pub(super) overdue: Vec<ObservedLease<'a>>,
    /// Nobody's: unowned, or not renewed for the fail-over time. In the order of their shards.
    pub(super) free: Vec<ObservedLease<'a>>,
    /// On offer by a worker that is leaving, and not asked for. In the order of their shards.
    pub(super) offered: Vec<ObservedLease<'a>>,
}

/// Those whom a row names and who are alive, as places in the list of workers.
#[derive(Debug, Clone, Copy)]
struct Parties {
    owner: Option<usize>,
    /// Left a request that is not stale. Where KCL 3.x hands a lease over, a request means nothing.
    requester: Option<usize>,
    /// The owner, if KCL 3.x is handing the lease over to it. That is left to KCL 3.x.
    kcl_target: Option<usize>,
}

impl<'a> FleetView<'a> {
    pub(super) fn new(
        leases: &[ObservedLease<'a>],
        holdings: &Holdings<'_>,
        limits: &AssignmentLimits,
    ) -> Self {
        let (workers, parties) = roll_call(leases, holdings.worker_id, limits);
        let unfinished_parents = unfinished_parents(leases);
        let mut view = Self {
            workers,
            order: Vec::new(),
            work: 0,
            is_visible: !holdings.held.is_empty() || !holdings.requested.is_empty(),
            occupied: 0,
            under_way: 0,
            leftovers: Vec::new(),
            overdue: Vec::new(),
            free: Vec::new(),
            offered: Vec::new(),
        };
        for (observed, parties) in leases.iter().zip(parties) {
            view.is_visible |= parties.owner == Some(ME) || parties.requester == Some(ME);
            if !observed.lease.is_finished() {
                let is_ready = observed.lease.parents.is_disjoint(&unfinished_parents);
                if holdings.held.contains(&observed.lease.shard_id) {
                    view.count_held(*observed, parties);
                } else {
                    view.sort_in(*observed, parties, is_ready, holdings, limits);
                }
            }
        }
        // Whatever order the listing had, all workers have to deal in the same one.
        view.free.sort_unstable_by_key(|observed| &observed.lease.shard_id);
        view.offered.sort_unstable_by_key(|observed| &observed.lease.shard_id);
        view.order = (0..view.workers.len()).filter(|index| !view.workers[*index].is_leaving()).collect();
        let workers = &view.workers;
        view.order.sort_unstable_by_key(|index| (workers[*index].id.is_none(), workers[*index].id));
        view
    }

    /// A lease that this process holds, but counts for whoever is to have it.
    fn count_held(&mut self, observed: ObservedLease<'a>, parties: Parties) {
        self.occupied += 1;
        self.count(observed, parties.requester.or(parties.kcl_target).unwrap_or(ME));
    }

    fn sort_in(
        &mut self,
        observed: ObservedLease<'a>,
        parties: Parties,
        is_ready: bool,
        holdings: &Holdings<'_>,
        limits: &AssignmentLimits,
    ) {
        let lease = observed.lease;
        if let Some(target) = parties.kcl_target {
            self.occupied += usize::from(target == ME);
            self.count(observed, target);
        } else if lease.is_owned_by(holdings.worker_id) && lease.checkpoint_owner.is_none() {
            // It counts for this worker once it is clear that there is room for it.
            self.work += usize::from(is_ready);
            self.leftovers.extend(is_ready.then_some(observed));
        } else if let Some(owner) = parties.owner {
            if parties.requester == Some(ME) {
                self.count_as_under_way(observed);
                let answer_time = if lease.is_offered() { limits.drain_time } else { limits.hand_over_time };
                self.overdue.extend((is_ready && observed.requested_for >= answer_time).then_some(observed));
            } else if let Some(requester) = parties.requester {
                self.count(observed, requester);
            } else if holdings.requested.contains(&lease.shard_id) {
                self.count_as_under_way(observed);
            } else if self.workers[owner].is_leaving() {
                self.work += usize::from(is_ready);
                self.offered.extend(is_ready.then_some(observed));
            } else {
                self.count(observed, owner);
                let has_settled = observed.owned_for.is_none_or(|age| age >= limits.failover_time);
                self.workers[owner].movable.extend((is_ready && has_settled).then_some(observed));
            }
        } else {
            self.work += usize::from(is_ready);
            self.free.extend(is_ready.then_some(observed));
        }
    }

    fn count(&mut self, observed: ObservedLease<'a>, worker: usize) {
        self.work += 1;
        self.add_load(observed, worker);
    }

    fn count_as_under_way(&mut self, observed: ObservedLease<'a>) {
        self.occupied += 1;
        self.under_way += 1;
        self.count(observed, ME);
    }

    /// From here on a lease that is already part of the work counts for this worker.
    pub(super) fn add_load(&mut self, observed: ObservedLease<'a>, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.load += 1;
        worker.weight = worker.weight.saturating_add(observed.weight);
    }

    /// The loads of the workers among whom the work is divided, in their order.
    pub(super) fn loads(&self) -> Vec<usize> {
        self.order.iter().map(|index| self.workers[*index].load).collect()
    }
}

/// The parents that occur in the leases and are not read to their end.
fn unfinished_parents<'a>(leases: &[ObservedLease<'a>]) -> BTreeSet<ShardId> {
    let parents: HashSet<&ShardId> = leases.iter().flat_map(|observed| &observed.lease.parents).collect();
    if parents.is_empty() {
        return BTreeSet::new();
    }
    let unfinished = leases.iter().map(|observed| observed.lease).filter(|lease| !lease.is_finished());
    unfinished.map(|lease| &lease.shard_id).filter(|shard_id| parents.contains(shard_id)).cloned().collect()
}

/// Who is there, and whom each row names.
fn roll_call<'a>(
    leases: &[ObservedLease<'a>],
    me: &WorkerId,
    limits: &AssignmentLimits,
) -> (Vec<Worker<'a>>, Vec<Parties>) {
    let stale_after = limits.hand_over_time.max(limits.drain_time) * STALE_AFTER_ANSWER_TIMES;
    let mut workers = vec![Worker::new(None)];
    // Whatever it has agreed to give away, it plans, so it is not leaving.
    workers[ME].has_not_offered = true;
    let mut places: HashMap<&WorkerId, usize> = HashMap::new();
    let mut place_of = |id: &'a WorkerId, workers: &mut Vec<Worker<'a>>| {
        if id == me {
            workers[ME].id = Some(id);
            return ME;
        }
        *places.entry(id).or_insert_with(|| {
            workers.push(Worker::new(Some(id)));
            workers.len() - 1
        })
    };
    let parties = leases.iter().map(|observed| {
        let lease = observed.lease;
        if lease.is_finished() {
            // Such a row keeps the name of its last owner for ever.
            return Parties { owner: None, requester: None, kcl_target: None };
        }
        let owner = lease.owner.as_ref().filter(|_| observed.unchanged_for < limits.failover_time);
        let owner = owner.map(|owner| {
            let place = place_of(owner, &mut workers);
            let has_offered = lease.is_offered() && lease.checkpoint_owner.is_none();
            workers[place].has_offered |= has_offered;
            workers[place].has_not_offered |= !has_offered;
            place
        });
        let requester = lease.hand_over_target().filter(|_| lease.checkpoint_owner.is_none());
        let requester = requester.filter(|_| observed.requested_for < stale_after).map(|requester| {
            let place = place_of(requester, &mut workers);
            workers[place].has_asked = true;
            place
        });
        Parties { owner, requester, kcl_target: owner.filter(|_| lease.checkpoint_owner.is_some()) }
    });
    let parties = parties.collect();
    (workers, parties)
}
