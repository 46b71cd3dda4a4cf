//! Shards that this worker has given up and stays away from for a while.

use std::collections::HashMap;

use lease_store::ShardId;
use shard_worker::ShardOutcome;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Member;
use crate::shard_task::ShardEnding;
use crate::supervision::rest_after;

/// The shards that this worker stays away from.
#[derive(Debug, Default)]
pub(super) struct Rests {
    rests: HashMap<ShardId, Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    /// How often the shard was given up in a row.
    times: u32,
}

impl Rests {
    /// Whether to stay away from a shard now.
    pub(super) fn is_resting(&self, shard_id: &ShardId, now: Instant) -> bool {
        self.rests.get(shard_id).is_some_and(|rest| now < rest.until)
    }

    fn note(&mut self, shard_id: &ShardId, is_given_up: bool, now: Instant) {
        if is_given_up {
            let times = self.rests.get(shard_id).map_or(1, |rest| rest.times + 1);
            let rest = Rest { until: now + rest_after(times), times };
            self.rests.insert(shard_id.clone(), rest);
        } else {
            self.rests.remove(shard_id);
        }
    }
}

impl Member {
    /// Takes note whether a shard that is over was given up.
    pub(super) fn note_rest(&mut self, shard_id: &ShardId, ended: &Result<ShardEnding, JoinError>) {
        let is_given_up = ended.as_ref().is_ok_and(|ending| ending.outcome == ShardOutcome::GivenUp);
        self.rests.note(shard_id, is_given_up, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_shard_is_left_alone_for_longer_each_time_in_a_row() {
        let (shard_id, now) = (ShardId::numbered(0), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut rests = Rests::default();
        rests.note(&shard_id, true, now);
        assert!(rests.is_resting(&shard_id, after(59)) && !rests.is_resting(&shard_id, after(60)));
        rests.note(&shard_id, true, now);
        assert!(rests.is_resting(&shard_id, after(119)) && !rests.is_resting(&shard_id, after(120)));
        rests.note(&shard_id, false, now);
        assert!(!rests.is_resting(&shard_id, now));
    }
}
