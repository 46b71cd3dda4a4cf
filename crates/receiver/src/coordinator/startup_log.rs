//! The log lines of a start about initial positions: which settings the lease table overrides, which shards are unknown,
//! and which start times lie before the retention of the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use lease_store::{Lease, Position, ShardId};
use shard_worker::Shard;

use crate::settings::ConsumerSettings;
use crate::shards::initial_position::{InitialPosition, ShardPosition, ShardPositions, millis_since_1970};

/// How many shards a message names. It counts the others.
const MAX_NAMED_SHARDS: usize = 10;

/// A line for the log of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartNotice {
    /// Whether existing leases override a setting.
    pub(super) is_warning: bool,
    /// The line.
    pub(super) text: String,
}

/// Reports where existing leases override the initial positions of the settings. `leases` is the table before the start,
/// `new_leases` are the shards whose leases the start creates. `None`: nothing is overridden, as at the first start of an
/// application.
pub(super) fn overridden_positions(
    settings: &ConsumerSettings,
    leases: &[Lease],
    new_leases: &[ShardId],
) -> Option<StartNotice> {
    let named = &settings.initial_positions;
    let configured =
        |shard_id: &ShardId| named.get(shard_id).cloned().unwrap_or_else(|| settings.initial_position.into());
    let resumes = |lease: &&Lease| !lease.is_finished() && !is_at(lease, &configured(&lease.shard_id));
    let count = leases.iter().filter(resumes).count();
    let rows: BTreeMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard_id, lease)).collect();
    let new: BTreeSet<&ShardId> = new_leases.iter().collect();
    let is_used = |shard_id: &ShardId, position: &ShardPosition| {
        let row = rows.get(shard_id);
        new.contains(shard_id) || row.is_some_and(|lease| !lease.is_finished() && is_at(lease, position))
    };
    // With an empty table an unused position can only name an unknown shard, which has a warning of its own.
    let overridden = named.iter().filter(|_| !leases.is_empty());
    let unused: BTreeSet<&ShardId> =
        overridden.filter(|(shard_id, position)| !is_used(shard_id, position)).map(|(id, _)| id).collect();
    if count == 0 && unused.is_empty() {
        return None;
    }
    let (initial, new) = (name_of(settings.initial_position), new.len());
    let mut text = format!(
        "{count} shards resume from their checkpoints; the initial position {initial} applies to {new} new ones"
    );
    if !unused.is_empty() {
        let all = named.len();
        text += &format!("; of {all} positions of single shards these are unused: {}", Names(&unused));
    }
    let is_warning = !unused.is_empty() || settings.initial_position != InitialPosition::TrimHorizon;
    Some(StartNotice { is_warning, text })
}

/// Reports the named shards that neither the stream nor the table has.
pub(super) fn unknown_shards(named: &ShardPositions, shards: &[Shard], leases: &[Lease]) -> Option<String> {
    let known: BTreeSet<&ShardId> = shards
        .iter()
        .map(|shard| &shard.shard_id)
        .chain(leases.iter().map(|lease| &lease.shard_id))
        .collect();
    let unknown: BTreeSet<&ShardId> = named.keys().filter(|shard_id| !known.contains(shard_id)).collect();
    (!unknown.is_empty()).then(|| {
        format!(
            "the stream lists no shards called {}, so their positions are unused: either the names are wrong, or the shards \
             are past the retention period and their unread records are lost",
            Names(&unknown)
        )
    })
}

/// Reports start times that lie before the retention of the stream: reading starts at the oldest record instead.
pub(super) fn too_old_timestamps(
    settings: &ConsumerSettings,
    now: Option<SystemTime>,
    retention: Option<Duration>,
) -> Option<String> {
    let (horizon, retention) = (now?.checked_sub(retention?)?, retention?);
    let before = |timestamp: SystemTime| horizon.duration_since(timestamp).ok().filter(|age| !age.is_zero());
    let of_all = settings.initial_position.timestamp().and_then(before);
    let of_single = settings.initial_positions.values().filter_map(|position| match position {
        ShardPosition::AtTimestamp(timestamp) => before(*timestamp),
        _ => None,
    });
    let longest = of_all.into_iter().chain(of_single).max()?;
    Some(format!(
        "the stream keeps records for {retention:?}, and AT_TIMESTAMP lies up to {longest:?} before that: shards without a \
         checkpoint start at the oldest record of the stream"
    ))
}

/// Whether a lease is at the position where a new one would start.
fn is_at(lease: &Lease, configured: &ShardPosition) -> bool {
    let is_same_time = match configured {
        ShardPosition::AtTimestamp(timestamp) => {
            lease.initial_time_millis.is_none_or(|kept| Some(kept) == millis_since_1970(*timestamp))
        }
        _ => true,
    };
    let is_new_child = lease.checkpoint == Position::TrimHorizon && !lease.parents.is_empty();
    is_new_child || (lease.checkpoint == configured.position() && is_same_time)
}

impl From<InitialPosition> for ShardPosition {
    fn from(initial: InitialPosition) -> Self {
        match initial {
            InitialPosition::TrimHorizon => Self::TrimHorizon,
            InitialPosition::Latest => Self::Latest,
            InitialPosition::AtTimestamp(timestamp) => Self::AtTimestamp(timestamp),
        }
    }
}

fn name_of(initial: InitialPosition) -> String {
    match initial.timestamp().and_then(millis_since_1970) {
        Some(millis) => format!("AT_TIMESTAMP ({millis} ms since 1970)"),
        None => initial.position().checkpoint().to_owned(),
    }
}

