//! Where a bounded run of a shard ends: a pure look at each answer.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use crate::FetchedBatch;

/// Where a bounded run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunUntil {
    /// At the tip of each shard, as it is when the shard is first read up to it. What arrives later is not delivered.
    Tip,
    /// Before the first record that arrived at this time or later, by the stream's clock. If the time is yet to come, the
    /// run waits for it.
    Instant(SystemTime),
}

/// The bound of one shard, and whether it is reached.
///
/// The tip of a closed shard is not where its line ends: its children follow. A shard says that it is closed with the read
/// after its last record at the latest. So an answer at the tip is followed by one more read, and only if that does not tell
/// of the end is the bound reached.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    until: RunUntil,
    /// Nothing more can come before the bound, unless the shard has ended and its children hold it.
    is_last_read: bool,
    is_reached: bool,
}

impl Bound {
    pub(crate) fn new(until: RunUntil) -> Self {
        Self { until, is_last_read: false, is_reached: false }
    }

    /// Whether nothing more of the shard is to be delivered.
    pub(crate) fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// Takes out of an answer what lies beyond the bound; `now` is the time by the stream's clock.
    pub(crate) fn cut(&mut self, fetched: &mut FetchedBatch, now: Option<SystemTime>) {
        if self.is_reached {
            cut_at(fetched, 0);
            return;
        }
        let was_last_read = self.is_last_read;
        let first_beyond = match self.until {
            // The tip was the end of the answer before this one.
            RunUntil::Tip => Some(0).filter(|_| was_last_read && !fetched.records.is_empty()),
            RunUntil::Instant(instant) => fetched
                .records
                .iter()
                .position(|record| record.approximate_arrival.is_some_and(|arrival| arrival >= instant)),
        };
        if let Some(first_beyond) = first_beyond {
            cut_at(fetched, first_beyond);
            self.is_reached = true;
        } else if fetched.shard_end.is_none() {
            // What an answer says of the lag can change back; a tip that was reached stays where it was.
            let is_past_tip = was_last_read && self.until == RunUntil::Tip;
            self.is_last_read = is_past_tip || self.is_at_bound(fetched, now);
            self.is_reached = was_last_read && self.is_last_read;
        }
    }

    /// Whether nothing before the bound can come behind this answer.
    fn is_at_bound(&self, fetched: &FetchedBatch, now: Option<SystemTime>) -> bool {
        // A source that does not tell the lag is at the tip when it has nothing.
        let unknown_lag = || fetched.records.is_empty().then_some(0);
        let Some(lag_millis) = fetched.millis_behind_latest.or_else(unknown_lag) else { return false };
        match self.until {
            RunUntil::Tip => lag_millis == 0,
            RunUntil::Instant(instant) => now
                .and_then(|now| now.checked_sub(Duration::from_millis(lag_millis)))
                .is_some_and(|read_up_to| read_up_to >= instant),
        }
    }
}

