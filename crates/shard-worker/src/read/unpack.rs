//! De-aggregates fetched records and drops those that lie at or before the read position, which it keeps.

use std::collections::VecDeque;
use std::time::SystemTime;

use lease_store::{Position, SequenceNumber, ShardId};

use crate::aggregation::aggregate::{has_magic, which_are_aggregates};
use crate::aggregation::deaggregate::{Deaggregated, MIN_SUB_RECORD_BYTES, Part, deaggregate_part};
use crate::aggregation::filter_rule::FilterRule;
use crate::progress::ShardProgress;
use crate::record::Record;

/// The most records that are unpacked at a time: with empty payloads, 16 MiB of memory. An aggregate of 10 MiB can hold 1.75
/// million records, which would take 430 MiB at once.
pub(crate) const MAX_UNPACKED_RECORDS: usize = 1 << 16;

/// Turns the fetched records of one shard into the records to deliver.
#[derive(Debug)]
pub(crate) struct Unpacker {
    shard_id: ShardId,
    deaggregates: bool,
    filter_rule: FilterRule,
    /// When the shard began to take records. `None`: not known.
    shard_started_at: Option<SystemTime>,
    /// The position of the newest record that was returned. Records at or before it are dropped.
    read_position: Position,
    /// The fetched records that are not unpacked yet, and whether each is an aggregate.
    fetched: VecDeque<(Record, bool)>,
    /// The first of them is an aggregate of which a part was returned, up to the read position.
    is_inside: bool,
    max_records: usize,
    /// Whether filtered records of other shards were logged at info level.
    has_reported_filtering: bool,
}

/// The aggregates of one fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AggregateCounts {
    aggregates: u64,
    filtered_records: u64,
    malformed_aggregates: u64,
}

impl AggregateCounts {
    /// Adds the counts to the progress of the shard; returns whether that changed it.
    pub(crate) fn add_to(self, progress: &mut ShardProgress) -> bool {
        progress.aggregates += self.aggregates;
        progress.filtered_records += self.filtered_records;
        progress.malformed_aggregates += self.malformed_aggregates;
        self != Self::default()
    }
}

impl Unpacker {
    pub(crate) fn new(
        shard_id: ShardId,
        deaggregates: bool,
        filter_rule: FilterRule,
        start: Position,
    ) -> Self {
        Self {
            shard_id,
            deaggregates,
            filter_rule,
            shard_started_at: None,
            read_position: start,
            fetched: VecDeque::new(),
            is_inside: false,
            max_records: MAX_UNPACKED_RECORDS,
            has_reported_filtering: false,
        }
    }

    /// Whether the start of the shard is known.
    pub(crate) fn knows_start(&self) -> bool {
        self.shard_started_at.is_some()
    }

    /// Sets the start of the shard. `None`: not known.
    pub(crate) fn set_start(&mut self, shard_started_at: Option<SystemTime>) {
        self.shard_started_at = shard_started_at;
    }

    /// How far the shard is read.
    pub(crate) fn read_position(&self) -> &Position {
        &self.read_position
    }

    /// Moves the read position back.
    pub(crate) fn read_again_from(&mut self, position: Position) {
        self.discard();
        self.read_position = position;
    }

    /// Drops the fetched records that are not unpacked yet.
    pub(crate) fn discard(&mut self) {
        self.fetched.clear();
        self.is_inside = false;
    }

    /// Whether fetched records are left to unpack.
    pub(crate) fn has_more(&self) -> bool {
        !self.fetched.is_empty()
    }

    /// Takes fetched records, and returns the first records to deliver, as [`unpack_more`](Self::unpack_more) does. The common
    /// case has no more than these.
    pub(crate) fn unpack(&mut self, fetched: Vec<Record>) -> (Vec<Record>, AggregateCounts) {
        if let Some(last) = fetched.last()
            && !self.has_more()
            && self.is_plain_and_new(&fetched)
        {
            self.read_position = last.position();
            return (fetched, AggregateCounts::default());
        }
        let are_aggregates =
            if self.deaggregates { which_are_aggregates(&fetched) } else { vec![false; fetched.len()] };
        self.fetched.extend(fetched.into_iter().zip(are_aggregates));
        self.unpack_more()
    }

    /// The next records to deliver, in order, at most [`MAX_UNPACKED_RECORDS`]; none only if no more are left. The read position
    /// moves to the last of them, never beyond. A filtered record does not move it: the acknowledgement of the next record passes
    /// it.
    pub(crate) fn unpack_more(&mut self) -> (Vec<Record>, AggregateCounts) {
        let mut counts = AggregateCounts::default();
        let mut records = Vec::with_capacity(self.fetched.len().min(self.max_records));
        while records.len() < self.max_records
            && let Some((record, is_aggregate)) = self.fetched.pop_front()
        {
            let first = records.len();
            let left = self.unpack_one(record, is_aggregate, &mut records, &mut counts);
            if records.len() > first
                && let Some(last) = records.last()
            {
                self.read_position = last.position();
            }
            self.is_inside = left.is_some();
            if let Some(record) = left {
                self.fetched.push_front((record, is_aggregate));
            }
        }
        (records, counts)
    }

