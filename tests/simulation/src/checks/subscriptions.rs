//! Promises about subscriptions: readers keep the minimum interval between them, and detect silent ones.

use super::facts::Checks;
use super::promise::{Promise, Verdict};
use crate::event::{Process, ShardNumber, SubscriptionStep};

/// Minimum interval between two subscriptions to a shard, in milliseconds (Kinesis API).
const DISTANCE_MILLIS: u64 = 5_000;

/// Longest silence of a subscription, in milliseconds: the inactivity time-out, and also the time to accept one.
const SILENCE_MILLIS: u64 = 30_000;

/// Additional time to detect it: the last batch is processed first.
const NOTICE_MILLIS: u64 = 6_000;

impl Checks {
    pub(super) fn subscription(
        &mut self,
        process: Process,
        shard: ShardNumber,
        session: u64,
        step: SubscriptionStep,
    ) -> Verdict {
        let now = self.now;
        match step {
            SubscriptionStep::Requested => {
                let before = self.subscriptions.requested_at.insert((process, shard), now);
                match before.filter(|before| now < before + DISTANCE_MILLIS) {
                    Some(before) => {
                        let why = format!(
                            "s{shard}: process {process} subscribes again after its attempt at {before} ms"
                        );
                        self.broken(Promise::SubscribeInterval, why)
                    }
                    None => Ok(()),
                }
            }
            SubscriptionStep::Silent => {
                self.subscriptions.silent.insert(session, (process, shard, now));
                Ok(())
            }
            SubscriptionStep::Over(_) => match self.subscriptions.silent.remove(&session) {
                Some((process, shard, since)) => self.check_silence_noticed(process, shard, since),
                None => Ok(()),
            },
            SubscriptionStep::Accepted | SubscriptionStep::Refused(_) => Ok(()),
        }
    }

    /// Checks that no subscription has been silent for too long.
    pub(super) fn check_silence(&self) -> Verdict {
        for (process, shard, since) in self.subscriptions.silent.values() {
            self.check_silence_noticed(*process, *shard, *since)?;
        }
        Ok(())
    }

    fn check_silence_noticed(&self, process: Process, shard: ShardNumber, since: u64) -> Verdict {
        let is_over = self.process(process).is_none_or(|facts| facts.is_over);
        // A disturbed process does not read its subscription.
        let is_held_up = self.is_disturbed(process, since, self.now);
        if is_over || is_held_up || self.now <= since + SILENCE_MILLIS + NOTICE_MILLIS {
            return Ok(());
        }
        let why = format!(
            "s{shard}: process {process} still reads a subscription that has been silent since {since} ms"
        );
        self.broken(Promise::SilenceDetected, why)
    }
}
