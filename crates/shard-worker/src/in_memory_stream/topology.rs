//! The shards of an in-memory stream and their records: plain data, no waiting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use lease_store::{HashKey, HashKeyRange, SequenceNumber, ShardId};

use crate::error::{SourceError, SourceErrorKind};
use crate::record::Record;
use crate::shard::Shard;
use crate::source::{ReadFrom, ShardFilter};

/// The shards of a stream, open and closed, and their records.
#[derive(Debug)]
pub(super) struct Topology {
    shards: BTreeMap<ShardId, ShardLog>,
    next_shard_number: u64,
    next_record_number: u64,
    payload_bytes: usize,
    capacity_bytes: usize,
}

#[derive(Debug)]
struct ShardLog {
    range: HashKeyRange,
    parents: BTreeSet<ShardId>,
    /// `None`: the shard exists since the creation of the stream.
    started_at: Option<SystemTime>,
    closed_at: Option<SystemTime>,
    records: VecDeque<Record>,
}

/// The result of a read.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) records: Vec<Record>,
    /// The children, if the shard ends after these records.
    pub(super) end: Option<Vec<Shard>>,
    /// When the newest record of the shard arrived, if there are records after these.
    pub(super) newest_unread: Option<SystemTime>,
}

/// The limits of one read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadLimits {
    pub(super) records: usize,
    /// The most bytes, counted in memory. A larger first record is read alone, unless the limit is 0.
    pub(super) bytes: u64,
}

impl Topology {
    pub(super) fn new(shard_count: NonZeroUsize, capacity_bytes: usize) -> Self {
        let mut topology = Self {
            shards: BTreeMap::new(),
            next_shard_number: 0,
            next_record_number: 0,
            payload_bytes: 0,
            capacity_bytes,
        };
        let count = shard_count.get() as u128;
        // The first `rest` shards are one key wider, so that the ranges tile the space exactly.
        let (width, rest) = (u128::MAX / count, u128::MAX % count + 1);
        let mut start = 0u128;
        for index in 0..count {
            let end = if index + 1 == count { u128::MAX } else { start + width - u128::from(index >= rest) };
            topology.add(start, end, BTreeSet::new(), None);
            start = end.wrapping_add(1);
        }
        topology
    }

    fn add(
        &mut self,
        start: u128,
        end: u128,
        parents: BTreeSet<ShardId>,
        started_at: Option<SystemTime>,
    ) -> ShardId {
        let (start, end) = (start.min(end), start.max(end));
        let shard_id = ShardId::numbered(self.next_shard_number);
        self.next_shard_number += 1;
        let range = HashKeyRange::new(HashKey(start), HashKey(end)).unwrap_or(HashKeyRange::FULL);
        let log = ShardLog { range, parents, started_at, closed_at: None, records: VecDeque::new() };
        self.shards.insert(shard_id.clone(), log);
        shard_id
    }

    pub(super) fn list(&self, filter: &ShardFilter) -> Vec<Shard> {
        let listed = self.shards.iter().filter(|(shard_id, log)| match filter {
            ShardFilter::All => true,
            ShardFilter::Open => !log.is_closed(),
            ShardFilter::OpenSince(instant) => log.closed_at.is_none_or(|closed_at| closed_at >= *instant),
            ShardFilter::After(parent) => *shard_id > parent,
        });
        listed.map(|(shard_id, log)| log.describe(shard_id)).collect()
    }

    pub(super) fn started_at(&self, shard_id: &ShardId) -> Option<SystemTime> {
        self.shards.get(shard_id)?.started_at
    }

    pub(super) fn open_shards(&self) -> Vec<ShardId> {
        let open = self.shards.iter().filter(|(_, log)| !log.is_closed());
        open.map(|(shard_id, _)| shard_id.clone()).collect()
    }

    pub(super) fn record_count(&self) -> usize {
        self.shards.values().map(|log| log.records.len()).sum()
    }

