//! Decides where the records of an aggregate are filtered by hash key. Pure.
//!
//! The filter exists for one situation. A producer with the Kinesis Producer Library (KPL) fills an aggregate with the records of
//! one shard. After a reshard its shard map is outdated for a while, and the aggregate goes to a child as a whole. From the answer
//! the producer learns the shard, and puts the records of the other child again. Without a filter they are delivered twice.
//!
//! Other producers put records of any keys into one aggregate, send it by the first key, and never again. On streams that
//! distribute records by themselves, every aggregate is like that. There the filter would lose the records outside the range, which
//! exist nowhere else. So the default filters only where the KPL can have put an aggregate again, and keeps records in doubt: a
//! record that is delivered twice is better than a lost one. The KPL's aggregates are known by their partition key.

use std::time::{Duration, SystemTime};

use lease_store::HashKeyRange;
use serde::{Deserialize, Serialize};

use crate::source::RecordDistribution;

/// How long after the start of a shard the KPL can put records again: its records live for 30 s (`RecordTtl`), and it may take as
/// long until it has listed the new shards.
pub const RE_PUT_WINDOW: Duration = Duration::from_secs(60);

/// The partition key of every aggregate of two or more records that the KPL puts, always with an explicit hash key
/// (`KinesisRecord::partition_key` of amazon-kinesis-producer). Other producers use the key of a record inside.
pub const KPL_PARTITION_KEY: &str = "a";

/// Which records of an aggregate are dropped because their hash key belongs to another shard.
///
/// ```
/// use shard_worker::AggregateFilter;
///
/// let filter: AggregateFilter = serde_json::from_str(r#""NEVER""#)?;
/// assert_eq!(filter, AggregateFilter::Never);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum AggregateFilter {
    /// Those that the Kinesis Producer Library can have put again: the aggregate has [`KPL_PARTITION_KEY`], the shard has
    /// parents, the record arrived within [`RE_PUT_WINDOW`] after the start of the shard, and the stream distributes records by
    /// partition key. All others are kept.
    #[default]
    AfterReshard,
    /// All, as in the KCL. Loses records of producers that put different keys into one aggregate.
    Always,
    /// None. Records that the Kinesis Producer Library puts again after a reshard are delivered twice.
    Never,
}

/// The facts that decide whether the records of one shard are filtered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterRule {
    pub(crate) filter: AggregateFilter,
    /// The hash keys that the shard covers. `None`: not known.
    pub(crate) range: Option<HashKeyRange>,
    pub(crate) has_parents: bool,
    pub(crate) distribution: Option<RecordDistribution>,
}

impl FilterRule {
    /// The range outside which the records of an aggregate are dropped; `None`: all are kept.
    pub(crate) fn range_for(
        &self,
        partition_key: Option<&str>,
        arrival: Option<SystemTime>,
        shard_started_at: Option<SystemTime>,
    ) -> Option<HashKeyRange> {
        let filters = match self.filter {
            AggregateFilter::Always => true,
            AggregateFilter::Never => false,
            AggregateFilter::AfterReshard => {
                partition_key == Some(KPL_PARTITION_KEY)
                    && self.has_parents
                    && self.distribution != Some(RecordDistribution::Automatic)
                    && is_soon_after(arrival, shard_started_at)
            }
        };
        self.range.filter(|_| filters)
    }
}

/// Whether a record arrived soon after the start of its shard; `false` if either time is not known.
fn is_soon_after(arrival: Option<SystemTime>, shard_started_at: Option<SystemTime>) -> bool {
    let (Some(arrival), Some(started_at)) = (arrival, shard_started_at) else { return false };
    // The start may have whole seconds, and so lie after the arrival.
    arrival.duration_since(started_at).unwrap_or_default() <= RE_PUT_WINDOW
}

#[cfg(test)]
mod tests {
    use lease_store::HashKey;

    use super::*;

    const AFTER_RESHARD: FilterRule = FilterRule {
        filter: AggregateFilter::AfterReshard,
        range: None,
        has_parents: true,
        distribution: Some(RecordDistribution::ByPartitionKey),
    };

    fn at(second: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    #[test]
    fn filter_applies_only_where_the_kpl_puts_again() {
        let range = HashKeyRange::new(HashKey(10), HashKey(19)).ok();
        let rule = FilterRule { range, ..AFTER_RESHARD };
        let window = RE_PUT_WINDOW.as_secs();
        for (what, rule, arrival, started_at, is_filtered) in [
            ("at the start", rule, at(100), at(100), true),
            ("a start in whole seconds", rule, at(99), at(100), true),
            ("within the window", rule, at(100 + window), at(100), true),
            ("after the window", rule, at(101 + window), at(100), false),
            ("start not known", rule, at(100), None, false),
            ("arrival not known", rule, None, at(100), false),
            ("no parents", FilterRule { has_parents: false, ..rule }, at(100), at(100), false),
            ("not reported", FilterRule { distribution: None, ..rule }, at(100), at(100), true),
            (
                "automatic",
                FilterRule { distribution: Some(RecordDistribution::Automatic), ..rule },
                at(100),
                at(100),
                false,
            ),
            ("never", FilterRule { filter: AggregateFilter::Never, ..rule }, at(100), at(100), false),
            (
                "always",
                FilterRule { filter: AggregateFilter::Always, has_parents: false, ..rule },
                None,
                None,
                true,
            ),
            ("range not known", FilterRule { range: None, ..rule }, at(100), at(100), false),
        ] {
            let key = Some(KPL_PARTITION_KEY);
            assert_eq!(rule.range_for(key, arrival, started_at).is_some(), is_filtered, "{what}");
        }
        for key in [None, Some(""), Some("A"), Some("key")] {
            assert_eq!(rule.range_for(key, at(100), at(100)), None, "{key:?}");
        }
    }
}
