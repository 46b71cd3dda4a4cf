//! The backfill of a gap from the stream: which records belong to it, when it is complete, and whether records are lost.
//! Pure.

use shard_worker::Record;

use crate::block_edge::Edge;
use crate::block_queue::{Gap, Until};

/// After this many consecutive empty answers with a lag of 0 the stream has no more records of the gap. Empty answers with
/// another lag do not count: Kinesis returns them between records.
const EMPTY_ANSWERS_AT_TIP: u32 = 3;

/// The same limit for a source that reports no lag.
const EMPTY_ANSWERS_ANYWHERE: u32 = 60;

/// The backfill of one gap, in progress.
#[derive(Debug)]
pub(crate) struct Backfill {
    pub(crate) gap: Gap,
    /// A store that should have a copy of the lost block did not answer.
    has_unreachable_copy: bool,
    /// The gap begins at or before the first record of its lost block.
    is_from_before: bool,
    /// Records found so far that the lost block held, or that were missing.
    found: u64,
    /// Whether the last record of the gap was found.
    has_last: bool,
    empty_at_tip: u32,
    empty_anywhere: u32,
}

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BackfillStep {
    /// Records of the gap; there may be more.
    More(Vec<Record>),
    /// The last records of the gap.
    Last(Vec<Record>),
    /// The stream lacks records of the lost block, and an unreachable copy may have them: serve none of the read.
    WaitForCopy,
}

impl Backfill {
    pub(crate) fn new(gap: Gap, has_unreachable_copy: bool) -> Self {
        let is_from_before = gap.lost.as_ref().is_some_and(|range| !gap.from.is_past(&range.first));
        Self {
            gap,
            has_unreachable_copy,
            is_from_before,
            found: 0,
            has_last: false,
            empty_at_tip: 0,
            empty_anywhere: 0,
        }
    }

    /// Selects the records of the gap from one read of the stream. Records up to `served` were served already; `is_end` means
    /// that the shard has no more records.
    pub(crate) fn accept(
        &mut self,
        served: &Edge,
        mut records: Vec<Record>,
        millis_behind_latest: Option<u64>,
        is_end: bool,
    ) -> BackfillStep {
        if records.is_empty() {
            self.empty_at_tip += u32::from(millis_behind_latest == Some(0));
            self.empty_anywhere += u32::from(millis_behind_latest.is_none());
        } else {
            (self.empty_at_tip, self.empty_anywhere) = (0, 0);
        }
        let is_over = is_end
            || self.empty_at_tip >= EMPTY_ANSWERS_AT_TIP
            || self.empty_anywhere >= EMPTY_ANSWERS_ANYWHERE
            || records.last().is_some_and(|last| match &self.gap.until {
                Until::Through(number) | Until::Before(number) => last.sequence_number >= *number,
            });
        records.retain(|record| {
            let number = &record.sequence_number;
            let is_inside = match &self.gap.until {
                Until::Through(last) => number <= last,
                Until::Before(first) => number < first,
            };
            is_inside && !served.is_past(number)
        });
        if let Some(range) = &self.gap.lost
            && self.has_unreachable_copy
            && self.found == 0
        {
            let is_complete = records
                .first()
                .is_some_and(|first| !self.is_from_before || first.sequence_number <= range.first);
            if !is_complete && (is_over || !records.is_empty()) {
                return BackfillStep::WaitForCopy;
            }
        }
        let counts = |record: &&Record| {
            self.gap.lost.as_ref().is_none_or(|range| record.sequence_number >= range.first)
        };
        self.found += records.iter().filter(counts).count() as u64;
        if let Until::Through(number) = &self.gap.until {
            self.has_last |= records.last().is_some_and(|last| last.sequence_number == *number);
        }
        if is_over { BackfillStep::Last(records) } else { BackfillStep::More(records) }
    }

    /// How many records were found that the lost block held, or that were missing.
    pub(crate) fn found(&self) -> u64 {
        self.found
    }

