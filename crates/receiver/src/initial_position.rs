//! Where a shard without a checkpoint starts.

use std::time::SystemTime;

use lease_store::{Lease, Position};
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
    /// start, or else the configured time, or else now.
    pub(crate) fn frozen_millis(&self, leases: &[Lease], now: Option<SystemTime>) -> Option<u64> {
        let kept = leases.iter().filter_map(|lease| lease.initial_time_millis).min();
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
        kept.or_else(|| {
            let since_1970 = first?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            u64::try_from(since_1970.as_millis()).ok()
        })
    }

    /// The timestamp, if that is where the application starts.
    pub fn timestamp(&self) -> Option<SystemTime> {
        match self {
            Self::AtTimestamp(timestamp) => Some(*timestamp),
            Self::TrimHorizon | Self::Latest => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lease_store::ShardId;

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
            assert_eq!(position.frozen_millis(leases, Some(at(40))), expected, "{position:?}");
        }
        assert_eq!(InitialPosition::Latest.frozen_millis(&[], None), None);
    }
}
