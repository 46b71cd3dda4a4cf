//! Packs records for a producer: one by one, or many in an aggregate.
//!
//! An aggregate, in the format of the Kinesis Producer Library (KPL), is put to one shard, and consumers skip the records in it
//! that belong to another shard. The KPL therefore aggregates by shard, and puts records again that a reshard moved to another
//! shard. This packer gives all records of an aggregate the same explicit hash key instead: they stay in one shard through any
//! split, and the producer need not know the shards. The price: the partition key no longer selects the shard. A producer that
//! needs order by key must aggregate by shard as the KPL does.

use kinesis_streaming::lease_store::HashKey;
use kinesis_streaming::prelude::BoxError;
use kinesis_streaming::shard_worker::{AggregatedRecord, Aggregator, hash_key_of};

/// One record to put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRecord<'a> {
    /// The partition key.
    pub partition_key: String,
    /// Selects the shard in place of the partition key.
    pub explicit_hash_key: Option<HashKey>,
    /// The payload.
    pub data: Vec<u8>,
    /// The texts in the payload.
    pub pieces: Vec<&'a str>,
}

/// Packs texts; their partition keys are ascending numbers.
#[derive(Debug)]
pub struct Packer<'a> {
    /// How many records make an aggregate; `None` for no aggregation.
    records_per_aggregate: Option<usize>,
    aggregator: Aggregator,
    /// The texts in the aggregator.
    pieces: Vec<&'a str>,
    next_index: usize,
}

impl<'a> Packer<'a> {
    /// Packs this many records into one, or fewer if they exceed the size of a record; `None` for no aggregation.
    pub fn new(records_per_aggregate: Option<usize>) -> Self {
        Self {
            records_per_aggregate,
            aggregator: Aggregator::new(Aggregator::DEFAULT_MAX_BYTES),
            pieces: Vec::new(),
            next_index: 0,
        }
    }

    /// Adds a text, and returns the records that it completes.
    ///
    /// # Errors
    /// When the text is larger than a record may be.
    pub fn add(&mut self, piece: &'a str) -> Result<Vec<PackedRecord<'a>>, BoxError> {
        let index = self.next_index;
        self.next_index += 1;
        let partition_key = index.to_string();
        let Some(count) = self.records_per_aggregate.map(|count| count.max(1)) else {
            let data = piece.as_bytes().to_vec();
            return Ok(vec![PackedRecord {
                partition_key,
                explicit_hash_key: None,
                data,
                pieces: vec![piece],
            }]);
        };
        // All aggregates of a group have the same hash key.
        let hash_key = hash_key_of(&(index - index % count).to_string());
        let full = self.aggregator.add(partition_key, Some(hash_key), piece.as_bytes())?;
        let mut complete: Vec<PackedRecord<'a>> = full.map(|full| self.pack(full)).into_iter().collect();
        self.pieces.push(piece);
        if (index + 1).is_multiple_of(count) {
            complete.extend(self.finish());
        }
        Ok(complete)
    }

    /// Completes the current aggregate, if it holds a record.
    pub fn finish(&mut self) -> Option<PackedRecord<'a>> {
        self.aggregator.finish().map(|aggregate| self.pack(aggregate))
    }

    fn pack(&mut self, aggregate: AggregatedRecord) -> PackedRecord<'a> {
        PackedRecord {
            partition_key: aggregate.partition_key.to_string(),
            explicit_hash_key: Some(aggregate.hash_key),
            data: aggregate.data.into(),
            pieces: std::mem::take(&mut self.pieces),
        }
    }
}

#[cfg(test)]
mod tests {
    use kinesis_streaming::lease_store::{HashKeyRange, SequenceNumber};
    use kinesis_streaming::prelude::Record;
    use kinesis_streaming::shard_worker::{Deaggregated, deaggregate};

    use super::*;

    fn pack(texts: &[String], records_per_aggregate: Option<usize>) -> Vec<PackedRecord<'_>> {
        let mut packer = Packer::new(records_per_aggregate);
        let mut packed: Vec<_> = texts.iter().flat_map(|text| packer.add(text).unwrap()).collect();
        packed.extend(packer.finish());
        packed
    }

    #[test]
    fn packed_texts_are_restored_on_any_shard() {
        // Some groups exceed the size of a record.
        let texts: Vec<String> = (0..250).map(|number| "x".repeat(1 + number * 800)).collect();
        let packed = pack(&texts, Some(20));
        assert!(packed.len() > 13);
        let mut unpacked = Vec::new();
        for record in packed {
            let hash_key = record.explicit_hash_key.unwrap();
            assert!(record.data.len() + record.partition_key.len() <= Aggregator::DEFAULT_MAX_BYTES);
            let received = Record::new(SequenceNumber::from(1), record.data.into())
                .with_partition_key(Some(record.partition_key.into()));
            let mut records = Vec::new();
            // The narrowest shard that the record can be put to.
            let range = HashKeyRange::new(hash_key, hash_key).unwrap();
            let found = deaggregate(received, Some(range), &mut records);
            assert_eq!(found, Deaggregated::Aggregate { filtered: 0 });
            assert!(
                records.iter().map(|record| &record.data[..]).eq(record.pieces.iter().map(|p| p.as_bytes()))
            );
            unpacked.extend(record.pieces);
        }
        assert!(unpacked.iter().eq(texts.iter()));
    }

    #[test]
    fn without_aggregation_each_text_is_a_record() {
        let texts = ["a", "b"].map(str::to_owned);
        let packed = pack(&texts, None);
        assert_eq!(packed.len(), 2);
        assert_eq!((packed[1].partition_key.as_str(), &packed[1].data[..]), ("1", &b"b"[..]));
        assert!(packed.iter().all(|record| record.explicit_hash_key.is_none()));
    }
}
