//! Where a bounded run of a shard ends: cuts each fetched batch at the bound; pure.

use std::time::SystemTime;

use lease_store::settings_format;
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use crate::source::FetchedBatch;

/// Where a bounded run ends.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use shard_worker::RunUntil;
///
/// // Reads all records that arrived before the start of the hour.
/// let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
/// let until = RunUntil::Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(since_1970 / 3600 * 3600));
/// assert_ne!(until, RunUntil::Tip);
/// # Ok::<(), std::time::SystemTimeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum RunUntil {
    /// At the tip of each shard at the time when the shard is first read up to it. Later records are not delivered.
    Tip,
    /// Before the first record that arrived at this time or later, by the stream's clock. The run waits for a time in the
    /// future.
    Timestamp(#[serde(with = "settings_format::timestamp")] SystemTime),
}

/// The bound of one shard, and whether it is reached.
///
/// After the tip of a closed shard its children follow. A closed shard reports its end at the latest with the read after
/// its last record. So an answer at the tip is followed by one more read, and the bound is reached only if that read does
/// not report the end.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    until: RunUntil,
    /// This shard holds no more records before the bound, unless the next read reports its end.
    is_last_read: bool,
    is_reached: bool,
}

impl Bound {
    pub(crate) fn new(until: RunUntil) -> Self {
        Self { until, is_last_read: false, is_reached: false }
    }

    /// Whether all records of the shard before the bound were returned.
    pub(crate) fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// Removes the records beyond the bound; `now` is the time by the stream's clock.
    pub(crate) fn cut(&mut self, fetched: &mut FetchedBatch, now: Option<SystemTime>) {
        if self.is_reached {
            cut_at(fetched, 0);
            return;
        }
        let was_last_read = self.is_last_read;
        let first_beyond = match self.until {
            // The tip was at the end of the answer before this one.
            RunUntil::Tip => Some(0).filter(|_| was_last_read && !fetched.records.is_empty()),
            RunUntil::Timestamp(instant) => fetched
                .records
                .iter()
                .position(|record| record.approximate_arrival.is_some_and(|arrival| arrival >= instant)),
        };
        if let Some(first_beyond) = first_beyond {
            cut_at(fetched, first_beyond);
            self.is_reached = true;
        } else if fetched.shard_end.is_none() {
            // A later answer can report a lag again; a tip that was reached does not move.
            let is_past_tip = was_last_read && self.until == RunUntil::Tip;
            self.is_last_read = is_past_tip || self.is_at_bound(fetched, now);
            self.is_reached = was_last_read && self.is_last_read;
        }
    }

    /// Whether no record before the bound can follow this answer.
    fn is_at_bound(&self, fetched: &FetchedBatch, now: Option<SystemTime>) -> bool {
        // A source that does not report its lag is at the tip when it returns no records.
        let unknown_lag = || fetched.records.is_empty().then_some(0);
        let Some(lag_millis) = fetched.millis_behind_latest.or_else(unknown_lag) else { return false };
        match self.until {
            RunUntil::Tip => lag_millis == 0,
            RunUntil::Timestamp(instant) => now
                .and_then(|now| now.checked_sub(Duration::from_millis(lag_millis)))
                .is_some_and(|read_up_to| read_up_to >= instant),
        }
    }
}

