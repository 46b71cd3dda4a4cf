//! Whether records were lost between two reads of a shard because the stream no longer keeps them, and how sure that is:
//! a pure look at each answer.
//!
//! Reading from a stored position starts *at* its record. Where the answer begins with a later one, the stream has removed the
//! stored record, and perhaps others behind it. Which ones, nobody can tell any more: what there is to go by is when the
//! first record that is left arrived, and how far back the stream keeps records (its horizon).

use std::fmt;
use std::time::SystemTime;

use lease_store::{Position, RecordPosition, SequenceNumber};
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use crate::Record;

/// A first record that arrived within this part of the retention period after the horizon is taken for one of many that came
/// one after the other, the older ones of which are gone: with a day of retention, an hour.
const LIKELY_PART_OF_RETENTION: u32 = 24;

/// What to do when records were lost because the stream no longer keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum DataLossPolicy {
    /// The shard is not read on, and its state says so; the others are. Only where a loss is likely: what is merely possible
    /// is logged and counted.
    #[default]
    Fail,
    /// The lost span is logged and counted, and reading goes on at the oldest record that is left.
    Continue,
}

/// How sure it is that records were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LossEvidence {
    /// The last record that was read is gone. The next one arrived long after the horizon, as happens on a quiet shard
    /// that lost nothing; or it cannot be told when it arrived, or how long records are kept.
    Possible,
    /// What is left begins right at the horizon, so there were most likely older records; or the shard as a whole is gone.
    Likely,
}

/// A stretch of a shard that is no longer in the stream and of which it is not known that it was empty.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostSpan {
    /// Everything up to this record is done.
    pub after: RecordPosition,
    /// When that record arrived; `None`: it was read by an earlier holder, and the checkpoint does not say.
    pub after_arrival: Option<SystemTime>,
    /// The first record that is left; `None`: the stream no longer has the shard.
    pub first_left: Option<SequenceNumber>,
    /// When that one arrived, where the stream says so.
    pub first_left_arrival: Option<SystemTime>,
    /// What arrived before this is gone; `None`: it is not known how long the stream keeps records.
    pub horizon: Option<SystemTime>,
    /// How sure it is.
    pub evidence: LossEvidence,
}

impl LostSpan {
    /// How much time lies between the arrivals of the last record that was read and the first one that is left, where both
    /// are known.
    pub fn gap(&self) -> Option<Duration> {
        self.first_left_arrival?.duration_since(self.after_arrival?).ok()
    }

    /// How long after the horizon the first record that is left arrived; zero if before.
    pub fn first_left_after_horizon(&self) -> Option<Duration> {
        Some(self.first_left_arrival?.duration_since(self.horizon?).unwrap_or_default())
    }
}

impl fmt::Display for LostSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = Position::After(self.after.clone());
        match &self.first_left {
            Some(first) => write!(formatter, "between {after} and {first}")?,
            None => write!(formatter, "after {after}, since the stream no longer has the shard")?,
        }
        match self.gap() {
            Some(gap) => write!(formatter, "; {gap:?} between the two")?,
            None if self.after_arrival.is_none() => {
                formatter.write_str("; when the last one that was read arrived is not known")?;
            }
            None => {}
        }
        match self.first_left_after_horizon() {
            Some(after) => write!(formatter, "; the first that is left arrived {after:?} after the horizon"),
            None if self.horizon.is_none() => {
                formatter.write_str("; how long the stream keeps records is not known")
            }
            None => Ok(()),
        }
    }
}

/// What the stream keeps at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// What arrived before this is gone.
    pub(crate) horizon: SystemTime,
    /// How long records are kept.
    pub(crate) retention: Duration,
}

/// Follows how far a shard is read, and notices when the next answer does not go on there.
#[derive(Debug, Clone)]
pub(crate) struct LossWatch {
    last: LastRead,
}

#[derive(Debug, Clone)]
enum LastRead {
    /// Nothing: there is no place that an answer would have to go on from.
    Nothing,
    /// By an earlier holder. The first answer begins with it, unless it is gone.
    Stored(RecordPosition),
    /// By this worker.
    Record { position: RecordPosition, arrival: Option<SystemTime> },
}

impl LossWatch {
    /// Reading starts at this position.
    pub(crate) fn new(start: &Position) -> Self {
        let last = match start {
            Position::After(stored) => LastRead::Stored(stored.clone()),
            _ => LastRead::Nothing,
        };
        Self { last }
    }

    /// What may be missing before this answer. Changes nothing, so that an answer that is not accepted can be judged again.
    pub(crate) fn look(&self, records: &[Record], kept: Option<Kept>) -> Option<LostSpan> {
        let first = records.first()?;
        let (after, after_arrival) = match &self.last {
            LastRead::Nothing => return None,
            // It is there, or an older one is: so it is not the stream that left anything out.
            LastRead::Stored(stored) if first.sequence_number <= stored.sequence_number => return None,
            LastRead::Stored(stored) => (stored, None),
            LastRead::Record { arrival: None, .. } => return None,
            LastRead::Record { position, arrival: Some(arrival) } => (position, Some(*arrival)),
        };
        Some(LostSpan {
            after: after.clone(),
            after_arrival,
            first_left: Some(first.sequence_number.clone()),
            first_left_arrival: first.approximate_arrival,
            horizon: kept.map(|kept| kept.horizon),
            evidence: evidence(after_arrival, first.approximate_arrival, kept)?,
        })
    }