/// The names of up to [`MAX_NAMED_SHARDS`] shards, and the number of the others.
struct Names<'a>(&'a BTreeSet<&'a ShardId>);

impl fmt::Display for Names<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            self.0.iter().take(MAX_NAMED_SHARDS).map(|shard_id| shard_id.as_str()).collect();
        formatter.write_str(&names.join(", "))?;
        match self.0.len().saturating_sub(MAX_NAMED_SHARDS) {
            0 => Ok(()),
            others => write!(formatter, " and {others} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn settings(initial_position: InitialPosition) -> ConsumerSettings {
        ConsumerSettings { initial_position, ..ConsumerSettings::default() }
    }

    fn lease(number: u64, checkpoint: Position) -> Lease {
        Lease::unowned(ShardId::numbered(number), checkpoint)
    }

    fn after(number: u128) -> Position {
        Position::after(number.into(), 0)
    }

    /// The line, and whether it is a warning. The new leases are those of the shards from 100 on.
    fn notice(settings: &ConsumerSettings, leases: &[Lease], new_leases: u64) -> Option<(String, bool)> {
        let new_leases: Vec<ShardId> = (100..100 + new_leases).map(ShardId::numbered).collect();
        overridden_positions(settings, leases, &new_leases).map(|notice| (notice.text, notice.is_warning))
    }

    #[test]
    fn a_first_start_logs_nothing_even_next_to_other_workers() {
        for initial in
            [InitialPosition::TrimHorizon, InitialPosition::Latest, InitialPosition::AtTimestamp(at(5))]
        {
            let settings = settings(initial);
            assert_eq!(notice(&settings, &[], 3), None);
            let mut of_others = lease(0, initial.position());
            of_others.initial_time_millis = initial.timestamp().map(|_| 5000);
            assert_eq!(notice(&settings, &[of_others, lease(9, Position::ShardEnd)], 3), None);
        }
    }

    #[test]
    fn resumed_shards_are_logged_as_a_warning_if_positions_differ() {
        let leases = [lease(0, after(1)), lease(1, after(2)), lease(2, Position::ShardEnd)];
        for (initial, name, is_warning) in [
            (InitialPosition::TrimHorizon, "TRIM_HORIZON", false),
            (InitialPosition::Latest, "LATEST", true),
            (InitialPosition::AtTimestamp(at(5)), "AT_TIMESTAMP (5000 ms since 1970)", true),
        ] {
            let text = format!(
                "2 shards resume from their checkpoints; the initial position {name} applies to 4 new ones"
            );
            assert_eq!(notice(&settings(initial), &leases, 4), Some((text, is_warning)));
        }
    }

    #[test]
    fn the_start_time_in_the_table_overrides_another_one() {
        let mut kept = lease(0, Position::AtTimestamp);
        kept.initial_time_millis = Some(5000);
        let start_at =
            |second| notice(&settings(InitialPosition::AtTimestamp(at(second))), &[kept.clone()], 0);
        assert_eq!(start_at(5), None);
        assert!(start_at(6).unwrap().0.starts_with("1 shards resume"));
    }

    #[test]
    fn unused_positions_of_single_shards_are_named() {
        let mut settings = settings(InitialPosition::TrimHorizon);
        let position = ShardPosition::After { sequence_number: 7u128.into(), sub_sequence_number: 0 };
        // Five of them get their leases now. One was read to its end, and its lease is deleted.
        let numbers = (0..15).chain(100..105).chain([50]);
        settings.initial_positions =
            numbers.map(|number| (ShardId::numbered(number), position.clone())).collect();
        // The first is at its configured position.
        let leases: Vec<Lease> = (0..15).map(|number| lease(number, after(7 + u128::from(number)))).collect();
        let (text, is_warning) = notice(&settings, &leases, 5).unwrap();
        let named = "of 21 positions of single shards these are unused: shardId-000000000001, ";
        assert!(is_warning && text.contains(named) && text.ends_with(" and 5 more"), "{text}");
        assert!(text.starts_with("14 shards resume from their checkpoints;"), "{text}");
    }

    #[test]
    fn unknown_shards_are_named() {
        let listed = Shard::new(ShardId::numbered(0), false);
        let named: ShardPositions =
            (0..4).map(|number| (ShardId::numbered(number), ShardPosition::Latest)).collect();
        let text = unknown_shards(&named, &[listed], &[lease(1, after(1))]).unwrap();
        assert!(text.contains("no shards called shardId-000000000002, shardId-000000000003,"), "{text}");
        let leases: Vec<Lease> = (0..4).map(|number| lease(number, after(1))).collect();
        assert_eq!(unknown_shards(&named, &[], &leases), None);
    }

    #[test]
    fn a_start_time_before_the_retention_is_reported() {
        let warning = |start: u64, single: u64, now, retention: Option<u64>| {
            let mut settings = settings(InitialPosition::AtTimestamp(at(start)));
            let position = ShardPosition::AtTimestamp(at(single));
            settings.initial_positions.insert(ShardId::numbered(0), position);
            too_old_timestamps(&settings, now, retention.map(Duration::from_secs))
        };
        let now = Some(at(1000));
        assert_eq!(warning(900, 901, now, Some(100)), None);
        assert!(warning(899, 901, now, Some(100)).unwrap().contains("up to 1s before"));
        assert!(warning(899, 890, now, Some(100)).unwrap().contains("up to 10s before"));
        assert_eq!(warning(1, 1, None, Some(100)), None);
        assert_eq!(warning(1, 1, now, None), None);
        assert_eq!(too_old_timestamps(&settings(InitialPosition::Latest), now, Some(Duration::ZERO)), None);
    }
}