    /// Whether received records are lost, known after the last read: they are neither stored nor in the stream.
    pub(crate) fn is_loss(&self) -> bool {
        match (&self.gap.until, &self.gap.lost) {
            (Until::Through(_), Some(range)) => {
                !self.has_last || (self.is_from_before && self.found < u64::from(range.records))
            }
            (Until::Through(_), None) => !self.has_last,
            (Until::Before(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_name::BlockRange;

    fn record(number: u128) -> Record {
        Record::new(number.into(), bytes::Bytes::new())
    }

    fn records(numbers: &[u128]) -> Vec<Record> {
        numbers.iter().copied().map(record).collect()
    }

    fn lost_block(has_unreachable_copy: bool) -> Backfill {
        let range = BlockRange { first: 4.into(), last: 6.into(), records: 3 };
        let gap = Gap { from: Edge::After(3.into()), until: Until::Through(6.into()), lost: Some(range) };
        Backfill::new(gap, has_unreachable_copy)
    }

    fn after(number: u128) -> Edge {
        Edge::After(number.into())
    }

    #[test]
    fn empty_answers_between_records_do_not_end_a_gap() {
        let mut backfill = lost_block(false);
        for _ in 0..100 {
            assert_eq!(backfill.accept(&after(3), vec![], Some(9000), false), BackfillStep::More(vec![]));
        }
        assert_eq!(
            backfill.accept(&after(3), records(&[3, 4]), Some(9000), false),
            BackfillStep::More(records(&[4]))
        );
        for _ in 0..2 {
            assert_eq!(backfill.accept(&after(4), vec![], Some(0), false), BackfillStep::More(vec![]));
        }
        let last = backfill.accept(&after(4), records(&[5, 6, 7, 8]), Some(0), false);
        assert_eq!(
            last,
            BackfillStep::Last(records(&[5, 6])),
            "records after the gap come from later blocks"
        );
        assert!(!backfill.is_loss());
    }

    #[test]
    fn records_trimmed_from_the_stream_are_a_loss() {
        let mut backfill = lost_block(false);
        assert_eq!(
            backfill.accept(&after(3), records(&[5, 6]), None, false),
            BackfillStep::Last(records(&[5, 6]))
        );
        assert!(backfill.is_loss());
        let mut backfill = lost_block(false);
        assert_eq!(backfill.accept(&after(3), records(&[9]), None, false), BackfillStep::Last(vec![]));
        assert!(backfill.is_loss());
        let mut backfill = lost_block(false);
        assert_eq!(backfill.accept(&after(3), vec![], None, true), BackfillStep::Last(vec![]));
        assert!(backfill.is_loss());
        let mut backfill = lost_block(false);
        for _ in 0..2 {
            assert_eq!(backfill.accept(&after(3), vec![], Some(0), false), BackfillStep::More(vec![]));
        }
        assert_eq!(
            backfill.accept(&after(3), vec![], Some(0), false),
            BackfillStep::Last(vec![]),
            "at the tip"
        );
        assert!(backfill.is_loss());
    }

    #[test]
    fn a_loss_is_noticed_when_reading_began_inside_the_block() {
        for (read, is_loss) in [(&[5, 6][..], false), (&[6], false), (&[5, 7], true), (&[7], true)] {
            let range = BlockRange { first: 4.into(), last: 6.into(), records: 3 };
            let gap = Gap { from: Edge::At(5.into()), until: Until::Through(6.into()), lost: Some(range) };
            let mut backfill = Backfill::new(gap, false);
            backfill.accept(&Edge::At(5.into()), records(read), None, true);
            assert_eq!(backfill.is_loss(), is_loss, "{read:?}");
        }
    }

    #[test]
    fn missing_records_wait_for_an_unreachable_copy() {
        for read in [&[5, 6][..], &[9], &[]] {
            let mut backfill = lost_block(true);
            assert_eq!(backfill.accept(&after(3), records(read), None, true), BackfillStep::WaitForCopy);
        }
        let mut backfill = lost_block(true);
        assert_eq!(
            backfill.accept(&after(3), records(&[4, 5]), None, false),
            BackfillStep::More(records(&[4, 5]))
        );
        assert_eq!(backfill.accept(&after(5), records(&[6]), None, false), BackfillStep::Last(records(&[6])));
    }
}