    pub(super) fn put(
        &mut self,
        hash_key: HashKey,
        partition_key: Option<ByteString>,
        data: Bytes,
        arrival: SystemTime,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        let record_bytes = data.len() + partition_key.as_ref().map_or(0, |key| key.len());
        if self.payload_bytes + record_bytes > self.capacity_bytes {
            return Err(SourceError::new(
                SourceErrorKind::Throttled,
                format!(
                    "the in-memory stream holds {} of at most {} bytes; trim it, or give it a larger capacity",
                    self.payload_bytes, self.capacity_bytes
                ),
            ));
        }
        let owner = self.shards.iter_mut().find(|(_, log)| !log.is_closed() && log.range.contains(hash_key));
        let Some((shard_id, log)) = owner else {
            return Err(SourceError::new(
                SourceErrorKind::ShardNotFound,
                format!("no open shard covers {hash_key}"),
            ));
        };
        let sequence_number = sequence_number(self.next_record_number);
        self.next_record_number += 1;
        self.payload_bytes += record_bytes;
        log.records.push_back(Record {
            sequence_number: sequence_number.clone(),
            sub_sequence_number: 0,
            partition_key,
            data,
            approximate_arrival: Some(arrival),
        });
        Ok((shard_id.clone(), sequence_number))
    }

    pub(super) fn split(
        &mut self,
        shard_id: &ShardId,
        at: Option<HashKey>,
        now: SystemTime,
    ) -> Result<[ShardId; 2], SourceError> {
        let range = self.open_shard(shard_id)?.range;
        let (start, end) = (range.start().0, range.end().0);
        let at = at.map_or(start + (end - start) / 2 + 1, |at| at.0);
        if at <= start || at > end {
            return Err(SourceError::new(
                SourceErrorKind::Invalid,
                format!("{shard_id} covers {start} to {end} and cannot be split at {at}"),
            ));
        }
        self.close(shard_id, now);
        let parents = BTreeSet::from([shard_id.clone()]);
        Ok([self.add(start, at - 1, parents.clone(), Some(now)), self.add(at, end, parents, Some(now))])
    }

    pub(super) fn merge(
        &mut self,
        one: &ShardId,
        other: &ShardId,
        now: SystemTime,
    ) -> Result<ShardId, SourceError> {
        let (one_range, other_range) = (self.open_shard(one)?.range, self.open_shard(other)?.range);
        let (low, high) =
            if one_range <= other_range { (one_range, other_range) } else { (other_range, one_range) };
        if low.end().0.checked_add(1) != Some(high.start().0) {
            return Err(SourceError::new(
                SourceErrorKind::Invalid,
                format!("{one} and {other} do not lie side by side and cannot be merged"),
            ));
        }
        self.close(one, now);
        self.close(other, now);
        let parents = BTreeSet::from([one.clone(), other.clone()]);
        Ok(self.add(low.start().0, high.end().0, parents, Some(now)))
    }

    /// Removes records that arrived before an instant, and closed shards that are empty then.
    pub(super) fn trim_arrived_before(&mut self, instant: SystemTime) {
        for log in self.shards.values_mut() {
            while let Some(record) = log.records.front()
                && record.approximate_arrival.is_some_and(|arrival| arrival < instant)
            {
                self.payload_bytes -=
                    record.data.len() + record.partition_key.as_ref().map_or(0, |key| key.len());
                log.records.pop_front();
            }
        }
        self.shards.retain(|_, log| !(log.is_closed() && log.records.is_empty()));
    }

    /// The sequence number after which a reader starts; `None`: at the trim horizon.
    pub(super) fn resolve(
        &self,
        shard_id: &ShardId,
        from: &ReadFrom,
    ) -> Result<Option<SequenceNumber>, SourceError> {
        let records = &self.shard(shard_id)?.records;
        let before = |index: usize| index.checked_sub(1).map(|index| records[index].sequence_number.clone());
        Ok(match from {
            ReadFrom::TrimHorizon => None,
            ReadFrom::Latest => self.newest_sequence_number(),
            ReadFrom::AtTimestamp(timestamp) => before(
                records
                    .partition_point(|record| record.approximate_arrival.is_some_and(|at| at < *timestamp)),
            ),
            ReadFrom::At(number) => {
                before(records.partition_point(|record| record.sequence_number < *number))
            }
        })
    }

    /// The newest number of the whole stream: all records after the opening of a reader at `LATEST` have larger ones.
    fn newest_sequence_number(&self) -> Option<SequenceNumber> {
        self.next_record_number.checked_sub(1).map(sequence_number)
    }

    /// The memory of the next read, in bytes; `None`: neither records nor the end. The read itself reports errors.
    pub(super) fn next_read_bytes(
        &self,
        shard_id: &ShardId,
        after: Option<&SequenceNumber>,
        limits: ReadLimits,
    ) -> Option<u64> {
        let Ok(log) = self.shard(shard_id) else { return Some(0) };
        let bytes = log.next(after, limits).map(Record::memory_bytes).sum();
        (bytes > 0 || log.is_closed()).then_some(bytes)
    }

