//! Where a shard without a checkpoint starts, and where its children start.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lease_store::{Lease, Position, SequenceNumber, ShardId, settings_format};
use serde::{Deserialize, Serialize};

/// Where a shard starts that has no lease and no ancestor with one. A shard with a checkpoint resumes from it.
///
/// ```
/// use receiver::InitialPosition;
///
/// assert_eq!(InitialPosition::default(), InitialPosition::TrimHorizon);
/// // Children of a reshard are read from their beginning, so that nothing is skipped.
/// assert_eq!(InitialPosition::Latest.position_of_child(), InitialPosition::TrimHorizon.position());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum InitialPosition {
    /// At the oldest record in the stream: no record is missed.
    #[default]
    TrimHorizon,
    /// After the newest record at the first start of the application: earlier records are not delivered. The instant is
    /// kept in the lease table, so no record between that start and the first checkpoint is missed, whichever worker reads
    /// first. Records of the second before it may be delivered too, since the service reports its time in whole seconds.
    Latest,
    /// At the first record that arrived at this time or later. The first start writes the time to the lease table. A row
    /// created by a KCL worker does not have it, so in a mixed fleet it must be the same in all workers.
    AtTimestamp(#[serde(with = "settings_format::timestamp")] SystemTime),
}

impl InitialPosition {
    /// The checkpoint of a new lease.
    pub fn position(&self) -> Position {
        match self {
            Self::TrimHorizon => Position::TrimHorizon,
            Self::Latest => Position::Latest,
            Self::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// The checkpoint of a new lease for a child whose parent is read to its end: the beginning of the child, or the
    /// timestamp at which the application starts.
    pub fn position_of_child(&self) -> Position {
        match self {
            Self::TrimHorizon | Self::Latest => Position::TrimHorizon,
            Self::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// The instant of `LATEST` or `AT_TIMESTAMP`, in milliseconds since 1970: the one in the table since the first start, or
    /// else the configured time, or else now. Times of shards with positions of their own do not count.
    pub(crate) fn frozen_millis(
        &self,
        leases: &[Lease],
        named: &ShardPositions,
        now: Option<SystemTime>,
    ) -> Option<u64> {
        let kept = leases.iter().filter(|lease| !named.contains_key(&lease.shard_id));
        let kept = kept.filter_map(|lease| lease.initial_time_millis).min();
        let first = match self {
            Self::TrimHorizon => None,
            Self::AtTimestamp(timestamp) => Some(*timestamp),
            Self::Latest => {
                if kept.is_none() && now.is_none() {
                    tracing::warn!(
                        "the stream does not report its time: LATEST is the tip at the first read of each shard, and \
                         records that arrive before that read are missed"
                    );
                }
                now
            }
        };
        kept.or_else(|| millis_since_1970(first?))
    }

    /// The timestamp of `AT_TIMESTAMP`.
    pub fn timestamp(&self) -> Option<SystemTime> {
        match self {
            Self::AtTimestamp(timestamp) => Some(*timestamp),
            Self::TrimHorizon | Self::Latest => None,
        }
    }
}

/// Positions of single shards.
pub(crate) type ShardPositions = BTreeMap<ShardId, ShardPosition>;

/// Where one shard starts, for example a position that the application has stored elsewhere.
///
/// ```
/// use lease_store::Position;
/// use receiver::ShardPosition;
///
/// let position = ShardPosition::After { sequence_number: "4959".parse()?, sub_sequence_number: 0 };
/// assert_eq!(position.position(), Position::after("4959".parse()?, 0));
/// # Ok::<(), lease_store::StoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum ShardPosition {
    /// At the oldest record of the shard.
    TrimHorizon,
    /// After the newest record at the start of the worker that creates the lease; see [`InitialPosition::Latest`].
    Latest,
    /// At the first record that arrived at this time or later.
    AtTimestamp(#[serde(with = "settings_format::timestamp")] SystemTime),
    /// After a record that the application has processed. The ancestors of the shard then count as processed too.
    #[serde(rename = "AFTER_SEQUENCE_NUMBER")]
    After {
        /// The sequence number of the record.
        sequence_number: SequenceNumber,
        /// The number of the sub-record in an aggregated record. 0 by default, the first one: then the rest of the aggregate
        /// is delivered again instead of being missed.
        #[serde(default)]
        sub_sequence_number: u64,
    },
}

impl ShardPosition {
    /// The checkpoint of a new lease.
    pub fn position(&self) -> Position {
        match self {
            Self::TrimHorizon => Position::TrimHorizon,
            Self::Latest => Position::Latest,
            Self::AtTimestamp(_) => Position::AtTimestamp,
            Self::After { sequence_number, sub_sequence_number } => {
                Position::after(sequence_number.clone(), *sub_sequence_number)
            }
        }
    }

    /// The instant of `LATEST` or `AT_TIMESTAMP`, in milliseconds since 1970. `now` is the time of the stream's clock.
    pub(crate) fn millis(&self, now: Option<SystemTime>) -> Option<u64> {
        match self {
            Self::TrimHorizon | Self::After { .. } => None,
            Self::Latest => now.and_then(millis_since_1970),
            Self::AtTimestamp(timestamp) => millis_since_1970(*timestamp),
        }
    }
}

/// The checkpoint of a child whose parents are read to their ends, and the instant of its start. `parent_millis` is the
/// instant in the rows of the parents, if all of them have one.
///
/// If no shard has a position of its own, the initial position decides. Otherwise the ancestors of the child may have
/// started elsewhere: with an instant in their rows the child starts at that time, without one it is read from its
/// beginning.
///
/// The child inherits the instant in any case, since its oldest ancestor may have closed before that time. A row at
/// `TRIM_HORIZON` keeps the instant too, as does the child of a `LATEST` shard: a KCL worker reads that child as a whole.
pub(crate) fn start_of_child(
    initial: InitialPosition,
    has_named: bool,
    parent_millis: Option<u64>,
) -> (Position, Option<u64>) {
    let position = match (initial.position_of_child(), parent_millis) {
        (position, _) if !has_named => position,
        (_, Some(_)) => Position::AtTimestamp,
        (_, None) => Position::TrimHorizon,
    };
    (position, parent_millis)
}

/// Milliseconds since 1970 as a time. `None` if the platform cannot represent it.
pub(crate) fn time_of_millis(millis_since_1970: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis_since_1970))
}

/// A time in whole milliseconds since 1970. `None` before 1970.
pub(crate) fn millis_since_1970(time: SystemTime) -> Option<u64> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since_1970.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instant_comes_from_the_table_then_the_setting_then_now() {
        let at = |millis: u64| SystemTime::UNIX_EPOCH + Duration::from_micros(millis * 1000 + 999);
        let lease = |millis| {
            let mut lease = Lease::unowned(ShardId::numbered(0), Position::Latest);
            lease.initial_time_millis = millis;
            lease
        };
        let kept = [lease(None), lease(Some(30)), lease(Some(20))];
        let rows_of_the_kcl = [lease(None)];
        for (position, leases, expected) in [
            (InitialPosition::Latest, &kept[..], Some(20)),
            (InitialPosition::AtTimestamp(at(5)), &kept[..], Some(20)),
            (InitialPosition::AtTimestamp(at(5)), &rows_of_the_kcl[..], Some(5)),
            (InitialPosition::Latest, &rows_of_the_kcl[..], Some(40)),
            (InitialPosition::Latest, &[], Some(40)),
            (InitialPosition::TrimHorizon, &[], None),
        ] {
            let frozen = position.frozen_millis(leases, &ShardPositions::new(), Some(at(40)));
            assert_eq!(frozen, expected, "{position:?}");
        }
        let none_named = ShardPositions::new();
        assert_eq!(InitialPosition::Latest.frozen_millis(&[], &none_named, None), None);
        let named = ShardPositions::from([(ShardId::numbered(0), ShardPosition::AtTimestamp(at(20)))]);
        let frozen = InitialPosition::Latest.frozen_millis(&kept, &named, Some(at(40)));
        assert_eq!(frozen, Some(40), "the time of a single shard is not that of the application");
    }

    #[test]
    fn a_child_inherits_the_start_of_its_parents() {
        let at = InitialPosition::AtTimestamp(SystemTime::UNIX_EPOCH);
        let (latest, oldest) = (InitialPosition::Latest, InitialPosition::TrimHorizon);
        let (timestamp, horizon) = (Position::AtTimestamp, Position::TrimHorizon);
        for (initial, has_named, parent_millis, expected) in [
            (oldest, false, None, (horizon.clone(), None)),
            (latest, false, Some(5), (horizon.clone(), Some(5))),
            (latest, false, None, (horizon.clone(), None)),
            (at, false, Some(5), (timestamp.clone(), Some(5))),
            (at, false, None, (timestamp.clone(), None)),
            (at, true, Some(5), (timestamp.clone(), Some(5))),
            (at, true, None, (horizon.clone(), None)),
            (oldest, true, Some(5), (timestamp.clone(), Some(5))),
            (latest, true, Some(5), (timestamp, Some(5))),
            (latest, true, None, (horizon, None)),
        ] {
            let start = start_of_child(initial, has_named, parent_millis);
            assert_eq!(start, expected, "{initial:?} {has_named} {parent_millis:?}");
        }
    }

    #[test]
    fn positions_of_shards_are_read_from_json() {
        let json = r#"{
            "shardId-000000000001": "LATEST",
            "shardId-000000000002": {"AFTER_SEQUENCE_NUMBER": {"sequence_number": "495", "sub_sequence_number": 3}},
            "shardId-000000000003": {"AFTER_SEQUENCE_NUMBER": {"sequence_number": "496"}}
        }"#;
        let positions: ShardPositions = serde_json::from_str(json).unwrap();
        let read: Vec<Position> = positions.values().map(ShardPosition::position).collect();
        let expected =
            [Position::Latest, Position::after(495u128.into(), 3), Position::after(496u128.into(), 0)];
        assert_eq!(read, expected);
        let written = serde_json::to_string(&positions).unwrap();
        assert_eq!(serde_json::from_str::<ShardPositions>(&written).unwrap(), positions);
        assert!(
            serde_json::from_str::<ShardPosition>(r#"{"AFTER_SEQUENCE_NUMBER": {"sequence_number": "x"}}"#)
                .is_err()
        );
    }
}
