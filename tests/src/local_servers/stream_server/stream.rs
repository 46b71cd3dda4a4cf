//! A stream as data: shards, records, splits and merges. Pure: the time is an argument.

use std::ops::RangeInclusive;

use md5::{Digest as _, Md5};

/// The first sequence number of a stream. All numbers have the same length.
const FIRST_NUMBER: u128 = 49_600_000_000_000_000_000;

/// The most records of an answer or event (AWS: 10,000).
const MAX_RECORDS: usize = 10_000;

/// A stored record.
#[derive(Debug, Clone)]
pub(super) struct StoredRecord {
    pub(super) number: u128,
    pub(super) partition_key: String,
    /// In Base64, as requests and JSON answers have it.
    pub(super) data: String,
    pub(super) arrived_millis: u64,
}

/// A shard and its records.
#[derive(Debug, Clone)]
pub(super) struct StoredShard {
    pub(super) id: String,
    pub(super) parents: Vec<String>,
    pub(super) hash_keys: RangeInclusive<u128>,
    pub(super) first_number: u128,
    /// The sequence number at which the shard was closed; `None`: it is open.
    pub(super) last_number: Option<u128>,
    records: Vec<StoredRecord>,
}

impl StoredShard {
    /// The records after a sequence number, at most so many and so many bytes of Base64, but at least one.
    pub(super) fn records_after(&self, number: u128, limit: usize, max_bytes: usize) -> &[StoredRecord] {
        let from = self.records.partition_point(|record| record.number <= number);
        let mut bytes = 0;
        let fits = |record: &&StoredRecord| {
            bytes += record.data.len();
            bytes <= max_bytes
        };
        let rest = &self.records[from..];
        let count = rest.iter().take(limit.min(MAX_RECORDS)).take_while(fits).count();
        &rest[..count.max(1).min(rest.len())]
    }

    /// The number after which reading begins at a time, in milliseconds since 1970.
    pub(super) fn before_time(&self, millis: u64, newest: u128) -> u128 {
        let first = self.records.iter().find(|record| record.arrived_millis >= millis);
        first.map_or(newest, |record| record.number - 1)
    }

    /// Whether the shard is closed and has no records after a number.
    pub(super) fn is_read_to(&self, number: u128) -> bool {
        self.last_number.is_some() && self.records.last().is_none_or(|record| record.number <= number)
    }

    /// How far the next record after a number is behind a time, in milliseconds.
    pub(super) fn millis_behind(&self, number: u128, now_millis: u64) -> u64 {
        let next = self.records.get(self.records.partition_point(|record| record.number <= number));
        next.map_or(0, |record| now_millis.saturating_sub(record.arrived_millis).max(1))
    }
}

/// A stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) shards: Vec<StoredShard>,
    /// The number of the newest record or change.
    pub(super) newest: u128,
    pub(super) created_millis: u64,
}

impl Stream {
    /// A stream with this many shards of the same size.
    pub(super) fn new(count: usize, now_millis: u64) -> Self {
        let mut stream = Self { shards: Vec::new(), newest: FIRST_NUMBER, created_millis: now_millis };
        let width = u128::MAX / count.max(1) as u128;
        for index in 0..count.max(1) as u128 {
            let end = if index + 1 == count.max(1) as u128 { u128::MAX } else { (index + 1) * width - 1 };
            stream.open(Vec::new(), index * width..=end);
        }
        stream
    }

    fn next_number(&mut self) -> u128 {
        self.newest += 1;
        self.newest
    }

    fn open(&mut self, parents: Vec<String>, hash_keys: RangeInclusive<u128>) {
        let id = format!("shardId-{:012}", self.shards.len());
        let first_number = self.next_number();
        let shard =
            StoredShard { id, parents, hash_keys, first_number, last_number: None, records: Vec::new() };
        self.shards.push(shard);
    }

    /// A shard by its name.
    pub(super) fn shard(&self, id: &str) -> Option<&StoredShard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    /// The children of a shard.
    pub(super) fn children_of(&self, id: &str) -> impl Iterator<Item = &StoredShard> {
        self.shards.iter().filter(move |shard| shard.parents.iter().any(|parent| parent == id))
    }

