//! Cool-downs: how long this worker does not take a shard again that made no progress here.

use std::collections::HashMap;

use lease_store::ShardId;
use shard_worker::ShardOutcome;
use tokio::task::JoinError;
use tokio::time::{Duration, Instant};

use super::Coordinator;
use crate::lease::orders::Order;
use crate::lease::shard_task::ShardEnding;

/// The cool-down after the first release without progress. It doubles with each one in a row.
const FIRST_COOLDOWN: Duration = Duration::from_secs(60);

/// How many fail-over times a shard is left to other workers after an operator asked for its release. They take a free lease
/// beyond their share after three.
const RELEASED_FOR_FAILOVER_TIMES: u32 = 4;

/// The longest cool-down.
const MAX_COOLDOWN: Duration = Duration::from_secs(15 * 60);

/// The cool-down of a shard that was released without progress this many times in a row.
fn cooldown_after(releases: u32) -> Duration {
    FIRST_COOLDOWN.saturating_mul(2_u32.saturating_pow(releases.saturating_sub(1))).min(MAX_COOLDOWN)
}

/// The shards that this worker has released without progress.
#[derive(Debug, Default)]
pub(super) struct Cooldowns {
    shards: HashMap<ShardId, Cooldown>,
}

#[derive(Debug, Clone, Copy)]
struct Cooldown {
    until: Instant,
    /// How many times in a row the shard was released without progress.
    releases: u32,
}

impl Cooldowns {
    /// Whether this worker must not take the shard yet.
    pub(super) fn is_cooling_down(&self, shard_id: &ShardId, now: Instant) -> bool {
        self.shards.get(shard_id).is_some_and(|cooldown| now < cooldown.until)
    }

    /// Leaves a shard to other workers for this time.
    fn leave(&mut self, shard_id: &ShardId, time: Duration, now: Instant) {
        self.shards.insert(shard_id.clone(), Cooldown { until: now + time, releases: 0 });
    }

    fn record(&mut self, shard_id: &ShardId, made_no_progress: bool, now: Instant) {
        if made_no_progress {
            let releases = self.shards.get(shard_id).map_or(1, |cooldown| cooldown.releases + 1);
            let cooldown = Cooldown { until: now + cooldown_after(releases), releases };
            self.shards.insert(shard_id.clone(), cooldown);
        } else {
            self.shards.remove(shard_id);
        }
    }
}

impl Coordinator {
    /// Starts the cool-down of a shard that was released without progress, or resets it.
    pub(super) fn record_cooldown(&mut self, shard_id: &ShardId, ended: &Result<ShardEnding, JoinError>) {
        if ended.as_ref().is_ok_and(|ending| ending.order == Some(Order::Release)) {
            let time = self.receiver.settings.failover_time * RELEASED_FOR_FAILOVER_TIMES;
            self.cooldowns.leave(shard_id, time, Instant::now());
            return;
        }
        let made_no_progress = ended.as_ref().is_ok_and(|ending| ending.outcome == ShardOutcome::GivenUp);
        self.cooldowns.record(shard_id, made_no_progress, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cooldown_of_a_shard_grows_with_each_release_in_a_row() {
        let (shard_id, now) = (ShardId::numbered(0), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut cooldowns = Cooldowns::default();
        cooldowns.record(&shard_id, true, now);
        assert!(cooldowns.is_cooling_down(&shard_id, after(59)));
        assert!(!cooldowns.is_cooling_down(&shard_id, after(60)));
        cooldowns.record(&shard_id, true, now);
        assert!(cooldowns.is_cooling_down(&shard_id, after(119)));
        assert!(!cooldowns.is_cooling_down(&shard_id, after(120)));
        cooldowns.record(&shard_id, false, now);
        assert!(!cooldowns.is_cooling_down(&shard_id, now));
    }

    #[test]
    fn the_cooldown_doubles_up_to_a_quarter_of_an_hour() {
        let cooldowns: Vec<u64> = (1..7).map(|releases| cooldown_after(releases).as_secs()).collect();
        assert_eq!(cooldowns, [60, 120, 240, 480, 900, 900]);
        assert_eq!(cooldown_after(u32::MAX), MAX_COOLDOWN);
    }
}
