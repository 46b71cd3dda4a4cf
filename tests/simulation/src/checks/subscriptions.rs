//! Promises about subscriptions: they keep their distance, and one that is silent is noticed.

use std::collections::BTreeMap;

use super::{Checks, Promise, Verdict};
use crate::event::{Process, ShardNumber, SubscriptionStep};

/// How long after one subscription a reader asks for no other one of the same shard, in milliseconds (Kinesis API).
const DISTANCE_MILLIS: u64 = 5_000;

/// How long a subscription may be silent, in milliseconds: the inactivity time-out, or the time in which one must be accepted.
const SILENCE_MILLIS: u64 = 30_000;

/// How long noticing takes on top: the last batch is worked on, and its end is waited for.
const NOTICE_MILLIS: u64 = 6_000;

/// What is known of the subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// When the reader of a shard that is there now last asked for one.
    asked_at: BTreeMap<(Process, ShardNumber), u64>,
    /// Those that are silent: whose, and since when.
    silent: BTreeMap<u64, (Process, ShardNumber, u64)>,
}

impl Subscriptions {
    /// Another reader knows nothing of those before it.
    pub(super) fn opened(&mut self, process: Process, shard: ShardNumber) {
        self.asked_at.remove(&(process, shard));
    }
}

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
            SubscriptionStep::Asked => {
                let before = self.subscriptions.asked_at.insert((process, shard), now);
                match before.filter(|before| now < before + DISTANCE_MILLIS) {
                    Some(before) => {
                        let why = format!("s{shard}: process {process} asked at {before} ms, and asks again");
                        self.broken(Promise::Distance, why)
                    }
                    None => Ok(()),
                }
            }
            SubscriptionStep::Silent => {
                self.subscriptions.silent.insert(session, (process, shard, now));
                Ok(())
            }
            SubscriptionStep::Over(_) => match self.subscriptions.silent.remove(&session) {
                Some((process, shard, since)) => self.check_noticed(process, shard, since),
                None => Ok(()),
            },
            SubscriptionStep::Accepted | SubscriptionStep::Refused(_) => Ok(()),
        }
    }

    /// No subscription that is silent now has been so for too long.
    pub(super) fn check_silence(&self) -> Verdict {
        for (process, shard, since) in self.subscriptions.silent.values() {
            self.check_noticed(*process, *shard, *since)?;
        }
        Ok(())
    }

    fn check_noticed(&self, process: Process, shard: ShardNumber, since: u64) -> Verdict {
        let is_over = self.process(process).is_none_or(|facts| facts.is_over);
        // Nobody listens while the application is held up.
        let is_held_up = self.is_disturbed(process, since, self.now);
        if is_over || is_held_up || self.now <= since + SILENCE_MILLIS + NOTICE_MILLIS {
            return Ok(());
        }
        let why =
            format!("s{shard}: process {process} listens to a subscription that is silent since {since} ms");
        self.broken(Promise::Silence, why)
    }
}
