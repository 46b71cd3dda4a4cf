//! Detects records that the stream removed before they were read, and rates the evidence; pure.
//!
//! Reading from a stored position starts *at* its record. If the answer begins with a later record, the stream has removed
//! the stored one, and perhaps others after it. Two facts remain as evidence: when the first remaining record arrived, and
//! how far back the stream keeps records (its horizon).

use std::fmt;
use std::time::SystemTime;

use lease_store::{Position, RecordPosition, SequenceNumber};
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use crate::record::Record;

/// If the first remaining record arrived within this part of the retention period after the horizon, older records are
/// likely lost: with a retention of a day, within an hour.
const LIKELY_PART_OF_RETENTION: u32 = 24;

/// What to do when the stream removed records before they were read.
///
/// ```
/// use shard_worker::DataLossPolicy;
///
/// assert_eq!(DataLossPolicy::default(), DataLossPolicy::Fail);
/// let policy: DataLossPolicy = serde_json::from_str(r#""CONTINUE""#)?;
/// assert_eq!(policy, DataLossPolicy::Continue);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum DataLossPolicy {
    /// Reading of the shard stops, and its state reports that; other shards continue. This applies to likely losses; a
    /// possible loss is only logged and counted.
    #[default]
    Fail,
    /// The lost span is logged and counted, and reading continues at the oldest remaining record.
    Continue,
}

/// How strong the evidence for a loss is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LossEvidence {
    /// The last read record is gone. The next one arrived long after the horizon, as on a quiet shard that lost nothing; or
    /// its arrival or the retention period is not known.
    Possible,
    /// The first remaining record arrived close to the horizon, so older ones most likely existed; or the shard is gone.
    Likely,
}

/// A span of a shard that the stream has removed, and that may have held unread records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LostSpan {
    /// All records up to this one are done.
    pub(crate) after: RecordPosition,
    /// When that record arrived. `None`: an earlier owner read it, and the checkpoint does not store it.
    pub(crate) after_arrival: Option<SystemTime>,
    /// The first remaining record. `None`: the stream no longer has the shard.
    pub(crate) first_remaining: Option<SequenceNumber>,
    /// When that one arrived. `None`: the stream does not report it.
    pub(crate) first_remaining_arrival: Option<SystemTime>,
    /// Records that arrived before this time are gone. `None`: the retention period is not known.
    pub(crate) horizon: Option<SystemTime>,
    /// How strong the evidence is.
    pub(crate) evidence: LossEvidence,
}

impl LostSpan {
    /// The time between the arrivals of the last read record and the first remaining one, if both are known.
    pub(crate) fn gap(&self) -> Option<Duration> {
        self.first_remaining_arrival?.duration_since(self.after_arrival?).ok()
    }

    /// How long after the horizon the first remaining record arrived; zero if before.
    pub(crate) fn first_remaining_after_horizon(&self) -> Option<Duration> {
        Some(self.first_remaining_arrival?.duration_since(self.horizon?).unwrap_or_default())
    }
}

impl fmt::Display for LostSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = Position::After(self.after.clone());
        match &self.first_remaining {
            Some(first) => write!(formatter, "between {after} and {first}")?,
            None => write!(formatter, "after {after}, since the stream no longer has the shard")?,
        }
        match self.gap() {
            Some(gap) => write!(formatter, "; {gap:?} between the two")?,
            None if self.after_arrival.is_none() => {
                formatter.write_str("; the arrival of the last read record is not known")?;
            }
            None => {}
        }
        match self.first_remaining_after_horizon() {
            Some(after) => {
                write!(formatter, "; the first remaining record arrived {after:?} after the horizon")
            }
            None if self.horizon.is_none() => formatter.write_str("; the retention period is not known"),
            None => Ok(()),
        }
    }
}

/// Which records the stream keeps at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetentionWindow {
    /// Records that arrived before this time are gone.
    pub(crate) horizon: SystemTime,
    /// How long the stream keeps records.
    pub(crate) retention: Duration,
}

/// Follows how far a shard is read, and detects an answer that does not resume there.
#[derive(Debug, Clone)]
pub(crate) struct LossDetector {
    last: LastRead,
}

#[derive(Debug, Clone)]
enum LastRead {
    /// No record was read, so there is no position where an answer would have to resume.
    Nothing,
    /// An earlier owner read this record. The first answer begins with it, unless it is gone.
    Stored(RecordPosition),
    /// This worker read this record.
    Record { position: RecordPosition, arrival: Option<SystemTime> },
}

