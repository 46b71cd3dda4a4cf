//! The subscriptions of a server: one for each consumer and shard, as on AWS. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A second subscription is refused for this long; afterwards it replaces the first one (AWS).
const EXCLUSIVE_TIME: Duration = Duration::from_secs(5);

/// The ARN of a consumer and the name of a shard.
pub(super) type Subscriber = (String, String);

/// The newest subscription of each consumer and shard. It stays known after its end, since its first five seconds count even
/// if the client has gone.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    newest: BTreeMap<Subscriber, (u64, Instant)>,
    accepted: u64,
    refused: u64,
}

impl Subscriptions {
    /// Accepts a subscription and returns its number; `None`: another one began less than five seconds ago.
    pub(super) fn begin(&mut self, subscriber: Subscriber, now: Instant) -> Option<u64> {
        let since = self.newest.get(&subscriber).map(|(_, since)| *since);
        if since.is_some_and(|since| now.saturating_duration_since(since) < EXCLUSIVE_TIME) {
            self.refused += 1;
            return None;
        }
        self.accepted += 1;
        self.newest.insert(subscriber, (self.accepted, now));
        Some(self.accepted)
    }

    /// Whether no newer subscription has replaced this one.
    pub(super) fn is_newest(&self, subscriber: &Subscriber, number: u64) -> bool {
        self.newest.get(subscriber).is_some_and(|(newest, _)| *newest == number)
    }

    /// How many subscriptions were accepted, and how many refused.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.accepted, self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscription_is_replaced_after_five_seconds() {
        let mut subscriptions = Subscriptions::default();
        let (one, other) = (("a".to_owned(), "0".to_owned()), ("b".to_owned(), "0".to_owned()));
        let start = Instant::now();
        let first = subscriptions.begin(one.clone(), start).unwrap();
        assert_eq!(subscriptions.begin(one.clone(), start + EXCLUSIVE_TIME / 2), None);
        let foreign = subscriptions.begin(other.clone(), start).unwrap();
        let second = subscriptions.begin(one.clone(), start + EXCLUSIVE_TIME).unwrap();
        assert!(!subscriptions.is_newest(&one, first) && subscriptions.is_newest(&one, second));
        assert!(subscriptions.is_newest(&other, foreign), "another consumer is another subscriber");
        assert_eq!(subscriptions.counts(), (3, 1));
    }
}