/// Removes the records from this one on, and the end of the shard behind them.
fn cut_at(fetched: &mut FetchedBatch, first_beyond: usize) {
    fetched.records.truncate(first_beyond);
    fetched.shard_end = None;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Record;
    use crate::source::ShardEnd;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// An answer with records that arrived at these seconds, a lag, and perhaps the end of the shard.
    fn answer(arrivals: &[u64], lag_millis: Option<u64>, is_end: bool) -> FetchedBatch {
        let record = |second: &u64| Record {
            sequence_number: u128::from(*second).into(),
            sub_sequence_number: 0,
            partition_key: None,
            data: bytes::Bytes::new(),
            approximate_arrival: Some(at(*second)),
        };
        FetchedBatch {
            records: arrivals.iter().map(record).collect(),
            millis_behind_latest: lag_millis,
            shard_end: is_end.then(|| ShardEnd { children: Vec::new() }),
        }
    }

    /// For each answer after the cut: its records, whether it holds the end, and whether the bound is reached.
    fn cut_all(until: RunUntil, now: u64, answers: Vec<FetchedBatch>) -> Vec<(usize, bool, bool)> {
        let mut bound = Bound::new(until);
        let cut = answers.into_iter().map(|mut answer| {
            bound.cut(&mut answer, Some(at(now)));
            (answer.records.len(), answer.shard_end.is_some(), bound.is_reached())
        });
        cut.collect()
    }

    #[test]
    fn a_tip_that_was_reached_does_not_move() {
        let answers = vec![
            answer(&[1, 2], Some(5000), false),
            answer(&[], Some(1), false),
            answer(&[3], Some(0), false),
            answer(&[4, 5], Some(0), false),
            answer(&[6], Some(0), true),
        ];
        let expected =
            [(2, false, false), (0, false, false), (1, false, false), (0, false, true), (0, false, true)];
        assert_eq!(cut_all(RunUntil::Tip, 100, answers), expected);
    }

    #[test]
    fn two_empty_answers_are_the_tip_of_an_idle_shard() {
        let empty = |lag| answer(&[], lag, false);
        let expected = [(0, false, false), (0, false, true)];
        assert_eq!(cut_all(RunUntil::Tip, 100, vec![empty(Some(0)), empty(Some(0))]), expected);
        assert_eq!(cut_all(RunUntil::Tip, 100, vec![empty(None), empty(None)]), expected);
        // A record has arrived meanwhile, and the answer does not hold it yet.
        assert_eq!(cut_all(RunUntil::Tip, 100, vec![empty(Some(0)), empty(Some(1))]), expected);
    }

    #[test]
    fn a_closed_shard_ends_at_its_tip_instead_of_at_the_bound() {
        for until in [RunUntil::Tip, RunUntil::Timestamp(at(50))] {
            let at_once = vec![answer(&[1], Some(0), true)];
            assert_eq!(cut_all(until, 100, at_once), [(1, true, false)]);
            let later = vec![answer(&[1], Some(0), false), answer(&[], Some(0), true)];
            assert_eq!(cut_all(until, 100, later), [(1, false, false), (0, true, false)]);
        }
    }

    #[test]
    fn records_at_the_instant_and_the_end_behind_them_are_cut() {
        let until = RunUntil::Timestamp(at(10));
        let mid_answer = vec![answer(&[8, 9, 10, 9, 11], Some(7000), true)];
        assert_eq!(cut_all(until, 100, mid_answer), [(2, false, true)]);
        let at_the_start = vec![answer(&[10], Some(0), false), answer(&[3], Some(0), false)];
        assert_eq!(cut_all(until, 100, at_the_start), [(0, false, true), (0, false, true)]);
    }

    #[test]
    fn an_instant_is_reached_when_the_lag_excludes_older_records() {
        let until = RunUntil::Timestamp(at(10));
        let empty = |lag| answer(&[], Some(lag), false);
        // At second 20 a lag of 10 seconds is the instant; a longer lag is before it.
        assert_eq!(cut_all(until, 20, vec![empty(10_001), empty(10_001)])[1], (0, false, false));
        assert_eq!(
            cut_all(until, 20, vec![empty(10_000), empty(10_000)]),
            [(0, false, false), (0, false, true)]
        );
        assert_eq!(
            cut_all(until, 9, vec![empty(0), empty(0)])[1],
            (0, false, false),
            "the instant is in the future"
        );
        // An older record that arrives late is delivered.
        let late = vec![empty(0), answer(&[7], Some(0), false), empty(0)];
        assert_eq!(cut_all(until, 20, late), [(0, false, false), (1, false, true), (0, false, true)]);
    }

    #[test]
    fn without_a_clock_only_a_record_ends_the_run_to_an_instant() {
        let mut bound = Bound::new(RunUntil::Timestamp(at(10)));
        for _ in 0..3 {
            bound.cut(&mut answer(&[], Some(0), false), None);
            assert!(!bound.is_reached());
        }
        bound.cut(&mut answer(&[10], Some(0), false), None);
        assert!(bound.is_reached());
    }

    proptest! {
        /// The delivered records are a prefix of the shard. Once the bound is reached they are exactly the records before
        /// the instant.
        #[test]
        fn exactly_the_records_before_the_instant_are_delivered(
            gaps in prop::collection::vec(0..4u64, 0..60),
            cuts in prop::collection::vec(0..5usize, 1..80),
            instant in 0..120u64,
        ) {
            let mut second = 0;
            let arrivals: Vec<u64> = gaps.iter().map(|gap| { second += gap; second }).collect();
            let now = 200;
            let (mut bound, mut read, mut delivered) = (Bound::new(RunUntil::Timestamp(at(instant))), 0, Vec::new());
            for count in cuts {
                let end = (read + count).min(arrivals.len());
                // The lag is the age of the last read record, or zero at the tip.
                let last = arrivals[..end].last().copied().unwrap_or(0);
                let lag = if end == arrivals.len() { 0 } else { (now - last) * 1000 };
                let mut answer = answer(&arrivals[read..end], Some(lag), false);
                read = end;
                bound.cut(&mut answer, Some(at(now)));
                delivered.extend(answer.records.iter().map(|record| record.approximate_arrival.unwrap()));
            }
            let expected: Vec<SystemTime> =
                arrivals.iter().filter(|second| **second < instant).map(|second| at(*second)).collect();
            prop_assert!(expected.starts_with(&delivered), "{delivered:?} of {expected:?}");
            if bound.is_reached() {
                prop_assert_eq!(delivered, expected);
            }
        }
    }
}