impl LossDetector {
    /// Reading starts at this position.
    pub(crate) fn new(start: &Position) -> Self {
        let last = match start {
            Position::After(stored) => LastRead::Stored(stored.clone()),
            _ => LastRead::Nothing,
        };
        Self { last }
    }

    /// The span that may be lost before this answer. It changes nothing, so that a refused answer can be checked again.
    pub(crate) fn check(&self, records: &[Record], retained: Option<RetentionWindow>) -> Option<LostSpan> {
        let first = records.first()?;
        let (after, after_arrival) = match &self.last {
            LastRead::Nothing => return None,
            // The stored record or an older one is there, so the stream removed nothing after it.
            LastRead::Stored(stored) if first.sequence_number <= stored.sequence_number => return None,
            LastRead::Stored(stored) => (stored, None),
            LastRead::Record { arrival: None, .. } => return None,
            LastRead::Record { position, arrival: Some(arrival) } => (position, Some(*arrival)),
        };
        Some(LostSpan {
            after: after.clone(),
            after_arrival,
            first_remaining: Some(first.sequence_number.clone()),
            first_remaining_arrival: first.approximate_arrival,
            horizon: retained.map(|retained| retained.horizon),
            evidence: evidence(after_arrival, first.approximate_arrival, retained)?,
        })
    }

    /// The span that may be lost when the stream no longer has the shard. `None`: no record of the shard was ever read, so
    /// it may have been empty.
    pub(crate) fn shard_is_gone(&self, retained: Option<RetentionWindow>) -> Option<LostSpan> {
        let (after, after_arrival) = match &self.last {
            LastRead::Nothing => return None,
            LastRead::Stored(stored) => (stored, None),
            LastRead::Record { position, arrival } => (position, *arrival),
        };
        Some(LostSpan {
            after: after.clone(),
            after_arrival,
            first_remaining: None,
            first_remaining_arrival: None,
            horizon: retained.map(|retained| retained.horizon),
            evidence: LossEvidence::Likely,
        })
    }

