//! De-aggregation: a record in, its sub-records out.

use lease_store::HashKeyRange;

use super::aggregate::{Aggregate, is_aggregate, message_and_digest};
use super::hash_filter::{HashFilter, Owner};
use super::wire::Malformation;
use crate::record::Record;

/// The smallest encoded size of a record in an aggregate: two bytes for its field, two each for the index of its partition
/// key and for an empty payload. So `n` bytes hold at most `n / 6` records.
pub const MIN_SUB_RECORD_BYTES: usize = 6;

/// The result of [`deaggregate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaggregated {
    /// A plain record, appended unchanged.
    Plain,
    /// The digest is that of an aggregate, but the content cannot be read. The record is appended unchanged, so that no
    /// data is lost.
    Malformed {
        /// Why the content cannot be read.
        reason: &'static str,
    },
    /// An aggregate, of which the sub-records are appended.
    Aggregate {
        /// How many of its records belong to another shard, and were filtered.
        filtered: u64,
    },
}

/// Appends the sub-records of an aggregate of the Kinesis Producer Library (KPL) to `records`, or a plain record itself.
///
/// The sub-records are slices of the aggregate's payload and have its sequence number and arrival time. Their sub-sequence
/// numbers count from 0 in the order of the aggregate, filtered records included.
///
/// A sub-record whose hash key lies outside `shard_range` is filtered, since the shard that it belongs to delivers it.
/// Nothing is filtered without a range, or if the stream evidently does not distribute by partition key. There are two
/// signs of that: the aggregate has no partition key; or its first record, whose hash key producers send it by, lies outside
/// the range.
///
/// As in the KCL, a record is plain unless it has the magic number and the right digest. An aggregate that is malformed or
/// holds no records is appended unchanged: as a single record it keeps the position moving, and the application sees it.
///
/// Never panics, for any payload. Allocates at most one [`Record`] per [`MIN_SUB_RECORD_BYTES`] of the payload, which is 20
/// times its size if all sub-records are empty. During the call it allocates one more table entry per 2 bytes.
pub fn deaggregate(
    record: Record,
    shard_range: Option<HashKeyRange>,
    records: &mut Vec<Record>,
) -> Deaggregated {
    // A record with a sub-sequence number is a sub-record already.
    let is_aggregate = record.sub_sequence_number == 0 && is_aggregate(&record.data);
    deaggregate_part(record, is_aggregate, shard_range, Part::WHOLE, records).0
}

/// Which sub-records of an aggregate to append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// The sub-records up to this number are left out; `None`: none is.
    pub(crate) after: Option<u64>,
    /// The part before it was appended already. So the aggregate is known to be well-formed, and the filtered records of that
    /// part are counted.
    pub(crate) is_continued: bool,
    /// The most sub-records to append.
    pub(crate) max_records: usize,
}

impl Part {
    const WHOLE: Self = Self { after: None, is_continued: false, max_records: usize::MAX };

    fn includes(self, sub_sequence_number: u64) -> bool {
        self.after.is_none_or(|after| sub_sequence_number > after)
    }
}

/// [`deaggregate`] for a part of the sub-records of a record whose digest was verified before: `is_aggregate`. The result also
/// shows whether sub-records after this part are left.
pub(crate) fn deaggregate_part(
    record: Record,
    is_aggregate: bool,
    shard_range: Option<HashKeyRange>,
    part: Part,
    records: &mut Vec<Record>,
) -> (Deaggregated, bool) {
    let message = if is_aggregate { message_and_digest(&record.data) } else { None };
    let Some((message, _)) = message else {
        records.push(record);
        return (Deaggregated::Plain, false);
    };
    let first = records.len();
    match append(message, &record, shard_range, part, records) {
        Ok((filtered, has_more)) => (Deaggregated::Aggregate { filtered }, has_more),
        Err(reason) => {
            records.truncate(first);
            records.push(record);
            (Deaggregated::Malformed { reason }, false)
        }
    }
}

/// Appends a part of the records of a verified message; returns how many were filtered, and whether more are left. After an error
/// some may be appended.
fn append(
    message: &[u8],
    record: &Record,
    shard_range: Option<HashKeyRange>,
    part: Part,
    records: &mut Vec<Record>,
) -> Result<(u64, bool), Malformation> {
    let aggregate = Aggregate::read(message, &record.data)?;
    // The count is safe to allocate for: the message holds a field for each record.
    records.reserve(aggregate.record_count.min(part.max_records));
    let (mut left, mut has_more, mut filtered_at_end) = (part.max_records, false, 0);
    let range = shard_range.filter(|range| *range != HashKeyRange::FULL && record.partition_key.is_some());
    let mut filter = range.map(|range| HashFilter::new(range, &aggregate));
    let mut filtered = 0;
    for (sub_sequence_number, sub_record) in (0..).zip(aggregate.records()) {
        let sub_record = sub_record?;
        // An index out of range makes the aggregate malformed on every shard, even if no filter needs the key: a position
        // inside it must mean the same to every reader.
        let partition_key = entry(&aggregate.partition_keys, sub_record.partition_key_index)
            .ok_or("the index of a partition key points nowhere")?;
        if let Some(index) = sub_record.explicit_hash_key_index {
            entry(&aggregate.explicit_hash_keys, index)
                .ok_or("the index of an explicit hash key points nowhere")?;
        }
        let owner = filter.as_mut().map_or(Owner::ThisShard, |filter| filter.owner(&sub_record));
        if sub_sequence_number == 0 && owner != Owner::ThisShard {
            // The first key belongs to another shard, so the stream does not distribute by key: filter nothing.
            filter = None;
        } else if owner == Owner::OtherShard {
            let is_counted = part.includes(sub_sequence_number) || !part.is_continued;
            *(if left > 0 { &mut filtered } else { &mut filtered_at_end }) += u64::from(is_counted);
            continue;
        }
        if !part.includes(sub_sequence_number) {
            continue;
        }
        if left == 0 {
            has_more = true;
            if part.is_continued {
                break;
            }
            // The first part reads to the end: an aggregate that is malformed there is delivered as one record.
            continue;
        }
        left -= 1;
        records.push(Record {
            sequence_number: record.sequence_number.clone(),
            sub_sequence_number,
            partition_key: Some(partition_key.clone()),
            data: record.data.slice_ref(sub_record.data),
            approximate_arrival: record.approximate_arrival,
        });
    }
    // Those after the last record of this part are counted with the next one, if there is one.
    Ok((filtered + if has_more { 0 } else { filtered_at_end }, has_more))
}

fn entry<T>(table: &[T], index: u64) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}
