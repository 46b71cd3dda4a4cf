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
        let mut records = Vec::with_capacity(fetched.len());
        let mut counts = AggregateCounts::default();
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
