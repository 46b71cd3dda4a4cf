//! What of a fetch is new: drops what was delivered before, and takes aggregates apart.

use lease_store::{HashKeyRange, Position, SequenceNumber, ShardId};

use crate::aggregation::{Deaggregated, deaggregate, has_magic};
use crate::{Record, ShardProgress};

/// Looks through what is fetched from one shard.
#[derive(Debug)]
pub(crate) struct Arrivals {
    shard_id: ShardId,
    /// Whether aggregates are taken apart.
    deaggregates: bool,
    /// What the shard covers, where that is known.
    hash_key_range: Option<HashKeyRange>,
    /// Whether people were told that records of other shards are left out.
    has_reported_filtering: bool,
}

/// What taking apart a fetch met with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AggregateCounts {
    aggregates: u64,
    filtered_records: u64,
    malformed_aggregates: u64,
}

impl AggregateCounts {
    /// Whether anything was taken apart.
    pub(crate) fn is_any_taken_apart(self) -> bool {
        self.aggregates > 0
    }

    /// Adds them to the progress of the shard; says whether that changed it.
    pub(crate) fn add_to(self, progress: &mut ShardProgress) -> bool {
        progress.aggregates += self.aggregates;
        progress.filtered_records += self.filtered_records;
        progress.malformed_aggregates += self.malformed_aggregates;
        self != Self::default()
    }
}

impl Arrivals {
    pub(crate) fn new(shard_id: ShardId, deaggregates: bool, hash_key_range: Option<HashKeyRange>) -> Self {
        Self { shard_id, deaggregates, hash_key_range, has_reported_filtering: false }
    }

    /// The records that are to be handed over, in order. `delivered` moves to the last of them, never beyond: what is
    /// left out of an aggregate moves nothing, and is passed with the next record that is acknowledged.
    pub(crate) fn unpack(
        &mut self,
        fetched: Vec<Record>,
        delivered: &mut Position,
    ) -> (Vec<Record>, AggregateCounts) {
        let mut counts = AggregateCounts::default();
        if let Some(last) = fetched.last()
            && self.is_plain_and_new(&fetched, delivered)
        {
            *delivered = last.position();
            return (fetched, counts);
        }
        let mut records = Vec::with_capacity(fetched.len());
        for record in fetched {
            let first = records.len();
            self.unpack_one(record, delivered, &mut records, &mut counts);
            if records.len() > first
                && let Some(last) = records.last()
            {
                *delivered = last.position();
            }
        }
        (records, counts)
    }

    /// Whether all of them are handed over as they came: each lies beyond the one before, and none is to be taken apart. As a
    /// rule it is so, and then nothing is moved or cloned for a record.
    fn is_plain_and_new(&self, fetched: &[Record], delivered: &Position) -> bool {
        let mut last = match delivered {
            Position::After(done) => Some(&done.sequence_number),
            Position::ShardEnd => return false,
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest => None,
        };
        fetched.iter().all(|record| {
            let is_beyond = last.is_none_or(|last| *last < record.sequence_number);
            last = Some(&record.sequence_number);
            let is_apart = self.deaggregates && record.sub_sequence_number == 0 && has_magic(&record.data);
            is_beyond && !is_apart
        })
    }

    fn unpack_one(
        &mut self,
        record: Record,
        delivered: &Position,
        records: &mut Vec<Record>,
        counts: &mut AggregateCounts,
    ) {
        // The place inside this very record up to which it is delivered, where there is one.
        let resume_after = match delivered {
            Position::After(done) if record.sequence_number < done.sequence_number => return,
            Position::After(done) if record.sequence_number == done.sequence_number => {
                Some(done.sub_sequence_number)
            }
            Position::ShardEnd => return,
            _ => None,
        };
        let is_aggregate_by_magic = record.sub_sequence_number == 0 && has_magic(&record.data);
        let first = records.len();
        let sequence_number = record.sequence_number.clone();
        let found = if self.deaggregates && is_aggregate_by_magic {
            deaggregate(record, self.hash_key_range, records)
        } else {
            records.push(record);
            Deaggregated::Plain
        };
        if let Some(done) = resume_after {
            let is_apart = matches!(found, Deaggregated::Aggregate { .. });
            // Somebody stopped inside it, so it was taken apart there. As a whole it is not done, and comes again: that
            // repeats its beginning, while leaving it out would lose its end.
            let is_whole_again = is_aggregate_by_magic && !is_apart && done > 0;
            let mut kept = records.split_off(first);
            kept.retain(|record| record.sub_sequence_number > done || is_whole_again);
            if kept.is_empty() {
                return;
            }
            records.append(&mut kept);
        }
        self.note(found, &sequence_number, counts);
    }

