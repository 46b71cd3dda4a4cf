//! The observations of each lease by this process: for how long its version, its owner and its request are unchanged. They
//! are the only base for calling a lease expired.

use std::collections::{HashMap, HashSet};

use lease_store::{Lease, LeaseVersion, ShardId, WorkerId};
use tokio::time::{Duration, Instant};

/// The weight of a lease when the throughput of no lease is known.
const DEFAULT_WEIGHT: u64 = 1;

/// A lease, and the observations of it by this process.
#[derive(Debug, Clone, Copy)]
pub struct ObservedLease<'a> {
    /// The row as it was listed.
    pub lease: &'a Lease,
    /// How long its version has not changed.
    pub unchanged_for: Duration,
    /// How long this process has seen the present owner. `None`: since before its first scan.
    pub owned_for: Option<Duration>,
    /// How long the present request has been on the row. Zero without a request.
    pub requested_for: Duration,
    /// How much work the lease is, in any unit that is the same for all leases, such as bytes per second. The same for
    /// all leases when it is not known.
    pub weight: u64,
    /// Whether the lease belongs to another process under the worker id of this one.
    pub is_of_namesake: bool,
    /// Whether an operator has paused the shard: no worker takes it.
    pub is_paused: bool,
}

/// The observations of all leases by this process, and since when each lease is unchanged.
///
/// A lease has expired when this process has seen its counter unchanged for the fail-over time, by its own monotonic
/// clock. Time stamps of other machines play no part, so their clocks may differ by any amount.
#[derive(Debug, Default)]
pub struct LeaseObservations {
    seen: HashMap<ShardId, Seen>,
    /// The shards whose leases belong to another process under this worker's id.
    of_namesakes: HashSet<ShardId>,
    /// The shards that an operator has paused.
    paused: HashSet<ShardId>,
    has_scanned: bool,
}

#[derive(Debug)]
struct Seen {
    version: LeaseVersion,
    since: Instant,
    /// When the present owner was first seen. `None`: before or at the first scan.
    owned_since: Option<Instant>,
    requested_by: Option<WorkerId>,
    /// When the present request to the present owner was first seen.
    requested_since: Instant,
}

impl Seen {
    fn at_first(lease: &Lease, listed_at: Instant, owned_since: Option<Instant>) -> Self {
        Self {
            version: lease.version(),
            since: listed_at,
            owned_since,
            requested_by: lease.requested_by.clone(),
            requested_since: listed_at,
        }
    }

    fn again(self, lease: &Lease, listed_at: Instant) -> Self {
        let has_same_owner = self.version.owner == lease.owner;
        let has_same_request = has_same_owner && self.requested_by == lease.requested_by;
        Self {
            since: if self.version.matches(lease) { self.since } else { listed_at },
            owned_since: if has_same_owner { self.owned_since } else { Some(listed_at) },
            requested_since: if has_same_request { self.requested_since } else { listed_at },
            version: lease.version(),
            requested_by: lease.requested_by.clone(),
        }
    }
}

impl LeaseObservations {
    /// No observations yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a listing that was complete at `listed_at`. Leases that are no longer listed are forgotten.
    pub fn observe(&mut self, leases: &[Lease], listed_at: Instant) {
        let mut seen = HashMap::with_capacity(leases.len());
        let owned_since = self.has_scanned.then_some(listed_at);
        for lease in leases {
            let known = match self.seen.remove(&lease.shard_id) {
                Some(known) => known.again(lease, listed_at),
                None => Seen::at_first(lease, listed_at, owned_since),
            };
            seen.insert(lease.shard_id.clone(), known);
        }
        self.seen = seen;
        self.has_scanned = true;
    }

    /// Replaces the shards whose leases belong to another process under this worker's id.
    pub(crate) fn set_of_namesakes(&mut self, of_namesakes: HashSet<ShardId>) {
        self.of_namesakes = of_namesakes;
    }

    /// Replaces the shards that an operator has paused.
    pub(crate) fn set_paused(&mut self, paused: HashSet<ShardId>) {
        if self.paused != paused {
            let count = paused.len();
            tracing::info!(count, "the number of shards that an operator has paused");
            self.paused = paused;
        }
    }

