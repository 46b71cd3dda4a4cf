//! Where a shard without a checkpoint starts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lease_store::{Lease, Position, SequenceNumber, ShardId};
use serde::{Deserialize, Serialize};

/// Where a shard starts that has no lease and no ancestor with one. Whatever has a checkpoint goes on from there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InitialPosition {
    /// At the oldest record that the stream keeps: nothing is missed.
    #[default]
    TrimHorizon,
    /// After the newest record when the application first started: what came before is not seen. The moment is kept in
    /// the lease table, so nothing is missed between that start and the first checkpoint, whoever reads first. Records
    /// that arrived in the second before it may be seen too, since the service tells its time in whole seconds.
    Latest,
    /// At the first record that arrived at this time or later. The time is kept in the lease table at the first start;
    /// where a KCL worker created the row it is not, so it must be the same in a mixed fleet.
    AtTimestamp(SystemTime),
}

impl InitialPosition {
    /// What a new lease says.
    pub fn position(&self) -> Position {
        match self {
            Self::TrimHorizon => Position::TrimHorizon,
            Self::Latest => Position::Latest,
            Self::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// What the lease of a child shard says, whose parent is read to its end: all of it, except what lies before the
    /// timestamp that the application starts at.
    pub fn position_of_child(&self) -> Position {
        match self {
            Self::TrimHorizon | Self::Latest => Position::TrimHorizon,
            Self::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// What `LATEST` or `AT_TIMESTAMP` stands for, in milliseconds since 1970: what the table has kept from the first
    /// start, or else the configured time, or else now. The times of shards with positions of their own do not count.
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
                        "the stream does not say what time it is: LATEST is the tip at the first read of each shard, and \
                         what arrives before that is missed"
                    );
                }
                now
            }
        };
        kept.or_else(|| millis_since_1970(first?))
    }

    /// The timestamp, if that is where the application starts.
    pub fn timestamp(&self) -> Option<SystemTime> {
        match self {
            Self::AtTimestamp(timestamp) => Some(*timestamp),
            Self::TrimHorizon | Self::Latest => None,
        }
    }
}

/// Positions of single shards.
pub(crate) type ShardPositions = BTreeMap<ShardId, ShardPosition>;

/// Where one shard starts, such as a position that the application has kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ShardPosition {
    /// At the oldest record that the stream keeps of it.
    TrimHorizon,
    /// After the newest record when the worker that creates the lease started; see [`InitialPosition::Latest`].
    Latest,
    /// At the first record that arrived at this time or later.
    AtTimestamp(SystemTime),
    /// After a record that the application has dealt with. So whatever the shard came from is done too.
    #[serde(rename = "AFTER_SEQUENCE_NUMBER")]
    After {
        /// The sequence number of the record.
        sequence_number: SequenceNumber,
        /// Its place inside an aggregated record; without it the first one, so that the rest of the aggregate comes again
        /// rather than not at all.
        #[serde(default)]
        sub_sequence_number: u64,
    },
}

impl ShardPosition {
    /// What a new lease says.
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

    /// What its sentinel stands for, in milliseconds since 1970, if that is a time; `now` is the time by the stream's clock.
    pub(crate) fn millis(&self, now: Option<SystemTime>) -> Option<u64> {
        match self {
            Self::TrimHorizon | Self::After { .. } => None,
            Self::Latest => now.and_then(millis_since_1970),
            Self::AtTimestamp(timestamp) => millis_since_1970(*timestamp),
        }
    }
}

/// Where the lease of a child starts whose parents are read to their ends, and the time that its sentinel stands for.
/// `parent_millis` is the time that the rows of the parents have kept, if all of them have.
///
/// Where no shard has a position of its own, the initial position decides. Otherwise the line of the child may have started
/// elsewhere than the others, and its rows know best: where they have kept a time, that is where the line begins, and where
/// they have not, all of the child is read.
///
/// The time goes down the line in any case, since the shard that a line starts at may have closed before it. A row that
/// says `TRIM_HORIZON` keeps it too: so does a child of `LATEST`, which a KCL worker reads as a whole.
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

/// As a time; `None` where there is no such time.
pub(crate) fn time_of_millis(millis_since_1970: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis_since_1970))
}

/// To the millisecond; `None` before 1970.
pub(crate) fn millis_since_1970(time: SystemTime) -> Option<u64> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since_1970.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_table_has_kept_comes_first_then_the_setting_then_now() {
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
        assert_eq!(frozen, Some(40), "the time of a single shard is no instant of the application");
    }

    #[test]
    fn a_child_starts_where_its_line_does() {
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