    pub(super) fn read(
        &self,
        shard_id: &ShardId,
        after: Option<&SequenceNumber>,
        limits: ReadLimits,
    ) -> Result<Slice, SourceError> {
        let log = self.shard(shard_id)?;
        let records: Vec<Record> = log.next(after, limits).cloned().collect();
        let is_all = log.first_after(after) + records.len() == log.records.len();
        let newest = log.records.back().and_then(|record| record.approximate_arrival);
        Ok(Slice {
            end: (is_all && log.is_closed()).then(|| self.children(shard_id)),
            newest_unread: if is_all { None } else { newest },
            records,
        })
    }

    fn children(&self, parent: &ShardId) -> Vec<Shard> {
        let children = self.shards.iter().filter(|(_, log)| log.parents.contains(parent));
        children.map(|(shard_id, log)| log.describe(shard_id)).collect()
    }

    fn shard(&self, shard_id: &ShardId) -> Result<&ShardLog, SourceError> {
        self.shards.get(shard_id).ok_or_else(|| {
            SourceError::new(SourceErrorKind::ShardNotFound, format!("the stream has no shard {shard_id}"))
        })
    }

    fn open_shard(&self, shard_id: &ShardId) -> Result<&ShardLog, SourceError> {
        let log = self.shard(shard_id)?;
        if log.is_closed() {
            let message = format!("{shard_id} is closed already; only an open shard can be split or merged");
            return Err(SourceError::new(SourceErrorKind::Invalid, message));
        }
        Ok(log)
    }

    fn close(&mut self, shard_id: &ShardId, now: SystemTime) {
        if let Some(log) = self.shards.get_mut(shard_id) {
            log.closed_at = Some(now);
        }
    }
}

impl ShardLog {
    fn is_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    fn first_after(&self, after: Option<&SequenceNumber>) -> usize {
        after.map_or(0, |after| self.records.partition_point(|record| record.sequence_number <= *after))
    }

    /// The records of the next read.
    fn next(&self, after: Option<&SequenceNumber>, limits: ReadLimits) -> impl Iterator<Item = &Record> {
        let mut bytes = 0;
        let fits = move |record: &&Record| {
            let is_first = bytes == 0;
            bytes += record.memory_bytes();
            bytes <= limits.bytes || (is_first && limits.bytes > 0)
        };
        self.records.range(self.first_after(after)..).take(limits.records).take_while(fits)
    }

    fn describe(&self, shard_id: &ShardId) -> Shard {
        Shard {
            shard_id: shard_id.clone(),
            parents: self.parents.clone(),
            hash_key_range: Some(self.range),
            is_closed: self.is_closed(),
        }
    }
}

