//! A record in, its sub-records out.

use lease_store::HashKeyRange;

use super::aggregate::{Aggregate, verified_message};
use super::hash_filter::{HashFilter, Place};
use super::wire::Malformation;
use crate::Record;

/// The fewest bytes that a record takes inside an aggregate: two for its field, two each for the index of its partition
/// key and for an empty payload. So `n` bytes never become more than `n / 6` records.
pub const MIN_SUB_RECORD_BYTES: usize = 6;

/// What a record turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaggregated {
    /// No aggregate: it is handed on as it is.
    Plain,
    /// Its digest is that of an aggregate, but its inside cannot be read: it is handed on as it is, so that nothing is
    /// lost.
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An aggregate: what is handed on are its records.
    Aggregate {
        /// So many of its records belong to another shard, and were left out.
        filtered: u64,
    },
}

/// Appends to `records` what a record from the stream holds: the records of an aggregate of the Kinesis Producer Library
/// (KPL), or else the record itself.
///
/// The sub-records are slices of the aggregate's payload, have its sequence number and arrival time, and are numbered from
/// 0 by their place in it, whether or not others are left out. Those whose hash key lies outside `shard_range` are left
/// out, since they come again from the shard they belong to. Nothing is left out when the range is not given, or when the
/// stream evidently does not distribute by partition key: the aggregate has no partition key, or its first record, by
/// whose hash key producers send it, lies outside the range itself.
///
/// A record is plain, as it is to the KCL, unless it has the magic number and the right digest. An aggregate that cannot
/// be read to its end, or that holds no records, is handed on as it is too: as a single record it keeps the position
/// moving, and the application sees what came.
///
/// Never panics, whatever the payload is. Allocates for at most one [`Record`] per [`MIN_SUB_RECORD_BYTES`] of it, which is
/// 20 times its size if all of them are empty, and for the time of the call for one table entry per 2 bytes.
pub fn deaggregate(
    record: Record,
    shard_range: Option<HashKeyRange>,
    records: &mut Vec<Record>,
) -> Deaggregated {
    // A record with a number inside an aggregate was taken out of it already.
    let message = if record.sub_sequence_number == 0 { verified_message(&record.data) } else { None };
    let Some(message) = message else {
        records.push(record);
        return Deaggregated::Plain;
    };
    let first = records.len();
    match append(message, &record, shard_range, records) {
        Ok(filtered) => Deaggregated::Aggregate { filtered },
        Err(reason) => {
            records.truncate(first);
            records.push(record);
            Deaggregated::Malformed { reason }
        }
    }
}

/// Appends the records of a verified message, and says how many were left out. After an error some may be there.
fn append(
    message: &[u8],
    record: &Record,
    shard_range: Option<HashKeyRange>,
    records: &mut Vec<Record>,
) -> Result<u64, Malformation> {
    let aggregate = Aggregate::read(message, &record.data)?;
    // The records were counted, not announced: there is a field for each of them.
    records.reserve(aggregate.record_count);
    let range = shard_range.filter(|range| *range != HashKeyRange::FULL && record.partition_key.is_some());
    let mut filter = range.map(|range| HashFilter::new(range, &aggregate));
    let mut filtered = 0;
    for (sub_sequence_number, sub_record) in (0..).zip(aggregate.records()) {
        let sub_record = sub_record?;
        // An index out of range makes the aggregate malformed on every shard alike, looked up or not: what a position
        // inside it means must not depend on who reads it.
        let partition_key = entry(&aggregate.partition_keys, sub_record.partition_key_index)
            .ok_or("the index of a partition key points nowhere")?;
        if let Some(index) = sub_record.explicit_hash_key_index {
            entry(&aggregate.explicit_hash_keys, index)
                .ok_or("the index of an explicit hash key points nowhere")?;
        }
        let place = filter.as_mut().map_or(Place::Inside, |filter| filter.place(&sub_record));
        if sub_sequence_number == 0 && place != Place::Inside {
            // The stream did not put it where its keys say, so they say nothing about the others either.
            filter = None;
        } else if place == Place::Outside {
            filtered += 1;
            continue;
        }
        records.push(Record {
            sequence_number: record.sequence_number.clone(),
            sub_sequence_number,
            partition_key: Some(partition_key.clone()),
            data: record.data.slice_ref(sub_record.data),
            approximate_arrival: record.approximate_arrival,
        });
    }
    Ok(filtered)
}

fn entry<T>(table: &[T], index: u64) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}