    /// What may be missing now that the stream no longer has the shard. If nothing was ever read of it, that is not known to
    /// have been anything: `None`.
    pub(crate) fn shard_is_gone(&self, kept: Option<Kept>) -> Option<LostSpan> {
        let (after, after_arrival) = match &self.last {
            LastRead::Nothing => return None,
            LastRead::Stored(stored) => (stored, None),
            LastRead::Record { position, arrival } => (position, *arrival),
        };
        Some(LostSpan {
            after: after.clone(),
            after_arrival,
            first_left: None,
            first_left_arrival: None,
            horizon: kept.map(|kept| kept.horizon),
            evidence: LossEvidence::Likely,
        })
    }

    /// The answer is accepted; the next one has to go on behind it. An empty one at the tip settles a stored position too:
    /// nothing is left of which anything could be told.
    pub(crate) fn accept(&mut self, records: &[Record], is_at_tip: bool) {
        if let Some(last) = records.last() {
            let position = RecordPosition {
                sequence_number: last.sequence_number.clone(),
                sub_sequence_number: last.sub_sequence_number,
            };
            self.last = LastRead::Record { position, arrival: last.approximate_arrival };
        } else if is_at_tip && matches!(self.last, LastRead::Stored(_)) {
            self.last = LastRead::Nothing;
        }
    }
}