    /// Combines the leases of a listing that was requested at `requested_at` with the observations. A lease without a known
    /// throughput gets the average weight of the others.
    pub fn of<'a>(&self, leases: &'a [Lease], requested_at: Instant) -> Vec<ObservedLease<'a>> {
        let known: Vec<u64> = leases.iter().filter_map(|lease| lease.throughput_bytes_per_second).collect();
        let average = known.iter().sum::<u64>().checked_div(known.len() as u64).unwrap_or(DEFAULT_WEIGHT);
        let elapsed_since = |since: Instant| requested_at.saturating_duration_since(since);
        let observed = |lease: &'a Lease| {
            let seen = self.seen.get(&lease.shard_id);
            ObservedLease {
                lease,
                unchanged_for: self.unchanged_for(&lease.shard_id, requested_at),
                owned_for: seen.and_then(|seen| seen.owned_since).map(elapsed_since),
                requested_for: seen
                    .filter(|seen| seen.requested_by.is_some())
                    .map_or(Duration::ZERO, |seen| elapsed_since(seen.requested_since)),
                weight: lease.throughput_bytes_per_second.unwrap_or(average),
                is_of_namesake: self.of_namesakes.contains(&lease.shard_id),
                is_paused: self.paused.contains(&lease.shard_id),
            }
        };
        leases.iter().map(observed).collect()
    }

    /// How long a lease had been unchanged when a listing was requested at `requested_at`. Zero for a lease never seen.
    pub fn unchanged_for(&self, shard_id: &ShardId, requested_at: Instant) -> Duration {
        self.seen
            .get(shard_id)
            .map_or(Duration::ZERO, |seen| requested_at.saturating_duration_since(seen.since))
    }

    /// When the next of these leases expires after `now`, unless it is renewed.
    pub fn next_expiry<'a>(
        &self,
        leases: impl IntoIterator<Item = &'a ShardId>,
        failover_time: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let expiries =
            leases.into_iter().filter_map(|shard_id| Some(self.seen.get(shard_id)?.since + failover_time));
        expiries.filter(|expiry| *expiry > now).min()
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{LeaseChange, Position, WorkerId};

    use super::*;

    const FAILOVER_TIME: Duration = Duration::from_secs(10);

    fn lease() -> Lease {
        let lease = Lease::unowned(ShardId::new("shard-0").unwrap(), Position::TrimHorizon);
        LeaseChange::take(WorkerId::new("a").unwrap()).apply(&lease)
    }

    #[test]
    fn a_lease_ages_only_while_its_counter_is_unchanged() {
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let mut observations = LeaseObservations::new();
        let mut lease = lease();
        assert_eq!(observations.unchanged_for(&lease.shard_id, seconds(99)), Duration::ZERO, "never seen");
        observations.observe(std::slice::from_ref(&lease), start);
        observations.observe(std::slice::from_ref(&lease), seconds(9));
        assert_eq!(observations.unchanged_for(&lease.shard_id, seconds(9)), Duration::from_secs(9));
        lease = LeaseChange::Renew.apply(&lease);
        observations.observe(std::slice::from_ref(&lease), seconds(12));
        assert_eq!(observations.unchanged_for(&lease.shard_id, seconds(12)), Duration::ZERO);
        let next = observations.next_expiry([&lease.shard_id], FAILOVER_TIME, seconds(12));
        assert_eq!(next, Some(seconds(22)));
    }

    #[test]
    fn a_request_ages_until_the_owner_changes() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let mut observations = LeaseObservations::new();
        let scan = |observations: &mut LeaseObservations, lease: &Lease, at| {
            observations.observe(std::slice::from_ref(lease), seconds(at));
            let observed = observations.of(std::slice::from_ref(lease), seconds(at))[0];
            (observed.owned_for.map(|time| time.as_secs()), observed.requested_for.as_secs())
        };
        let mut lease = lease();
        assert_eq!(scan(&mut observations, &lease, 0), (None, 0), "owned before the first scan");
        lease.requested_by = Some(worker("b"));
        assert_eq!(scan(&mut observations, &lease, 5), (None, 0));
        lease = LeaseChange::Renew.apply(&lease);
        assert_eq!(scan(&mut observations, &lease, 8), (None, 3), "a renewal is no answer");
        // A KCL worker takes it and keeps the attribute.
        lease.owner = Some(worker("java"));
        assert_eq!(scan(&mut observations, &lease, 9), (Some(0), 0));
        assert_eq!(scan(&mut observations, &lease, 12), (Some(3), 3));
    }

    #[test]
    fn an_unmeasured_lease_gets_the_average_weight() {
        let observations = LeaseObservations::new();
        let mut leases = vec![lease(), lease(), lease()];
        let weights = |leases: &[Lease]| -> Vec<u64> {
            observations.of(leases, Instant::now()).iter().map(|observed| observed.weight).collect()
        };
        assert_eq!(weights(&leases), [1, 1, 1]);
        leases[0].throughput_bytes_per_second = Some(10);
        leases[1].throughput_bytes_per_second = Some(30);
        assert_eq!(weights(&leases), [10, 30, 20]);
    }

    #[test]
    fn a_released_lease_is_fresh_and_a_deleted_one_forgotten() {
        let start = Instant::now();
        let mut observations = LeaseObservations::new();
        let lease = lease();
        observations.observe(std::slice::from_ref(&lease), start);
        let released = LeaseChange::Release.apply(&lease);
        let later = start + FAILOVER_TIME;
        observations.observe(std::slice::from_ref(&released), later);
        assert_eq!(observations.unchanged_for(&lease.shard_id, later), Duration::ZERO);
        observations.observe(&[], later);
        observations.observe(std::slice::from_ref(&released), later + FAILOVER_TIME);
        assert_eq!(observations.unchanged_for(&lease.shard_id, later + FAILOVER_TIME), Duration::ZERO);
    }
}