    /// Stores a record in the open shard of its hash key, and returns the shard and the sequence number.
    pub(super) fn put(
        &mut self,
        partition_key: &str,
        explicit_hash_key: Option<u128>,
        data: &str,
        now_millis: u64,
    ) -> Option<(&str, u128)> {
        let hash_key = explicit_hash_key
            .unwrap_or_else(|| u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into()));
        let number = self.next_number();
        let is_home =
            |shard: &&mut StoredShard| shard.last_number.is_none() && shard.hash_keys.contains(&hash_key);
        let shard = self.shards.iter_mut().find(is_home)?;
        shard.records.push(StoredRecord {
            number,
            partition_key: partition_key.to_owned(),
            data: data.to_owned(),
            arrived_millis: now_millis,
        });
        Some((&shard.id, number))
    }

    /// Splits a shard. The second child begins at this hash key.
    pub(super) fn split(&mut self, id: &str, second: u128) -> Result<(), String> {
        let keys = self.close(id)?;
        if second <= *keys.start() || second > *keys.end() {
            return Err(format!("the hash key {second} does not divide {keys:?}"));
        }
        self.open(vec![id.to_owned()], *keys.start()..=second - 1);
        self.open(vec![id.to_owned()], second..=*keys.end());
        Ok(())
    }

    /// Merges two shards that are next to each other.
    pub(super) fn merge(&mut self, id: &str, adjacent: &str) -> Result<(), String> {
        let (one, other) = (self.close(id)?, self.close(adjacent)?);
        let (low, high) = if one.start() < other.start() { (one, other) } else { (other, one) };
        if low.end().checked_add(1) != Some(*high.start()) {
            return Err(format!("{id} and {adjacent} are not adjacent"));
        }
        self.open(vec![id.to_owned(), adjacent.to_owned()], *low.start()..=*high.end());
        Ok(())
    }

    fn close(&mut self, id: &str) -> Result<RangeInclusive<u128>, String> {
        let number = self.next_number();
        let open = self.shards.iter_mut().find(|shard| shard.id == id && shard.last_number.is_none());
        let shard = open.ok_or_else(|| format!("{id} is not an open shard"))?;
        shard.last_number = Some(number);
        Ok(shard.hash_keys.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shard: &StoredShard, after: u128, limit: usize, bytes: usize) -> Vec<u128> {
        shard.records_after(after, limit, bytes).iter().map(|record| record.number).collect()
    }

    #[test]
    fn shards_cover_every_hash_key_through_reshards() {
        let mut stream = Stream::new(3, 0);
        stream.split("shardId-000000000001", u128::MAX / 2).unwrap();
        stream.merge("shardId-000000000000", "shardId-000000000003").unwrap();
        let mut open: Vec<_> = stream.shards.iter().filter(|shard| shard.last_number.is_none()).collect();
        open.sort_by_key(|shard| *shard.hash_keys.start());
        assert_eq!((*open[0].hash_keys.start(), *open.last().unwrap().hash_keys.end()), (0, u128::MAX));
        for pair in open.windows(2) {
            assert_eq!(pair[0].hash_keys.end() + 1, *pair[1].hash_keys.start());
        }
        assert_eq!(stream.children_of("shardId-000000000001").count(), 2);
        assert!(stream.split("shardId-000000000000", 5).is_err(), "it is closed");
        for index in 0..100_u128 {
            let key = index * (u128::MAX / 100);
            let (shard, _) = stream.put("key", Some(key), "", 0).unwrap();
            let shard = shard.to_owned();
            assert!(stream.shard(&shard).unwrap().hash_keys.contains(&key));
        }
    }

    #[test]
    fn records_are_returned_in_pieces_and_a_closed_shard_ends() {
        let mut stream = Stream::new(1, 0);
        let put: Vec<u128> =
            (0..5).map(|time| stream.put("key", None, "12345678", 10 * time).unwrap().1).collect();
        let shard = &stream.shards[0];
        assert_eq!(numbers(shard, 0, 100, 1000), put);
        assert_eq!(numbers(shard, put[1], 2, 1000), put[2..4]);
        assert_eq!(numbers(shard, 0, 100, 17), put[..2]);
        assert_eq!(numbers(shard, 0, 100, 1), put[..1], "a record larger than the limit is returned");
        assert_eq!(numbers(shard, put[4], 100, 1000), [0; 0]);
        assert_eq!(shard.before_time(25, stream.newest), put[3] - 1);
        assert_eq!(shard.before_time(99, stream.newest), stream.newest);
        assert_eq!((shard.millis_behind(put[3], 50), shard.millis_behind(put[4], 50)), (10, 0));
        assert!(!shard.is_read_to(put[4]), "it is open");
        stream.split("shardId-000000000000", 7).unwrap();
        let shard = &stream.shards[0];
        assert!(shard.is_read_to(put[4]) && !shard.is_read_to(put[3]));
    }
}