/// How sure it is that records are missing between two that follow each other; `None`: none are, as far as can be told.
///
/// The earlier record of the two is known to be gone if `after_arrival` is `None`; else this worker has read it itself.
fn evidence(
    after_arrival: Option<SystemTime>,
    first_arrival: Option<SystemTime>,
    kept: Option<Kept>,
) -> Option<LossEvidence> {
    let unsure = after_arrival.is_none().then_some(LossEvidence::Possible);
    let (Some(first), Some(Kept { horizon, retention })) = (first_arrival, kept) else { return unsure };
    let likely_within = retention / LIKELY_PART_OF_RETENTION;
    let is_near_horizon = first.duration_since(horizon).unwrap_or_default() <= likely_within;
    let Some(after) = after_arrival else {
        return if is_near_horizon { Some(LossEvidence::Likely) } else { unsure };
    };
    // What came after a record that the stream still keeps is still there too.
    let is_gone = after < horizon;
    // Whoever reads at the very horizon all the time sees records follow each other there, with nothing in between.
    let is_gap = first.duration_since(after).unwrap_or_default() > likely_within;
    (is_gone && is_gap && is_near_horizon).then_some(LossEvidence::Likely)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW_HOURS: u64 = 1000;

    fn at_hour(hour: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(hour * 3600)
    }

    /// A day back from hour 1000: the horizon is hour 976.
    fn a_day() -> Option<Kept> {
        Some(Kept { horizon: at_hour(NOW_HOURS - 24), retention: DAY })
    }

    fn record(number: u64, arrival_hour: Option<u64>) -> Record {
        Record {
            sequence_number: u128::from(number).into(),
            sub_sequence_number: 0,
            partition_key: None,
            data: bytes::Bytes::new(),
            approximate_arrival: arrival_hour.map(at_hour),
        }
    }

    fn after(number: u64) -> Position {
        Position::after(u128::from(number).into(), 2)
    }

    fn judged(start: &Position, first: &Record, kept: Option<Kept>) -> Option<LossEvidence> {
        LossWatch::new(start).look(std::slice::from_ref(first), kept).map(|span| span.evidence)
    }

    #[test]
    fn the_first_answer_after_a_stored_position() {
        use LossEvidence::{Likely, Possible};
        let first = |number, hour| record(number, Some(hour));
        for (what, start, first, kept, expected) in [
            ("the stored record is there", after(5), first(5, 976), a_day(), None),
            ("an older one is there", after(5), first(4, 976), a_day(), None),
            ("right at the horizon", after(5), first(9, 976), a_day(), Some(Likely)),
            ("older than the horizon, and not removed yet", after(5), first(9, 970), a_day(), Some(Likely)),
            ("within the hour", after(5), first(9, 977), a_day(), Some(Likely)),
            ("long after the horizon", after(5), first(9, 978), a_day(), Some(Possible)),
            ("just now", after(5), first(9, 1000), a_day(), Some(Possible)),
            ("no arrival", after(5), record(9, None), a_day(), Some(Possible)),
            ("no retention", after(5), first(9, 976), None, Some(Possible)),
            ("nothing was stored", Position::TrimHorizon, first(9, 976), a_day(), None),
            ("nor at a time", Position::AtTimestamp, first(9, 976), a_day(), None),
        ] {
            assert_eq!(judged(&start, &first, kept), expected, "{what}");
        }
    }

    #[test]
    fn an_answer_that_is_empty_at_the_tip_settles_it_and_one_before_the_tip_does_not() {
        for (is_at_tip, expected) in [(true, None), (false, Some(LossEvidence::Likely))] {
            let mut watch = LossWatch::new(&after(5));
            assert_eq!(watch.look(&[], a_day()), None);
            watch.accept(&[], is_at_tip);
            let found = watch.look(&[record(9, Some(976))], a_day());
            assert_eq!(found.map(|span| span.evidence), expected);
        }
    }

    #[test]
    fn a_pause_past_the_retention_period_is_noticed_while_reading() {
        let mut watch = LossWatch::new(&Position::TrimHorizon);
        watch.accept(&[record(5, Some(970))], false);
        let next = |hour| watch.look(&[record(6, Some(hour))], a_day());
        let span = next(976).unwrap();
        assert_eq!((span.evidence, span.gap()), (LossEvidence::Likely, Some(Duration::from_secs(6 * 3600))));
        assert_eq!(next(971), None, "at the horizon, one after the other");
        assert_eq!(next(1000), None, "a quiet shard, read at its tip");
        watch.accept(&[record(7, Some(976))], false);
        assert_eq!(watch.look(&[record(8, Some(977))], a_day()), None, "it is still kept");
    }

    #[test]
    fn a_shard_that_is_gone_has_lost_what_was_not_read_of_it() {
        let gone = |start: &Position| LossWatch::new(start).shard_is_gone(a_day());
        assert_eq!(gone(&Position::TrimHorizon), None);
        let span = gone(&after(5)).unwrap();
        assert_eq!((span.evidence, span.first_left), (LossEvidence::Likely, None));
    }

    #[test]
    fn the_span_is_said_in_full_and_what_is_not_known_too() {
        let span = LossWatch::new(&after(5)).look(&[record(9, Some(977))], a_day()).unwrap();
        assert_eq!(
            span.to_string(),
            "between 5/2 and 9; when the last one that was read arrived is not known; the first that is left arrived \
             3600s after the horizon"
        );
        let span = LossWatch::new(&after(5)).look(&[record(9, None)], None).unwrap();
        assert!(span.to_string().ends_with("how long the stream keeps records is not known"), "{span}");
        let mut watch = LossWatch::new(&after(5));
        watch.accept(&[record(6, Some(900))], false);
        let gone = watch.shard_is_gone(a_day()).unwrap();
        assert_eq!(gone.to_string(), "after 6, since the stream no longer has the shard");
        assert_eq!(gone.after_arrival, Some(at_hour(900)));
        let span = watch.look(&[record(7, Some(976))], a_day()).unwrap();
        assert!(span.to_string().starts_with("between 6 and 7; 273600s between the two;"), "{span}");
    }

    proptest! {
        /// A shard that is read without a pause, at any distance from the horizon, is never said to have lost anything; and
        /// records that really were removed unread next to the horizon, at the pace of the shard, always are.
        #[test]
        fn a_steady_reader_loses_nothing_and_a_steady_stream_cannot_hide_a_loss(
            gaps_minutes in prop::collection::vec(0..50u64, 2..100),
            read in any::<prop::sample::Index>(),
            removed in any::<prop::sample::Index>(),
        ) {
            let mut minutes = 0;
            let records: Vec<Record> = gaps_minutes
                .iter()
                .zip(1..)
                .map(|(gap, number)| {
                    minutes += gap;
                    let arrival = SystemTime::UNIX_EPOCH + Duration::from_secs(minutes * 60);
                    Record { approximate_arrival: Some(arrival), ..record(number, None) }
                })
                .collect();
            let arrival = |index: usize| records[index].approximate_arrival.unwrap();
            // The horizon stands just behind the record that was read last, wherever that is.
            let read = read.index(records.len() - 1);
            let kept = Kept { horizon: arrival(read) + Duration::from_secs(1), retention: DAY };
            let mut watch = LossWatch::new(&Position::TrimHorizon);
            for index in 0..=read {
                prop_assert_eq!(watch.look(&records[index..=index], Some(kept)), None);
                watch.accept(&records[index..=index], false);
            }
            prop_assert_eq!(watch.look(&records[read + 1..], Some(kept)), None);
            // Everything up to a later record is removed; a stored position before it is found to have lost something.
            let removed = read + removed.index(records.len() - 1 - read);
            let horizon = arrival(removed) + Duration::from_millis(1);
            let stored = LossWatch::new(&records[read].position());
            let found = stored.look(&records[removed + 1..], Some(Kept { horizon, retention: DAY }));
            let expected = (removed + 1 < records.len()).then_some(LossEvidence::Likely);
            prop_assert_eq!(found.map(|span| span.evidence), expected);
        }
    }
}
