//! Which records of an aggregate are the business of another shard.
//!
//! A producer fills an aggregate with records of one shard, as far as it knows the shards. After a split it may not know
//! yet: the aggregate goes to one of the children as a whole. The producer learns from the answer where it went, and
//! sends the records that belong elsewhere again, in another aggregate (that is how the KPL does it). So a record whose
//! hash key lies outside the range of the shard comes again from a sibling, and is dropped here. The KCL drops the whole
//! aggregate then; here the records inside the range are kept.
//!
//! Dropping is only right where the stream puts a record where its keys say. It does not if its distribution strategy is
//! `AUTO`, and the keys that a producer gave come back all the same, so their presence proves nothing. Two things give it
//! away: the aggregate has no partition key itself, or its first record lies outside the range, though it is the one
//! whose hash key the KPL and its kin send the aggregate by. In both cases everything is kept: a record that comes twice
//! is better than one that does not come.

use lease_store::{HashKey, HashKeyRange};
use md5::{Digest as _, Md5};

use super::aggregate::{Aggregate, SubRecord};

/// The hash key of a partition key: its MD5 digest, read as an unsigned integer with the most significant byte first, as
/// Kinesis does.
pub fn hash_key_of(partition_key: &str) -> HashKey {
    let digest: [u8; 16] = Md5::digest(partition_key.as_bytes()).into();
    HashKey(u128::from_be_bytes(digest))
}

/// Where a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To this shard.
    Inside,
    /// To another one.
    Outside,
    /// Its explicit hash key is not one, so nobody knows.
    Unknown,
}

/// Says of the records of one aggregate where they belong. A key that many of them share is looked at once, and one that
/// none of them has is not looked at.
#[derive(Debug)]
pub(super) struct HashFilter<'a> {
    range: HashKeyRange,
    aggregate: &'a Aggregate<'a>,
    by_partition_key: Vec<Option<Place>>,
    by_explicit_hash_key: Vec<Option<Place>>,
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

    /// Where a record belongs. `Unknown` too when an index points nowhere, which the caller finds by itself.
    pub(super) fn place(&mut self, record: &SubRecord<'_>) -> Place {
        let (index, known) = match record.explicit_hash_key_index {
            Some(index) => (index, &mut self.by_explicit_hash_key),
            None => (record.partition_key_index, &mut self.by_partition_key),
        };
        let Some((index, known)) =
            usize::try_from(index).ok().and_then(|index| Some((index, known.get_mut(index)?)))
        else {
            return Place::Unknown;
        };
        if let Some(place) = *known {
            return place;
        }
        let hash_key = if record.explicit_hash_key_index.is_some() {
            self.aggregate.explicit_hash_keys.get(index).and_then(|text| read_decimal(text))
        } else {
            self.aggregate.partition_keys.get(index).map(|key| hash_key_of(key))
        };
        let place = match hash_key {
            Some(hash_key) if self.range.contains(hash_key) => Place::Inside,
            Some(_) => Place::Outside,
            None => Place::Unknown,
        };
        *known = Some(place);
        place
    }
}

/// A hash key from decimal text below 2^128. Leading zeros are allowed, as the KCL allows them.
fn read_decimal(text: &[u8]) -> Option<HashKey> {
    let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_decimal)?;
    text.parse().ok().map(HashKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Aggregator;
    use crate::aggregation::aggregate::verified_message;

    #[test]
    fn a_key_is_looked_at_once_and_only_if_a_record_has_it() {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for (key, hash_key) in [("a", None), ("b", Some(HashKey(7))), ("a", None), ("a", Some(HashKey(7)))] {
            aggregator.add(key, hash_key, b"x").unwrap();
        }
        let payload = aggregator.finish().unwrap().data;
        let aggregate = Aggregate::read(verified_message(&payload).unwrap(), &payload).unwrap();
        let mut filter = HashFilter::new(HashKeyRange::new(HashKey(0), HashKey(7)).unwrap(), &aggregate);
        let mut records = aggregate.records().map(Result::unwrap);
        assert_eq!(filter.place(&records.next().unwrap()), Place::Outside);
        assert_eq!(filter.place(&records.next().unwrap()), Place::Inside);
        // The key "b" belongs to a record with an explicit hash key, so nobody looked at it.
        assert_eq!(filter.by_partition_key, [Some(Place::Outside), None]);
        assert_eq!(filter.by_explicit_hash_key, [Some(Place::Inside)]);
        // What is known is not looked at again: the answer is the noted one, even where it was made wrong.
        filter.by_partition_key[0] = Some(Place::Inside);
        filter.by_explicit_hash_key[0] = Some(Place::Outside);
        assert_eq!(filter.place(&records.next().unwrap()), Place::Inside);
        assert_eq!(filter.place(&records.next().unwrap()), Place::Outside);
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
