//! Decides which records of an aggregate belong to another shard.
//!
//! A producer fills an aggregate with records of one shard, according to the shards that it knows. After a split it may not
//! know the children yet, and the aggregate goes to one of them as a whole. From the answer the producer learns the shard,
//! and it sends the records of the other child again, in another aggregate (the KPL does this). So a record whose hash key
//! lies outside the range of its shard is repeated on a sibling, and is dropped here. The KCL drops the whole aggregate in
//! this case; this crate keeps the records inside the range.
//!
//! Dropping a record is only right if the stream distributes records by their keys. With the distribution strategy `AUTO`
//! it does not, although it returns the keys of the producer. Two signs show that: the aggregate itself has no partition
//! key; or its first record, whose hash key the KPL and similar producers send the aggregate by, lies outside the range.
//! In both cases all records are kept: a repeated record is better than a lost one.

use lease_store::{HashKey, HashKeyRange};
use md5::{Digest as _, Md5};

use super::aggregate::{Aggregate, SubRecord};

/// The hash key of a partition key: its MD5 digest, read as an unsigned integer with the most significant byte first, as
/// Kinesis does.
pub fn hash_key_of(partition_key: &str) -> HashKey {
    #[cfg(test)]
    tests::HASHED_KEYS.set(tests::HASHED_KEYS.get() + 1);
    let digest: [u8; 16] = Md5::digest(partition_key.as_bytes()).into();
    HashKey(u128::from_be_bytes(digest))
}

/// The shard that a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    ThisShard,
    OtherShard,
    /// Its explicit hash key is not valid.
    Unknown,
}

/// Finds the owners of the records of one aggregate. A key that many records share is hashed once, and an unused key is not
/// hashed.
#[derive(Debug)]
pub(super) struct HashFilter<'a> {
    range: HashKeyRange,
    aggregate: &'a Aggregate<'a>,
    by_partition_key: Vec<Option<Owner>>,
    by_explicit_hash_key: Vec<Option<Owner>>,
}

impl<'a> HashFilter<'a> {
    pub(super) fn new(range: HashKeyRange, aggregate: &'a Aggregate<'a>) -> Self {
        Self {
            range,
            aggregate,
            by_partition_key: vec![None; aggregate.partition_keys.len()],
            by_explicit_hash_key: vec![None; aggregate.explicit_hash_keys.len()],
        }
    }

    /// The owner of a record. `Unknown` also for an index out of range, which the caller checks itself.
    pub(super) fn owner(&mut self, record: &SubRecord<'_>) -> Owner {
        let (index, known) = match record.explicit_hash_key_index {
            Some(index) => (index, &mut self.by_explicit_hash_key),
            None => (record.partition_key_index, &mut self.by_partition_key),
        };
        let Some((index, known)) =
            usize::try_from(index).ok().and_then(|index| Some((index, known.get_mut(index)?)))
        else {
            return Owner::Unknown;
        };
        if let Some(owner) = *known {
            return owner;
        }
        let hash_key = if record.explicit_hash_key_index.is_some() {
            self.aggregate.explicit_hash_keys.get(index).and_then(|text| read_decimal(text))
        } else {
            self.aggregate.partition_keys.get(index).map(|key| hash_key_of(key))
        };
        let owner = match hash_key {
            Some(hash_key) if self.range.contains(hash_key) => Owner::ThisShard,
            Some(_) => Owner::OtherShard,
            None => Owner::Unknown,
        };
        *known = Some(owner);
        owner
    }
}

/// Parses a hash key from decimal text below 2^128. Leading zeros are allowed, as in the KCL.
fn read_decimal(text: &[u8]) -> Option<HashKey> {
    let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_decimal)?;
    text.parse().ok().map(HashKey)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    thread_local! {
        /// The keys that this thread has hashed.
        pub(crate) static HASHED_KEYS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
    use crate::Aggregator;
    use crate::aggregation::aggregate::message_and_digest;

    #[test]
    fn a_key_is_hashed_once_and_only_if_a_record_has_it() {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for (key, hash_key) in [("a", None), ("b", Some(HashKey(7))), ("a", None), ("a", Some(HashKey(7)))] {
            aggregator.add(key, hash_key, b"x").unwrap();
        }
        let payload = aggregator.finish().unwrap().data;
        let aggregate = Aggregate::read(message_and_digest(&payload).unwrap().0, &payload).unwrap();
        let mut filter = HashFilter::new(HashKeyRange::new(HashKey(0), HashKey(7)).unwrap(), &aggregate);
        let mut records = aggregate.records().map(Result::unwrap);
        assert_eq!(filter.owner(&records.next().unwrap()), Owner::OtherShard);
        assert_eq!(filter.owner(&records.next().unwrap()), Owner::ThisShard);
        // The key "b" belongs to a record with an explicit hash key, so it was not hashed.
        assert_eq!(filter.by_partition_key, [Some(Owner::OtherShard), None]);
        assert_eq!(filter.by_explicit_hash_key, [Some(Owner::ThisShard)]);
        // Stored answers are not computed again, even if they are made wrong here.
        filter.by_partition_key[0] = Some(Owner::ThisShard);
        filter.by_explicit_hash_key[0] = Some(Owner::OtherShard);
        assert_eq!(filter.owner(&records.next().unwrap()), Owner::ThisShard);
        assert_eq!(filter.owner(&records.next().unwrap()), Owner::OtherShard);
    }

    #[test]
    fn the_hash_key_of_a_partition_key_is_its_digest() {
        // MD5("") and MD5("a") as RFC 1321 lists them.
        assert_eq!(hash_key_of(""), HashKey(0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e));
        assert_eq!(hash_key_of("a"), HashKey(0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661));
    }

    #[test]
    fn explicit_hash_keys_are_decimal() {
        assert_eq!(read_decimal(b"0"), Some(HashKey::MIN));
        assert_eq!(read_decimal(b"0042"), Some(HashKey(42)));
        assert_eq!(read_decimal(b"340282366920938463463374607431768211455"), Some(HashKey::MAX));
        for text in
            [&b""[..], b"-1", b"+1", b"1.0", b"0x1", b"340282366920938463463374607431768211456", b"\xff"]
        {
            assert_eq!(read_decimal(text), None, "{text:?}");
        }
    }
}