    /// Whether all records can be delivered as they were fetched: each is beyond the one before it, and none is an
    /// aggregate. This is the common case, in which no record is moved or cloned.
    fn is_plain_and_new(&self, fetched: &[Record]) -> bool {
        let mut last = match &self.read_position {
            Position::After(done) => Some(&done.sequence_number),
            Position::ShardEnd => return false,
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest => None,
        };
        fetched.iter().all(|record| {
            let is_beyond = last.is_none_or(|last| *last < record.sequence_number);
            last = Some(&record.sequence_number);
            let is_aggregate =
                self.deaggregates && record.sub_sequence_number == 0 && has_magic(&record.data);
            is_beyond && !is_aggregate
        })
    }

    /// Appends the records of one fetched record; returns it again if there was no room for all.
    fn unpack_one(
        &mut self,
        record: Record,
        is_aggregate: bool,
        records: &mut Vec<Record>,
        counts: &mut AggregateCounts,
    ) -> Option<Record> {
        // The last sub-record of this very record that was read, if the read position lies inside it.
        let resume_after = match &self.read_position {
            Position::After(done) if record.sequence_number < done.sequence_number => return None,
            Position::After(done) if record.sequence_number == done.sequence_number => {
                Some(done.sub_sequence_number)
            }
            Position::ShardEnd => return None,
            _ => None,
        };
        let is_aggregate_by_magic = record.sub_sequence_number == 0 && has_magic(&record.data);
        let first = records.len();
        let sequence_number = record.sequence_number.clone();
        let key = record.partition_key.as_deref();
        let rule = is_aggregate.then_some(&self.filter_rule);
        let range =
            rule.and_then(|rule| rule.range_for(key, record.approximate_arrival, self.shard_started_at));
        let part = Part {
            after: resume_after,
            is_continued: self.is_inside,
            max_records: self.max_records - records.len(),
        };
        let may_be_left = is_aggregate && record.data.len() / MIN_SUB_RECORD_BYTES > part.max_records;
        let again = may_be_left.then(|| record.clone());
        let (found, has_more) = deaggregate_part(record, is_aggregate, range, part, records);
        if let Some(done) = resume_after {
            let is_deaggregated = matches!(found, Deaggregated::Aggregate { .. });
            // A checkpoint inside this record means that an earlier reader de-aggregated it. If it stays whole now, deliver
            // it again: that repeats its first sub-records, while dropping it would lose the last ones.
            let is_whole_again = is_aggregate_by_magic && !is_deaggregated && done > 0;
            if !is_deaggregated {
                let mut kept = records.split_off(first);
                kept.retain(|record| record.sub_sequence_number > done || is_whole_again);
                records.append(&mut kept);
            }
            if records.len() == first {
                return None;
            }
        }
        self.record(found, &sequence_number, counts);
        again.filter(|_| has_more)
    }

