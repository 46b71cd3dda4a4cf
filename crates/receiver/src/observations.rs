//! Which leases have expired, as this process saw it.

use std::collections::HashMap;

use lease_store::{Lease, LeaseVersion, ShardId};
use tokio::time::{Duration, Instant};

/// What this process has seen of the leases, and since when each has stood still.
///
/// A lease has expired when its counter was seen unchanged for the fail-over time, by this process's own monotonic
/// clock. No time stamp of another machine takes part, so clocks may differ as they like.
#[derive(Debug, Default)]
pub struct LeaseObservations {
    seen: HashMap<ShardId, Seen>,
}

#[derive(Debug)]
struct Seen {
    version: LeaseVersion,
    since: Instant,
}

impl LeaseObservations {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a listing that was complete at `listed_at`. What is no longer listed is forgotten.
    pub fn observe(&mut self, leases: &[Lease], listed_at: Instant) {
        let mut seen = HashMap::with_capacity(leases.len());
        for lease in leases {
            let known = self.seen.remove(&lease.shard_id).filter(|known| known.version.matches(lease));
            let known = known.unwrap_or_else(|| Seen { version: lease.version(), since: listed_at });
            seen.insert(lease.shard_id.clone(), known);
        }
        self.seen = seen;
    }

    /// How long a lease has stood still, as seen by a listing that was asked for at `asked_at`; zero for one that was
    /// never seen.
    pub fn unchanged_for(&self, shard_id: &ShardId, asked_at: Instant) -> Duration {
        self.seen.get(shard_id).map_or(Duration::ZERO, |seen| asked_at.saturating_duration_since(seen.since))
    }

    /// When the next of these leases will have stood still for `failover_time`, if nobody renews it, after `now`.
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
    fn a_lease_ages_only_while_its_counter_stands_still() {
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
    fn a_released_lease_starts_anew_and_a_vanished_one_is_forgotten() {
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