    /// Accepts an answer; the next one has to resume after it. An empty answer at the tip also clears a stored position: no
    /// record remains that could be evidence.
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

/// The evidence for a loss between two consecutive records; `None`: there is none.
///
/// If `after_arrival` is `None`, the earlier record is known to be gone; otherwise this worker has read it itself.
fn evidence(
    after_arrival: Option<SystemTime>,
    first_arrival: Option<SystemTime>,
    retained: Option<RetentionWindow>,
) -> Option<LossEvidence> {
    let unsure = after_arrival.is_none().then_some(LossEvidence::Possible);
    let (Some(first), Some(RetentionWindow { horizon, retention })) = (first_arrival, retained) else {
        return unsure;
    };
    let likely_within = retention / LIKELY_PART_OF_RETENTION;
    let is_near_horizon = first.duration_since(horizon).unwrap_or_default() <= likely_within;
    let Some(after) = after_arrival else {
        return if is_near_horizon { Some(LossEvidence::Likely) } else { unsure };
    };
    // If the stream still keeps the earlier record, it also keeps all records after it.
    let is_gone = after < horizon;
    // A consumer that always reads at the horizon sees consecutive records there, with none lost in between.
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
    fn a_day() -> Option<RetentionWindow> {
        Some(RetentionWindow { horizon: at_hour(NOW_HOURS - 24), retention: DAY })
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

    fn evidence_of(
        start: &Position,
        first: &Record,
        retained: Option<RetentionWindow>,
    ) -> Option<LossEvidence> {
        LossDetector::new(start).check(std::slice::from_ref(first), retained).map(|span| span.evidence)
    }

    #[test]
    fn the_first_answer_after_a_stored_position_is_evidence() {
        use LossEvidence::{Likely, Possible};
        let first = |number, hour| record(number, Some(hour));
        for (what, start, first, retained, expected) in [
            ("the stored record is there", after(5), first(5, 976), a_day(), None),
            ("an older one is there", after(5), first(4, 976), a_day(), None),
            ("right at the horizon", after(5), first(9, 976), a_day(), Some(Likely)),
            ("older than the horizon, and not yet removed", after(5), first(9, 970), a_day(), Some(Likely)),
            ("within the hour", after(5), first(9, 977), a_day(), Some(Likely)),
            ("long after the horizon", after(5), first(9, 978), a_day(), Some(Possible)),
            ("just now", after(5), first(9, 1000), a_day(), Some(Possible)),
            ("no arrival", after(5), record(9, None), a_day(), Some(Possible)),
            ("no retention", after(5), first(9, 976), None, Some(Possible)),
            ("no position was stored", Position::TrimHorizon, first(9, 976), a_day(), None),
            ("only a timestamp was stored", Position::AtTimestamp, first(9, 976), a_day(), None),
        ] {
            assert_eq!(evidence_of(&start, &first, retained), expected, "{what}");
        }
    }

    #[test]
    fn only_an_empty_answer_at_the_tip_clears_a_stored_position() {
        for (is_at_tip, expected) in [(true, None), (false, Some(LossEvidence::Likely))] {
            let mut watch = LossDetector::new(&after(5));
            assert_eq!(watch.check(&[], a_day()), None);
            watch.accept(&[], is_at_tip);
            let found = watch.check(&[record(9, Some(976))], a_day());
            assert_eq!(found.map(|span| span.evidence), expected);
        }
    }

    #[test]
    fn a_pause_past_the_retention_period_is_detected() {
        let mut watch = LossDetector::new(&Position::TrimHorizon);
        watch.accept(&[record(5, Some(970))], false);
        let next = |hour| watch.check(&[record(6, Some(hour))], a_day());
        let span = next(976).unwrap();
        assert_eq!((span.evidence, span.gap()), (LossEvidence::Likely, Some(Duration::from_secs(6 * 3600))));
        assert_eq!(next(971), None, "consecutive records at the horizon");
        assert_eq!(next(1000), None, "a quiet shard, read at its tip");
        watch.accept(&[record(7, Some(976))], false);
        assert_eq!(watch.check(&[record(8, Some(977))], a_day()), None, "the stream still keeps it");
    }

    #[test]
    fn a_shard_that_is_gone_has_lost_its_unread_records() {
        let gone = |start: &Position| LossDetector::new(start).shard_is_gone(a_day());
        assert_eq!(gone(&Position::TrimHorizon), None);
        let span = gone(&after(5)).unwrap();
        assert_eq!((span.evidence, span.first_remaining), (LossEvidence::Likely, None));
    }

    #[test]
    fn the_text_of_a_span_names_known_and_unknown_facts() {
        let span = LossDetector::new(&after(5)).check(&[record(9, Some(977))], a_day()).unwrap();
        assert_eq!(
            span.to_string(),
            "between 5/2 and 9; the arrival of the last read record is not known; the first remaining record arrived \
             3600s after the horizon"
        );
        let span = LossDetector::new(&after(5)).check(&[record(9, None)], None).unwrap();
        assert!(span.to_string().ends_with("the retention period is not known"), "{span}");
        let mut watch = LossDetector::new(&after(5));
        watch.accept(&[record(6, Some(900))], false);
        let gone = watch.shard_is_gone(a_day()).unwrap();
        assert_eq!(gone.to_string(), "after 6, since the stream no longer has the shard");
        assert_eq!(gone.after_arrival, Some(at_hour(900)));
        let span = watch.check(&[record(7, Some(976))], a_day()).unwrap();
        assert!(span.to_string().starts_with("between 6 and 7; 273600s between the two;"), "{span}");
    }

    proptest! {
        /// A shard that is read without a pause, at any distance from the horizon, is never reported as lossy. Records that
        /// were removed unread next to the horizon, at the pace of the shard, are always reported.
        #[test]
        fn a_steady_reader_loses_nothing_and_a_loss_is_reported(
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
            // The horizon is just after the last read record.
            let read = read.index(records.len() - 1);
            let retained = RetentionWindow { horizon: arrival(read) + Duration::from_secs(1), retention: DAY };
            let mut watch = LossDetector::new(&Position::TrimHorizon);
            for index in 0..=read {
                prop_assert_eq!(watch.check(&records[index..=index], Some(retained)), None);
                watch.accept(&records[index..=index], false);
            }
            prop_assert_eq!(watch.check(&records[read + 1..], Some(retained)), None);
            // The stream removes all records up to a later one: a stored position before it has lost records.
            let removed = read + removed.index(records.len() - 1 - read);
            let horizon = arrival(removed) + Duration::from_millis(1);
            let stored = LossDetector::new(&records[read].position());
            let found = stored.check(&records[removed + 1..], Some(RetentionWindow { horizon, retention: DAY }));
            let expected = (removed + 1 < records.len()).then_some(LossEvidence::Likely);
            prop_assert_eq!(found.map(|span| span.evidence), expected);
        }
    }
}
