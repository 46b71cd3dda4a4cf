//! The leases as one worker sees them: which workers are alive, which lease counts for which worker, and which leases are
//! free, offered or movable.

use std::collections::{BTreeSet, HashMap, HashSet};

use lease_store::{ShardId, WorkerId};
use tokio::time::Duration;

use crate::assignment::lease_observations::ObservedLease;

/// A request is stale after this many times the longest answer time: a live requester would have taken the lease by then.
const STALE_AFTER_ANSWER_TIMES: u32 = 2;

/// The index of this worker in [`FleetView::workers`].
pub(super) const ME: usize = 0;

/// The bounds of a plan.
#[derive(Debug, Clone, Copy)]
pub struct AssignmentLimits {
    /// How long an owned lease may stay unchanged before it is free. It is also how long a lease stays with a new owner
    /// before it may move again.
    pub failover_time: Duration,
    /// How long an owner that has not agreed to a request may take to answer it.
    pub hand_over_time: Duration,
    /// How long an owner that has agreed to a request may take to finish its work and hand the lease over.
    pub drain_time: Duration,
    /// The most leases this worker holds.
    pub max_leases: usize,
    /// The most requests for leases of live workers that are in flight at the same time.
    pub max_moves: usize,
    /// The most free leases taken in one plan. Leases that were handed over to this worker do not count.
    pub max_takes: usize,
}

/// The leases that this process holds and has requested.
#[derive(Debug, Clone, Copy)]
pub struct Holdings<'a> {
    /// The name of this worker.
    pub worker_id: &'a WorkerId,
    /// The shards whose leases it holds.
    pub held: &'a HashSet<ShardId>,
    /// The shards whose leases it has requested, until the outcome of the request is known.
    pub requested: &'a HashSet<ShardId>,
}

/// One live worker, and the leases that count for it.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    /// Its name as in a row. `None`: no row names it, which is possible for this worker alone.
    id: Option<&'a WorkerId>,
    /// How many leases with work it holds or has requested, without those that others have requested from it.
    pub(super) load: usize,
    /// The summed weight of those leases.
    pub(super) weight: u64,
    /// The leases that can be requested from it: not requested yet, and owned for the fail-over time.
    pub(super) movable: Vec<ObservedLease<'a>>,
    has_offered: bool,
    has_not_offered: bool,
    has_requested: bool,
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
            has_requested: false,
        }
    }

    /// It has offered all its leases, because it stops: nothing counts for it any more.
    fn is_leaving(&self) -> bool {
        self.has_offered && !self.has_not_offered && !self.has_requested
    }
}

/// The live workers, and the leases sorted into held, incoming, free, offered and movable ones.
pub(super) struct FleetView<'a> {
    /// The live workers that a row names. This worker is at [`ME`].
    pub(super) workers: Vec<Worker<'a>>,
    /// The indexes of the workers that share the work, in the order of their names, which is the same for all workers.
    /// If the others cannot see this worker yet, it comes last: their distributions do not include it.
    pub(super) order: Vec<usize>,
    /// How many leases have work.
    pub(super) work: usize,
    /// Whether a row names this worker, so that the others can see it.
    pub(super) is_visible: bool,
    /// Leases this worker holds plus those it has requested and not yet received.
    pub(super) occupied: usize,
    /// Leases this worker has requested from live workers and not yet received.
    pub(super) incoming: usize,
    /// Leases owned by this worker and not held by any live process: handed over to it, owned before a restart, or taken by
    /// a write that was never confirmed.
    pub(super) own_unheld: Vec<ObservedLease<'a>>,
    /// Leases whose owners did not answer this worker's requests in time. They count as incoming.
    pub(super) overdue: Vec<ObservedLease<'a>>,
    /// Leases without an owner, or not renewed for the fail-over time. In the order of their shards.
    pub(super) free: Vec<ObservedLease<'a>>,
    /// Leases that a leaving worker offers and no worker has requested. In the order of their shards.
    pub(super) offered: Vec<ObservedLease<'a>>,
}

/// The live workers that a row names, as indexes into the list of workers.
#[derive(Debug, Clone, Copy)]
struct NamedWorkers {
    owner: Option<usize>,
    /// The worker whose request on the row is not stale. During a hand-over of KCL 3.x requests do not count.
    requester: Option<usize>,
    /// The owner, if KCL 3.x is handing the lease over to it. Such a lease is left to KCL 3.x.
    kcl_target: Option<usize>,
}

