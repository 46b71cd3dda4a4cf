//! Closing a gap from the stream: which records of what is read belong to it, when it is closed, and what is lost. Pure.

use shard_worker::Record;

use super::edge::Edge;
use super::ledger::{Gap, Until};

/// After so many empty answers in a row that say that they are at the tip of the shard, nothing of an old gap comes any
/// more. An empty answer further back means nothing: Kinesis gives them between records.
const EMPTY_ANSWERS_AT_TIP: u32 = 3;

/// The same of a source that does not say where it is.
const EMPTY_ANSWERS_ANYWHERE: u32 = 60;

/// How far the closing of a gap is.
#[derive(Debug)]
pub(super) struct Healing {
    pub(super) gap: Gap,
    /// A copy of the lost block may be in a place that does not answer now.
    may_come_back: bool,
    /// The gap is read from before its lost block.
    is_from_before: bool,
    found: u64,
    has_last: bool,
    empty_at_tip: u32,
    empty_anywhere: u32,
}

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// These belong to the gap, and there may be more.
    More(Vec<Record>),
    /// These are the last.
    Last(Vec<Record>),
    /// The stream has less than the block had, and a copy of that may come back: nothing of this is to be served.
    Wait,
}

impl Healing {
    pub(super) fn new(gap: Gap, may_come_back: bool) -> Self {
        let is_from_before = gap.lost.as_ref().is_some_and(|range| !gap.from.is_past(&range.first));
        Self {
            gap,
            may_come_back,
            is_from_before,
            found: 0,
            has_last: false,
            empty_at_tip: 0,
            empty_anywhere: 0,
        }
    }

    /// Looks through one read of the stream; `served` is how far records were served, `is_end` that nothing follows.
    pub(super) fn take(
        &mut self,
        served: &Edge,
        mut records: Vec<Record>,
        millis_behind_latest: Option<u64>,
        is_end: bool,
    ) -> Taken {
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
            && self.may_come_back
            && self.found == 0
        {
            let is_complete = records
                .first()
                .is_some_and(|first| !self.is_from_before || first.sequence_number <= range.first);
            if !is_complete && (is_over || !records.is_empty()) {
                return Taken::Wait;
            }
        }
        let counts = |record: &&Record| {
            self.gap.lost.as_ref().is_none_or(|range| record.sequence_number >= range.first)
        };
        self.found += records.iter().filter(counts).count() as u64;
        if let Until::Through(number) = &self.gap.until {
            self.has_last |= records.last().is_some_and(|last| last.sequence_number == *number);
        }
        if is_over { Taken::Last(records) } else { Taken::More(records) }
    }

    /// How many records were found that the lost block had, or that were missing.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    /// Once it is over: whether records that were received once are neither stored nor in the stream any more.
    pub(super) fn is_loss(&self) -> bool {
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
    use super::super::name::BlockRange;
    use super::*;

    fn record(number: u128) -> Record {
        Record {
            sequence_number: number.into(),
            sub_sequence_number: 0,
            partition_key: None,
            data: bytes::Bytes::new(),
            approximate_arrival: None,
        }
    }

    fn records(numbers: &[u128]) -> Vec<Record> {
        numbers.iter().copied().map(record).collect()
    }

    fn lost_block(may_come_back: bool) -> Healing {
        let range = BlockRange { first: 4.into(), last: 6.into(), records: 3 };
        let gap = Gap { from: Edge::After(3.into()), until: Until::Through(6.into()), lost: Some(range) };
        Healing::new(gap, may_come_back)
    }

    fn after(number: u128) -> Edge {
        Edge::After(number.into())
    }

    #[test]
    fn empty_pages_in_the_middle_end_no_range() {
        let mut healing = lost_block(false);
        for _ in 0..100 {
            assert_eq!(healing.take(&after(3), vec![], Some(9000), false), Taken::More(vec![]));
        }
        assert_eq!(healing.take(&after(3), records(&[3, 4]), Some(9000), false), Taken::More(records(&[4])));
        for _ in 0..2 {
            assert_eq!(healing.take(&after(4), vec![], Some(0), false), Taken::More(vec![]));
        }
        let last = healing.take(&after(4), records(&[5, 6, 7, 8]), Some(0), false);
        assert_eq!(
            last,
            Taken::Last(records(&[5, 6])),
            "what comes after the range is for the blocks after it"
        );
        assert!(!healing.is_loss());
    }

    #[test]
    fn what_the_stream_has_trimmed_is_noticed_as_a_loss() {
        let mut healing = lost_block(false);
        assert_eq!(healing.take(&after(3), records(&[5, 6]), None, false), Taken::Last(records(&[5, 6])));
        assert!(healing.is_loss());
        let mut healing = lost_block(false);
        assert_eq!(healing.take(&after(3), records(&[9]), None, false), Taken::Last(vec![]));
        assert!(healing.is_loss());
        let mut healing = lost_block(false);
        assert_eq!(healing.take(&after(3), vec![], None, true), Taken::Last(vec![]));
        assert!(healing.is_loss());
        let mut healing = lost_block(false);
        for _ in 0..2 {
            assert_eq!(healing.take(&after(3), vec![], Some(0), false), Taken::More(vec![]));
        }
        assert_eq!(healing.take(&after(3), vec![], Some(0), false), Taken::Last(vec![]), "at the tip");
        assert!(healing.is_loss());
    }

    #[test]
    fn a_loss_is_noticed_also_where_reading_began_inside_the_block() {
        for (read, is_loss) in [(&[5, 6][..], false), (&[6], false), (&[5, 7], true), (&[7], true)] {
            let range = BlockRange { first: 4.into(), last: 6.into(), records: 3 };
            let gap = Gap { from: Edge::At(5.into()), until: Until::Through(6.into()), lost: Some(range) };
            let mut healing = Healing::new(gap, false);
            healing.take(&Edge::At(5.into()), records(read), None, true);
            assert_eq!(healing.is_loss(), is_loss, "{read:?}");
        }
    }

    #[test]
    fn less_than_the_block_had_waits_for_a_copy_that_may_come_back() {
        for read in [&[5, 6][..], &[9], &[]] {
            let mut healing = lost_block(true);
            assert_eq!(healing.take(&after(3), records(read), None, true), Taken::Wait);
        }
        let mut healing = lost_block(true);
        assert_eq!(healing.take(&after(3), records(&[4, 5]), None, false), Taken::More(records(&[4, 5])));
        assert_eq!(healing.take(&after(5), records(&[6]), None, false), Taken::Last(records(&[6])));
    }
}