    /// Counts and logs an aggregate. Payloads and keys belong to the application and appear in no log.
    fn record(
        &mut self,
        found: Deaggregated,
        sequence_number: &SequenceNumber,
        counts: &mut AggregateCounts,
    ) {
        let shard_id = &self.shard_id;
        match found {
            Deaggregated::Plain => {}
            Deaggregated::Malformed { reason } => {
                counts.malformed_aggregates += 1;
                tracing::warn!(%shard_id, %sequence_number, reason, "malformed aggregate, delivering it as one record");
            }
            Deaggregated::Aggregate { filtered } => {
                // An aggregate that is unpacked in parts is counted with its first.
                counts.aggregates += u64::from(!self.is_inside);
                counts.filtered_records += filtered;
                if filtered > 0 && !self.has_reported_filtering {
                    self.has_reported_filtering = true;
                    tracing::info!(
                        %shard_id, %sequence_number, filtered,
                        "filtered records of an aggregate whose hash keys belong to another shard; further ones are                          counted, and logged at debug level"
                    );
                } else if filtered > 0 {
                    tracing::debug!(%shard_id, %sequence_number, filtered, "filtered records of another shard");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lease_store::{HashKey, HashKeyRange};

    use super::*;
    use crate::aggregation::aggregator::Aggregator;
    use crate::aggregation::filter_rule::AggregateFilter;
    use crate::aggregation::hash_filter::tests::HASHED_KEYS;

    fn unpacker(deaggregates: bool, read_position: Position) -> Unpacker {
        let range = HashKeyRange::new(HashKey(10), HashKey(19)).unwrap();
        let filter = AggregateFilter::Always;
        let rule = FilterRule { filter, range: Some(range), has_parents: false, distribution: None };
        Unpacker::new(ShardId::numbered(0), deaggregates, rule, read_position)
    }

    fn record(number: u128, data: impl Into<Bytes>) -> Record {
        Record {
            sequence_number: number.into(),
            sub_sequence_number: 0,
            partition_key: Some("k".into()),
            data: data.into(),
            approximate_arrival: None,
        }
    }

    /// An aggregate of records with these explicit hash keys.
    fn aggregate(number: u128, hash_keys: &[u128]) -> Record {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for hash_key in hash_keys {
            aggregator.add("k", Some(HashKey(*hash_key)), b"x").unwrap();
        }
        record(number, aggregator.finish().unwrap().data)
    }

    /// An aggregate of two records with the right digest; one record has no payload.
    fn malformed(number: u128) -> Record {
        use md5::Digest as _;
        let message = b"\x0a\x01k\x1a\x04\x08\x00\x1a\x00\x1a\x02\x08\x00";
        let digest: [u8; 16] = md5::Md5::digest(message).into();
        record(number, [&b"\xf3\x89\x9a\xc2"[..], message, &digest].concat())
    }

    fn after(number: u128, sub_sequence_number: u64) -> Position {
        Position::after(number.into(), sub_sequence_number)
    }

    /// Checks the records and positions that come out of a fetch, and the counts: aggregates, filtered, malformed.
    #[track_caller]
    fn check(
        deaggregates: bool,
        read_position: Position,
        fetched: Vec<Record>,
        new: &[Position],
        counts: (u64, u64, u64),
    ) {
        let reached = new.last().unwrap_or(&read_position).clone();
        let mut unpacker = unpacker(deaggregates, read_position);
        let (records, counted) = unpacker.unpack(fetched);
        let positions: Vec<Position> = records.iter().map(Record::position).collect();
        assert_eq!(positions, new);
        assert_eq!(*unpacker.read_position(), reached);
        let counted = (counted.aggregates, counted.filtered_records, counted.malformed_aggregates);
        assert_eq!(counted, counts);
    }

    #[test]
    fn resumes_inside_an_aggregate() {
        let fetched = || vec![record(3, "x"), aggregate(4, &[10, 11, 12]), record(5, "x")];
        let all = [after(3, 0), after(4, 0), after(4, 1), after(4, 2), after(5, 0)];
        for (position, new) in [
            (Position::TrimHorizon, &all[..]),
            (after(3, 0), &all[1..]),
            (after(4, 0), &all[2..]),
            (after(4, 1), &all[3..]),
        ] {
            check(true, position, fetched(), new, (1, 0, 0));
        }
        // No sub-record is new, so the aggregate is not counted.
        for (position, new) in [(after(4, 2), &all[4..]), (after(5, 0), &[]), (Position::ShardEnd, &[])] {
            check(true, position, fetched(), new, (0, 0, 0));
        }
    }

    #[test]
    fn filtered_records_keep_their_number_and_move_no_position() {
        let fetched = vec![aggregate(4, &[10, 20, 11, 20, 20]), aggregate(5, &[10, 9])];
        let new = [after(4, 0), after(4, 2), after(5, 0)];
        check(true, after(3, 0), fetched, &new, (2, 4, 0));
        check(true, after(4, 2), vec![aggregate(4, &[10, 20, 11, 20, 20])], &[], (0, 0, 0));
        check(true, after(4, 1), vec![aggregate(4, &[10, 20, 11, 20, 20])], &[after(4, 2)], (1, 3, 0));
    }

    #[test]
    fn keys_are_hashed_only_where_the_filter_applies() {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for key in ["a", "b", "a"] {
            aggregator.add(key, None, b"x").unwrap();
        }
        let fetched = vec![record(4, aggregator.finish().unwrap().data)];
        for (filter, hashed) in
            [(AggregateFilter::Always, 2), (AggregateFilter::AfterReshard, 0), (AggregateFilter::Never, 0)]
        {
            let mut unpacker = unpacker(true, Position::TrimHorizon);
            let range = HashKeyRange::new(HashKey(1), HashKey::MAX).ok();
            unpacker.filter_rule = FilterRule { filter, range, ..unpacker.filter_rule };
            HASHED_KEYS.set(0);
            unpacker.unpack(fetched.clone());
            assert_eq!(HASHED_KEYS.get(), hashed, "{filter:?}");
        }
    }

    #[test]
    fn only_a_right_digest_makes_an_aggregate() {
        // More aggregates than digests are computed at a time, of unlike sizes, among plain records.
        let mut fetched: Vec<Record> =
            (0..12).map(|number| aggregate(number, &vec![10; number as usize + 1])).collect();
        for number in [2, 7] {
            let mut data = fetched[number].data.to_vec();
            *data.last_mut().unwrap() ^= 1;
            fetched[number].data = data.into();
        }
        fetched[5].data = Bytes::from_static(b"plain");
        let (records, counts) = unpacker(true, Position::TrimHorizon).unpack(fetched);
        let of =
            |number: u128| records.iter().filter(|record| record.sequence_number == number.into()).count();
        let expected: Vec<usize> =
            (0..12).map(|number| if [2, 5, 7].contains(&number) { 1 } else { number + 1 }).collect();
        assert_eq!((0..12).map(of).collect::<Vec<_>>(), expected);
        assert_eq!((counts.aggregates, counts.filtered_records, counts.malformed_aggregates), (9, 0, 0));
    }

    /// Unpacks with room for `max_records` at a time: the records, the counts, and the number of parts.
    fn in_parts(fetched: Vec<Record>, from: Position, max_records: usize) -> (Vec<Record>, [u64; 3], usize) {
        let mut unpacker = unpacker(true, from);
        unpacker.max_records = max_records;
        let (mut all, mut sums, mut parts) = (Vec::new(), [0; 3], 0);
        let mut part = unpacker.unpack(fetched);
        loop {
            let (records, counts) = part;
            assert!(records.len() <= max_records && !(records.is_empty() && unpacker.has_more()));
            if let Some(last) = records.last() {
                assert_eq!(*unpacker.read_position(), last.position());
            }
            let counts = [counts.aggregates, counts.filtered_records, counts.malformed_aggregates];
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            all.extend(records);
            parts += 1;
            if !unpacker.has_more() {
                return (all, sums, parts);
            }
            part = unpacker.unpack_more();
        }
    }

    #[test]
    fn parts_of_aggregates_are_the_whole() {
        let fetched = || {
            let hash_keys = [10, 20, 11, 20, 20, 12, 13, 20, 14, 20];
            vec![
                record(3, "x"),
                aggregate(4, &hash_keys),
                malformed(5),
                aggregate(6, &[10; 7]),
                record(7, "x"),
            ]
        };
        for from in [Position::TrimHorizon, after(3, 0), after(4, 0), after(4, 6), after(4, 8), after(6, 2)] {
            let (whole, counts, _) = in_parts(fetched(), from.clone(), usize::MAX);
            for max_records in 1..12 {
                let (records, sums, parts) = in_parts(fetched(), from.clone(), max_records);
                assert_eq!((records, sums), (whole.clone(), counts), "{max_records} at a time from {from}");
                assert_eq!(
                    parts,
                    whole.len().div_ceil(max_records).max(1),
                    "{max_records} at a time from {from}"
                );
            }
        }
    }

    #[test]
    fn fetched_records_are_dropped_when_reading_restarts() {
        let mut unpacker = unpacker(true, Position::TrimHorizon);
        unpacker.max_records = 2;
        unpacker.unpack(vec![aggregate(4, &[10; 5]), record(5, "x")]);
        assert!(unpacker.has_more());
        unpacker.read_again_from(after(4, 0));
        assert!(!unpacker.has_more());
        let (records, counts) = unpacker.unpack(vec![aggregate(4, &[10; 5])]);
        assert_eq!(records.iter().map(|record| record.sub_sequence_number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(counts.aggregates, 1);
    }

    #[test]
    fn a_malformed_aggregate_moves_the_position_and_counts_once() {
        check(true, after(3, 0), vec![malformed(4), malformed(4)], &[after(4, 0)], (0, 0, 1));
        check(true, after(4, 0), vec![malformed(4)], &[], (0, 0, 0));
    }

    #[test]
    fn without_deaggregation_an_aggregate_is_one_record() {
        let whole = || vec![aggregate(4, &[10, 20])];
        check(false, after(3, 0), whole(), &[after(4, 0)], (0, 0, 0));
        check(false, after(4, 0), whole(), &[], (0, 0, 0));
    }

    #[test]
    fn a_whole_aggregate_with_a_checkpoint_inside_is_repeated() {
        // As after a checkpoint of the KCL, or after de-aggregation was switched off.
        check(false, after(4, 1), vec![aggregate(4, &[10, 11, 12])], &[after(4, 0)], (0, 0, 0));
        check(true, after(4, 1), vec![malformed(4)], &[after(4, 0)], (0, 0, 1));
    }

    #[test]
    fn sub_records_of_the_source_are_compared_one_by_one() {
        let numbered = |sub_sequence_number| Record { sub_sequence_number, ..record(4, "x") };
        let fetched = (0..4).map(numbered).collect();
        check(true, after(4, 1), fetched, &[after(4, 2), after(4, 3)], (0, 0, 0));
    }
}