/// Leaves the records before this one. Whatever comes behind them, the end of the shard included, was not read.
fn cut_at(fetched: &mut FetchedBatch, first_beyond: usize) {
    fetched.records.truncate(first_beyond);
    fetched.shard_end = None;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Record, ShardEnd};

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// An answer with records that arrived at these seconds, so far behind the tip, and perhaps the end.
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

    /// What is left of each answer: how many records, whether the end, and whether the bound is reached then.
    fn left(until: RunUntil, now: u64, answers: Vec<FetchedBatch>) -> Vec<(usize, bool, bool)> {
        let mut bound = Bound::new(until);
        let left = answers.into_iter().map(|mut answer| {
            bound.cut(&mut answer, Some(at(now)));
            (answer.records.len(), answer.shard_end.is_some(), bound.is_reached())
        });
        left.collect()
    }

    #[test]
    fn the_tip_is_where_it_was_when_it_was_first_reached() {
        let answers = vec![
            answer(&[1, 2], Some(5000), false),
            answer(&[], Some(1), false),
            answer(&[3], Some(0), false),
            answer(&[4, 5], Some(0), false),
            answer(&[6], Some(0), true),
        ];
        let expected =
            [(2, false, false), (0, false, false), (1, false, false), (0, false, true), (0, false, true)];
        assert_eq!(left(RunUntil::Tip, 100, answers), expected);
    }

    #[test]
    fn the_tip_of_an_idle_shard_is_an_empty_answer_and_another_one() {
        let empty = |lag| answer(&[], lag, false);
        let expected = [(0, false, false), (0, false, true)];
        assert_eq!(left(RunUntil::Tip, 100, vec![empty(Some(0)), empty(Some(0))]), expected);
        assert_eq!(left(RunUntil::Tip, 100, vec![empty(None), empty(None)]), expected);
        // Something has arrived meanwhile, and the answer does not hold it yet.
        assert_eq!(left(RunUntil::Tip, 100, vec![empty(Some(0)), empty(Some(1))]), expected);
    }

    #[test]
    fn a_closed_shard_ends_at_its_tip_and_its_children_follow() {
        for until in [RunUntil::Tip, RunUntil::Instant(at(50))] {
            let at_once = vec![answer(&[1], Some(0), true)];
            assert_eq!(left(until, 100, at_once), [(1, true, false)]);
            let later = vec![answer(&[1], Some(0), false), answer(&[], Some(0), true)];
            assert_eq!(left(until, 100, later), [(1, false, false), (0, true, false)]);
        }
    }

    #[test]
    fn what_arrived_at_the_instant_is_left_with_the_end_behind_it() {
        let until = RunUntil::Instant(at(10));
        let mid_answer = vec![answer(&[8, 9, 10, 9, 11], Some(7000), true)];
        assert_eq!(left(until, 100, mid_answer), [(2, false, true)]);
        let at_the_start = vec![answer(&[10], Some(0), false), answer(&[3], Some(0), false)];
        assert_eq!(left(until, 100, at_the_start), [(0, false, true), (0, false, true)]);
    }

    #[test]
    fn an_instant_is_reached_when_the_lag_says_that_nothing_older_can_come() {
        let until = RunUntil::Instant(at(10));
        let empty = |lag| answer(&[], Some(lag), false);
        // By 20 seconds, 10 behind is the instant, and a little more is not.
        assert_eq!(left(until, 20, vec![empty(10_001), empty(10_001)])[1], (0, false, false));
        assert_eq!(
            left(until, 20, vec![empty(10_000), empty(10_000)]),
            [(0, false, false), (0, false, true)]
        );
        assert_eq!(left(until, 9, vec![empty(0), empty(0)])[1], (0, false, false), "it is yet to come");
        // A record that is older all the same is delivered.
        let late = vec![empty(0), answer(&[7], Some(0), false), empty(0)];
        assert_eq!(left(until, 20, late), [(0, false, false), (1, false, true), (0, false, true)]);
    }

    #[test]
    fn without_a_clock_only_a_record_ends_the_run_to_an_instant() {
        let mut bound = Bound::new(RunUntil::Instant(at(10)));
        for _ in 0..3 {
            bound.cut(&mut answer(&[], Some(0), false), None);
            assert!(!bound.is_reached());
        }
        bound.cut(&mut answer(&[10], Some(0), false), None);
        assert!(bound.is_reached());
    }

    proptest! {
        /// What is delivered is a prefix of what the shard holds; nothing that lies before the instant is left out once
        /// the bound is reached, and nothing at or after it is delivered.
        #[test]
        fn exactly_what_lies_before_the_instant_is_delivered(
            gaps in prop::collection::vec(0..4u64, 0..60),
            cuts in prop::collection::vec(0..5usize, 1..80),
            instant in 0..120u64,
        ) {
            let mut second = 0;
            let arrivals: Vec<u64> = gaps.iter().map(|gap| { second += gap; second }).collect();
            let now = 200;
            let (mut bound, mut read, mut delivered) = (Bound::new(RunUntil::Instant(at(instant))), 0, Vec::new());
            for count in cuts {
                let end = (read + count).min(arrivals.len());
                // Behind by the age of what was read last, while there is more; else at the tip.
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