    /// Counts and logs what a record turned out to be. Payloads and keys are the application's and appear in no log.
    fn note(&mut self, found: Deaggregated, sequence_number: &SequenceNumber, counts: &mut AggregateCounts) {
        let shard_id = &self.shard_id;
        match found {
            Deaggregated::Plain => {}
            Deaggregated::Malformed { reason } => {
                counts.malformed_aggregates += 1;
                tracing::warn!(%shard_id, %sequence_number, reason, "a malformed aggregate is handed over as it is");
            }
            Deaggregated::Aggregate { filtered } => {
                counts.aggregates += 1;
                counts.filtered_records += filtered;
                if filtered > 0 && !self.has_reported_filtering {
                    self.has_reported_filtering = true;
                    tracing::info!(
                        %shard_id, %sequence_number, filtered,
                        "records of an aggregate belong to another shard and are left out here; from now on this is \
                         counted, and logged at debug level"
                    );
                } else if filtered > 0 {
                    tracing::debug!(%shard_id, %sequence_number, filtered, "records of another shard are left out");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lease_store::HashKey;

    use super::*;
    use crate::Aggregator;

    fn arrivals(deaggregates: bool) -> Arrivals {
        let range = HashKeyRange::new(HashKey(10), HashKey(19)).unwrap();
        Arrivals::new(ShardId::numbered(0), deaggregates, Some(range))
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

    /// An aggregate whose records are sent to these hash keys.
    fn aggregate(number: u128, hash_keys: &[u128]) -> Record {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for hash_key in hash_keys {
            aggregator.add("k", Some(HashKey(*hash_key)), b"x").unwrap();
        }
        record(number, aggregator.finish().unwrap().data)
    }

    /// An aggregate of two records with the right digest, one of which has no payload.
    fn malformed(number: u128) -> Record {
        use md5::Digest as _;
        let message = b"\x0a\x01k\x1a\x04\x08\x00\x1a\x00\x1a\x02\x08\x00";
        let digest: [u8; 16] = md5::Md5::digest(message).into();
        record(number, [&b"\xf3\x89\x9a\xc2"[..], message, &digest].concat())
    }

    fn after(number: u128, sub_sequence_number: u64) -> Position {
        Position::after(number.into(), sub_sequence_number)
    }

    /// What is new of a fetch after a position, how far it is delivered then, and the counts: aggregates, filtered,
    /// malformed.
    #[track_caller]
    fn check(
        mut arrivals: Arrivals,
        mut delivered: Position,
        fetched: Vec<Record>,
        new: &[Position],
        counts: (u64, u64, u64),
    ) {
        let before = delivered.clone();
        let (records, counted) = arrivals.unpack(fetched, &mut delivered);
        let positions: Vec<Position> = records.iter().map(Record::position).collect();
        assert_eq!(positions, new);
        assert_eq!(delivered, *new.last().unwrap_or(&before));
        let counted = (counted.aggregates, counted.filtered_records, counted.malformed_aggregates);
        assert_eq!(counted, counts);
    }

    #[test]
    fn goes_on_inside_an_aggregate() {
        let fetched = || vec![record(3, "x"), aggregate(4, &[10, 11, 12]), record(5, "x")];
        let all = [after(3, 0), after(4, 0), after(4, 1), after(4, 2), after(5, 0)];
        for (position, new) in [
            (Position::TrimHorizon, &all[..]),
            (after(3, 0), &all[1..]),
            (after(4, 0), &all[2..]),
            (after(4, 1), &all[3..]),
        ] {
            check(arrivals(true), position, fetched(), new, (1, 0, 0));
        }
        // Nothing of it is new, so it is not counted as one that was taken apart.
        for (position, new) in [(after(4, 2), &all[4..]), (after(5, 0), &[]), (Position::ShardEnd, &[])] {
            check(arrivals(true), position, fetched(), new, (0, 0, 0));
        }
    }

    #[test]
    fn what_is_left_out_moves_nothing_and_keeps_its_number() {
        let fetched = vec![aggregate(4, &[10, 20, 11, 20, 20]), aggregate(5, &[10, 9])];
        let new = [after(4, 0), after(4, 2), after(5, 0)];
        check(arrivals(true), after(3, 0), fetched, &new, (2, 4, 0));
        check(arrivals(true), after(4, 2), vec![aggregate(4, &[10, 20, 11, 20, 20])], &[], (0, 0, 0));
        check(
            arrivals(true),
            after(4, 1),
            vec![aggregate(4, &[10, 20, 11, 20, 20])],
            &[after(4, 2)],
            (1, 3, 0),
        );
    }

    #[test]
    fn a_malformed_aggregate_moves_the_position_and_is_counted_once() {
        check(arrivals(true), after(3, 0), vec![malformed(4), malformed(4)], &[after(4, 0)], (0, 0, 1));
        check(arrivals(true), after(4, 0), vec![malformed(4)], &[], (0, 0, 0));
    }

    #[test]
    fn an_aggregate_that_is_not_taken_apart_is_one_record() {
        let whole = || vec![aggregate(4, &[10, 20])];
        check(arrivals(false), after(3, 0), whole(), &[after(4, 0)], (0, 0, 0));
        check(arrivals(false), after(4, 0), whole(), &[], (0, 0, 0));
    }

    #[test]
    fn a_whole_that_somebody_left_in_the_middle_comes_again() {
        // As after a checkpoint of the KCL, or after de-aggregation was switched off.
        check(arrivals(false), after(4, 1), vec![aggregate(4, &[10, 11, 12])], &[after(4, 0)], (0, 0, 0));
        check(arrivals(true), after(4, 1), vec![malformed(4)], &[after(4, 0)], (0, 0, 1));
    }

    #[test]
    fn records_that_were_taken_apart_by_the_source_are_compared_one_by_one() {
        let numbered = |sub_sequence_number| Record { sub_sequence_number, ..record(4, "x") };
        let fetched = (0..4).map(numbered).collect();
        check(arrivals(true), after(4, 1), fetched, &[after(4, 2), after(4, 3)], (0, 0, 0));
    }
}