impl<'a> FleetView<'a> {
    pub(super) fn new(
        leases: &[ObservedLease<'a>],
        holdings: &Holdings<'_>,
        limits: &AssignmentLimits,
    ) -> Self {
        let (workers, named) = live_workers(leases, holdings.worker_id, limits);
        let unfinished_parents = unfinished_parents(leases);
        let mut view = Self {
            workers,
            order: Vec::new(),
            work: 0,
            is_visible: !holdings.held.is_empty() || !holdings.requested.is_empty(),
            occupied: 0,
            incoming: 0,
            own_unheld: Vec::new(),
            overdue: Vec::new(),
            free: Vec::new(),
            offered: Vec::new(),
        };
        for (observed, named) in leases.iter().zip(named) {
            view.is_visible |= named.owner == Some(ME) || named.requester == Some(ME);
            if !observed.lease.is_finished() {
                let is_ready = !observed.is_paused && observed.lease.parents.is_disjoint(&unfinished_parents);
                if holdings.held.contains(&observed.lease.shard_id) {
                    view.count_held(*observed, named);
                } else {
                    view.classify(*observed, named, is_ready, holdings, limits);
                }
            }
        }
        // Listings differ in order, and all workers have to distribute in the same one.
        view.free.sort_unstable_by_key(|observed| &observed.lease.shard_id);
        view.offered.sort_unstable_by_key(|observed| &observed.lease.shard_id);
        view.order = (0..view.workers.len()).filter(|index| !view.workers[*index].is_leaving()).collect();
        let workers = &view.workers;
        view.order.sort_unstable_by_key(|index| (workers[*index].id.is_none(), workers[*index].id));
        view
    }

    /// Counts a lease that this process holds for the worker that is to get it, or for this worker.
    fn count_held(&mut self, observed: ObservedLease<'a>, named: NamedWorkers) {
        self.occupied += 1;
        self.count(observed, named.requester.or(named.kcl_target).unwrap_or(ME));
    }

    fn classify(
        &mut self,
        observed: ObservedLease<'a>,
        named: NamedWorkers,
        is_ready: bool,
        holdings: &Holdings<'_>,
        limits: &AssignmentLimits,
    ) {
        let lease = observed.lease;
        if let Some(target) = named.kcl_target {
            self.occupied += usize::from(target == ME);
            self.count(observed, target);
        } else if lease.is_owned_by(holdings.worker_id)
            && lease.checkpoint_owner.is_none()
            && !observed.is_of_namesake
        {
            // It counts for this worker only if there is capacity for it.
            self.work += usize::from(is_ready);
            self.own_unheld.extend(is_ready.then_some(observed));
        } else if let Some(owner) = named.owner {
            if named.requester == Some(ME) {
                self.count_as_incoming(observed);
                let answer_time = if lease.is_offered() { limits.drain_time } else { limits.hand_over_time };
                self.overdue.extend((is_ready && observed.requested_for >= answer_time).then_some(observed));
            } else if let Some(requester) = named.requester {
                self.count(observed, requester);
            } else if holdings.requested.contains(&lease.shard_id) {
                self.count_as_incoming(observed);
            } else if self.workers[owner].is_leaving() {
                self.work += usize::from(is_ready);
                self.offered.extend(is_ready.then_some(observed));
            } else {
                // The other workers count a namesake's lease for this worker's name, so this worker does too.
                self.count(observed, owner);
                let may_move = observed.owned_for.is_none_or(|age| age >= limits.failover_time);
                let may_move = may_move && is_ready && owner != ME;
                self.workers[owner].movable.extend(may_move.then_some(observed));
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

    fn count_as_incoming(&mut self, observed: ObservedLease<'a>) {
        self.occupied += 1;
        self.incoming += 1;
        self.count(observed, ME);
    }

    /// Adds a lease, which already counts as work, to the load of a worker.
    pub(super) fn add_load(&mut self, observed: ObservedLease<'a>, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.load += 1;
        worker.weight = worker.weight.saturating_add(observed.weight);
    }

    /// The loads of the workers that share the work, in their order.
    pub(super) fn loads(&self) -> Vec<usize> {
        self.order.iter().map(|index| self.workers[*index].load).collect()
    }
}

/// The shards that are parents of a lease and are not read to their end.
fn unfinished_parents<'a>(leases: &[ObservedLease<'a>]) -> BTreeSet<ShardId> {
    let parents: HashSet<&ShardId> = leases.iter().flat_map(|observed| &observed.lease.parents).collect();
    if parents.is_empty() {
        return BTreeSet::new();
    }
    let unfinished = leases.iter().map(|observed| observed.lease).filter(|lease| !lease.is_finished());
    unfinished.map(|lease| &lease.shard_id).filter(|shard_id| parents.contains(shard_id)).cloned().collect()
}

/// Finds the live workers, and which of them each row names.
fn live_workers<'a>(
    leases: &[ObservedLease<'a>],
    me: &WorkerId,
    limits: &AssignmentLimits,
) -> (Vec<Worker<'a>>, Vec<NamedWorkers>) {
    let stale_after = limits.hand_over_time.max(limits.drain_time) * STALE_AFTER_ANSWER_TIMES;
    let mut workers = vec![Worker::new(None)];
    // A worker that plans is not leaving, even if it has offered all its leases.
    workers[ME].has_not_offered = true;
    let mut indexes: HashMap<&WorkerId, usize> = HashMap::new();
    let mut index_of = |id: &'a WorkerId, workers: &mut Vec<Worker<'a>>| {
        if id == me {
            workers[ME].id = Some(id);
            return ME;
        }
        *indexes.entry(id).or_insert_with(|| {
            workers.push(Worker::new(Some(id)));
            workers.len() - 1
        })
    };
    let named = leases.iter().map(|observed| {
        let lease = observed.lease;
        if lease.is_finished() {
            // The row of an ended shard keeps the name of its last owner.
            return NamedWorkers { owner: None, requester: None, kcl_target: None };
        }
        let owner = lease.owner.as_ref().filter(|_| observed.unchanged_for < limits.failover_time);
        let owner = owner.map(|owner| {
            let index = index_of(owner, &mut workers);
            let has_offered = lease.is_offered() && lease.checkpoint_owner.is_none();
            workers[index].has_offered |= has_offered;
            workers[index].has_not_offered |= !has_offered;
            index
        });
        let requester = lease.hand_over_target().filter(|_| lease.checkpoint_owner.is_none());
        let requester = requester.filter(|_| observed.requested_for < stale_after).map(|requester| {
            let index = index_of(requester, &mut workers);
            workers[index].has_requested = true;
            index
        });
        NamedWorkers { owner, requester, kcl_target: owner.filter(|_| lease.checkpoint_owner.is_some()) }
    });
    let named = named.collect();
    (workers, named)
}