/// A number that grows over the whole stream, so that a child's numbers are larger than its parent's. Like those of Kinesis
/// it is wider than any 64-bit integer.
fn sequence_number(number: u64) -> SequenceNumber {
    const FIRST: u128 = 10u128.pow(38);
    SequenceNumber::from(FIRST + u128::from(number))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn instant(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn assert_tiles(topology: &Topology) {
        let mut open: Vec<HashKeyRange> =
            topology.shards.values().filter(|log| !log.is_closed()).map(|log| log.range).collect();
        open.sort();
        assert_eq!(open.first().unwrap().start(), HashKey::MIN);
        assert_eq!(open.last().unwrap().end(), HashKey::MAX);
        assert!(open.windows(2).all(|pair| pair[0].end().0 + 1 == pair[1].start().0), "{open:?}");
    }

    /// Reads the whole stream as a consumer does: a shard to its end, then its children.
    fn read_by_lineage(topology: &Topology) -> Vec<SequenceNumber> {
        let shards = topology.list(&ShardFilter::All);
        let mut done: BTreeSet<ShardId> = BTreeSet::new();
        let mut numbers = Vec::new();
        while done.len() < shards.len() {
            let is_listed = |id: &ShardId| shards.iter().any(|shard| shard.shard_id == *id);
            let next = shards.iter().find(|shard| {
                !done.contains(&shard.shard_id)
                    && shard.parents.iter().all(|p| done.contains(p) || !is_listed(p))
            });
            let shard_id = &next.unwrap().shard_id;
            let mut after = None;
            loop {
                let slice = topology
                    .read(shard_id, after.as_ref(), ReadLimits { records: 3, bytes: u64::MAX })
                    .unwrap();
                after = slice.records.last().map(|record| record.sequence_number.clone()).or(after);
                numbers.extend(slice.records.iter().map(|record| record.sequence_number.clone()));
                if slice.records.is_empty() {
                    break;
                }
            }
            done.insert(shard_id.clone());
        }
        numbers
    }

    proptest! {
        #[test]
        fn ranges_tile_and_every_record_is_read_once(
            count in 1..9usize,
            steps in prop::collection::vec((0..6u8, any::<u128>()), 0..80),
        ) {
            let mut topology = Topology::new(NonZeroUsize::new(count).unwrap(), usize::MAX);
            let mut expected = BTreeSet::new();
            for (second, (step, choice)) in steps.into_iter().enumerate() {
                let open = topology.open_shards();
                let chosen = &open[usize::try_from(choice % open.len() as u128).unwrap()];
                match step {
                    0 => drop(topology.split(chosen, None, instant(second as u64))),
                    1 => drop(open.iter().find_map(|other| topology.merge(chosen, other, instant(second as u64)).ok())),
                    2 if choice % 5 == 0 => {
                        topology.trim_arrived_before(instant(second as u64 / 2));
                        let kept: BTreeSet<_> = read_by_lineage(&topology).into_iter().collect();
                        expected.retain(|number| kept.contains(number));
                    }
                    _ => {
                        let put = topology.put(HashKey(choice), None, Bytes::from_static(b"x"), instant(second as u64));
                        expected.insert(put.unwrap().1);
                    }
                }
                assert_tiles(&topology);
            }
            let read = read_by_lineage(&topology);
            prop_assert_eq!(read.len(), expected.len(), "read twice or missed");
            prop_assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn equal_ranges_cover_the_space() {
        for count in [1, 2, 3, 5, 7, 64, 1000] {
            assert_tiles(&Topology::new(NonZeroUsize::new(count).unwrap(), 1));
        }
    }

    #[test]
    fn impossible_reshards_name_the_reason() {
        let (mut topology, now) = (Topology::new(NonZeroUsize::new(3).unwrap(), 1), instant(0));
        let [first, second, third] = [0, 1, 2].map(|index| topology.open_shards()[index].clone());
        assert_eq!(topology.merge(&first, &third, now).unwrap_err().kind(), SourceErrorKind::Invalid);
        assert_eq!(
            topology.split(&first, Some(HashKey::MAX), now).unwrap_err().kind(),
            SourceErrorKind::Invalid
        );
        topology.merge(&second, &first, now).unwrap();
        assert_eq!(topology.split(&first, None, now).unwrap_err().kind(), SourceErrorKind::Invalid);
        let unknown = ShardId::new("nowhere").unwrap();
        assert_eq!(topology.split(&unknown, None, now).unwrap_err().kind(), SourceErrorKind::ShardNotFound);
    }

    #[test]
    fn open_since_lists_open_shards_and_those_closed_since() {
        let mut topology = Topology::new(NonZeroUsize::MIN, 1);
        let root = topology.open_shards()[0].clone();
        let [left, right] = topology.split(&root, None, instant(10)).unwrap();
        let [lower, upper] = topology.split(&left, None, instant(20)).unwrap();
        let listed = |second| {
            let listed = topology.list(&ShardFilter::OpenSince(instant(second)));
            listed.into_iter().map(|shard| shard.shard_id).collect::<Vec<_>>()
        };
        let open = [right, lower, upper];
        assert_eq!(listed(21), open);
        assert_eq!(listed(20), [std::slice::from_ref(&left), &open].concat());
        assert_eq!(listed(10), [&[root, left], &open[..]].concat());
    }

    #[test]
    fn writes_beyond_the_capacity_are_throttled_until_a_trim() {
        let mut topology = Topology::new(NonZeroUsize::MIN, 10);
        let mut put = |second| {
            topology.put(HashKey::MIN, None, Bytes::from_static(b"12345"), instant(second)).map(drop)
        };
        put(1).unwrap();
        put(2).unwrap();
        assert_eq!(put(3).unwrap_err().kind(), SourceErrorKind::Throttled);
        topology.trim_arrived_before(instant(2));
        topology.put(HashKey::MIN, None, Bytes::from_static(b"12345"), instant(4)).unwrap();
        assert_eq!(topology.record_count(), 2);
    }
}
