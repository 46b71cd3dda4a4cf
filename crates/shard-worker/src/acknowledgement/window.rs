//! The unacknowledged records of a shard: its position may only move over records that are done without a gap.

use std::collections::VecDeque;

use lease_store::Position;

use super::packed_positions::PackedPositions;
use crate::age::Age;
use crate::record::Record;

/// How far the position of a shard may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The position after the last record that is done without a gap before it.
    pub position: Position,
    /// How many records the position moves over.
    pub records: u64,
    /// The payload bytes of the batches that this completes.
    pub payload_bytes: u64,
}

/// The batches of one shard that are not completely acknowledged, in order.
///
/// An acknowledgement takes constant time, on average: each record is marked once and passed once. A batch costs one bit a
/// record, and the positions of its records only if they are acknowledged one by one.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
    /// The number of the first batch; the following ones have consecutive numbers.
    first: u64,
    records: usize,
    open: usize,
    bytes: u64,
}

/// A batch in the window.
#[derive(Debug)]
struct Entry {
    last: Position,
    /// The positions of all its records, if they are acknowledged one by one.
    each: Option<PackedPositions>,
    count: usize,
    memory_bytes: u64,
    payload_bytes: u64,
    /// One bit a record; empty if the batch is acknowledged as a whole.
    marks: Vec<u64>,
    marked: usize,
    /// How many records from the first one on are done without a gap.
    passed: usize,
    /// The age of its first record.
    age: Option<Age>,
}

impl Entry {
    fn is_marked(&self, index: usize) -> bool {
        self.marks.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Marks a record as done; returns `false` if it was done before.
    fn mark(&mut self, index: usize) -> bool {
        if index >= self.count || self.is_marked(index) {
            return false;
        }
        if self.marks.is_empty() {
            self.marks = vec![0; self.count.div_ceil(64)];
        }
        if let Some(word) = self.marks.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
        self.marked += 1;
        true
    }

    /// Moves over the marked records; returns how many these are.
    fn pass(&mut self) -> usize {
        let before = self.passed;
        if self.marked == self.count {
            self.passed = self.count;
        } else if self.marked > self.passed {
            while self.is_marked(self.passed) {
                self.passed += 1;
            }
        }
        self.passed - before
    }

    fn position(&self) -> Option<Position> {
        if self.passed == self.count {
            return Some(self.last.clone());
        }
        self.each.as_ref()?.after(self.passed.checked_sub(1)?)
    }
}

impl Window {
    /// Adds a batch of records, which follow all records added before; returns its number.
    pub fn push(&mut self, records: &[Record], memory_bytes: u64) -> u64 {
        self.records += records.len();
        self.open += records.len();
        self.bytes += memory_bytes;
        self.entries.push_back(Entry {
            last: records.last().map_or(Position::TrimHorizon, Record::position),
            each: None,
            count: records.len(),
            memory_bytes,
            payload_bytes: records.iter().map(|record| record.data.len() as u64).sum(),
            marks: Vec::new(),
            marked: 0,
            passed: 0,
            age: None,
        });
        self.first + self.entries.len() as u64 - 1
    }

    /// Copies the position of a batch that will be acknowledged late: the position must not keep the buffer alive that the
    /// records are slices of.
    pub fn detach(&mut self, entry: u64) {
        if let Some(entry) = self.entry(entry)
            && let Position::After(last) = &mut entry.last
            && let Ok(detached) = last.sequence_number.as_str().parse()
        {
            last.sequence_number = detached;
        }
    }

    /// Sets the age of a batch.
    pub fn set_age(&mut self, entry: u64, age: Option<Age>) {
        if let Some(entry) = self.entry(entry) {
            entry.age = age;
        }
    }

    /// The age of the first batch that is not complete.
    pub fn oldest(&self) -> Option<Age> {
        self.entries.front()?.age
    }

    /// Stores the positions of a batch whose records, which are these, will be acknowledged one by one.
    pub fn keep_positions(&mut self, entry: u64, records: &[Record]) {
        if let Some(entry) = self.entry(entry)
            && entry.each.is_none()
        {
            entry.each = Some(PackedPositions::of(records));
        }
    }

    /// Acknowledges a record; returns how far the position may move, if it may. A record that is acknowledged already, or
    /// was never added, changes nothing.
    pub fn acknowledge(&mut self, entry: u64, index: usize) -> Option<Advance> {
        if !self.entry(entry)?.mark(index) {
            return None;
        }
        self.open -= 1;
        self.advance()
    }

    /// Acknowledges all records of a batch.
    pub fn acknowledge_all(&mut self, entry: u64) -> Option<Advance> {
        let entry = self.entry(entry)?;
        let open = entry.count - entry.marked;
        entry.marked = entry.count;
        self.open -= open;
        self.advance()
    }

    /// Whether a record is in the window and not acknowledged.
    pub fn is_open(&self, entry: u64, index: usize) -> bool {
        self.is_any_open(entry)
            && usize::try_from(entry - self.first)
                .ok()
                .and_then(|at| self.entries.get(at))
                .is_some_and(|entry| index < entry.count && !entry.is_marked(index))
    }

    /// Whether a batch has records that are not acknowledged.
    pub fn is_any_open(&self, entry: u64) -> bool {
        let at = entry.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.entries.get(at)).is_some_and(|entry| entry.marked < entry.count)
    }

    /// How many records the position has not passed.
    pub fn records(&self) -> usize {
        self.records
    }

    /// How many records are not acknowledged.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The memory of the batches that are not complete, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all batches are complete.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets all batches, which will be read again. Their numbers are not reused.
    pub fn clear(&mut self) {
        *self = Self { first: self.first + self.entries.len() as u64, ..Self::default() };
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    fn advance(&mut self) -> Option<Advance> {
        let mut advance: Option<Advance> = None;
        let (mut records, mut payload_bytes) = (0, 0);
        while let Some(entry) = self.entries.front_mut() {
            let passed = entry.pass();
            let is_complete = entry.passed == entry.count;
            records += passed;
            if is_complete {
                payload_bytes += entry.payload_bytes;
                self.bytes -= entry.memory_bytes;
            }
            if (passed > 0 || is_complete)
                && let Some(position) = entry.position()
            {
                advance = Some(Advance { position, records: records as u64, payload_bytes });
            }
            if !is_complete {
                break;
            }
            self.entries.pop_front();
            self.first += 1;
        }
        self.records -= records;
        advance
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn records(positions: &[(u128, u64)]) -> Vec<Record> {
        let record = |(number, sub_sequence_number): &(u128, u64)| Record {
            sequence_number: (*number).into(),
            sub_sequence_number: *sub_sequence_number,
            partition_key: None,
            data: Bytes::from_static(b"four"),
            approximate_arrival: None,
        };
        positions.iter().map(record).collect()
    }

    fn push(window: &mut Window, positions: &[(u128, u64)]) -> u64 {
        let records = records(positions);
        let entry = window.push(&records, 100);
        window.keep_positions(entry, &records);
        entry
    }

    fn moved_to(advance: Option<Advance>) -> Option<(Position, u64)> {
        advance.map(|advance| (advance.position, advance.records))
    }

    #[test]
    fn the_position_moves_only_over_done_records_without_a_gap() {
        let mut window = Window::default();
        let first = push(&mut window, &[(1, 0), (2, 0), (2, 1), (2, 5)]);
        let second = push(&mut window, &[(3, 0)]);
        assert_eq!(window.acknowledge(first, 2), None);
        assert_eq!(window.acknowledge_all(second), None);
        assert_eq!(moved_to(window.acknowledge(first, 0)), Some((Position::after(1.into(), 0), 1)));
        assert_eq!((window.records(), window.bytes()), (4, 200));
        assert_eq!(moved_to(window.acknowledge(first, 1)), Some((Position::after(2.into(), 1), 2)));
        let last = window.acknowledge(first, 3);
        assert_eq!(last.as_ref().map(|advance| advance.payload_bytes), Some(20));
        assert_eq!(moved_to(last), Some((Position::after(3.into(), 0), 2)));
        assert!(window.is_empty());
        assert_eq!((window.records(), window.bytes()), (0, 0));
    }

    #[test]
    fn acknowledging_done_or_forgotten_records_changes_nothing() {
        let mut window = Window::default();
        let first = push(&mut window, &[(1, 0), (2, 0)]);
        assert!(window.acknowledge(first, 0).is_some());
        assert_eq!(window.acknowledge(first, 0), None);
        assert_eq!(window.acknowledge(first, 2), None);
        assert_eq!(window.acknowledge_all(first + 1), None);
        window.clear();
        assert!(window.is_empty());
        let again = push(&mut window, &[(2, 0)]);
        assert_eq!(window.acknowledge_all(first), None, "a handle from before is void");
        assert!(window.is_open(again, 0));
        assert!(window.acknowledge_all(again).is_some());
        assert!(!window.is_open(again, 0));
    }

    #[test]
    fn a_record_in_the_window_takes_at_most_a_hundred_bytes() {
        // Plain records with sequence numbers of 56 digits, as the service writes them.
        let text = |number: u64| format!("49{number:054}").parse().unwrap();
        let record = |number| Record { sequence_number: text(number), ..records(&[(0, 0)]).swap_remove(0) };
        let records: Vec<Record> = (0..100_000).map(record).collect();
        let mut window = Window::default();
        let used = allocation_counter::measure(|| {
            for batch in records.chunks(1000) {
                let entry = window.push(batch, 0);
                window.detach(entry);
                window.keep_positions(entry, batch);
                // All records but the first.
                let first = usize::from(entry == 0);
                assert!((first..batch.len()).all(|index| window.acknowledge(entry, index).is_none()));
            }
        });
        assert_eq!(window.records(), 100_000);
        println!("{} bytes for 100,000 records, at most {}", used.bytes_current, used.bytes_max);
        assert!(used.bytes_max < 10_000_000, "{} bytes", used.bytes_max);
        let all = allocation_counter::measure(|| {
            let advance = window.acknowledge(0, 0).unwrap();
            assert_eq!((advance.records, advance.position), (100_000, Position::after(text(99_999), 0)));
        });
        assert!(all.count_total < 200, "{} allocations", all.count_total);
    }

    proptest! {
        /// Compared with a plain list: the position is that of the last record before the first open one.
        #[test]
        fn agrees_with_a_plain_list(
            sizes in prop::collection::vec(1..80usize, 1..8),
            aggregated: bool,
            mut order in any::<u64>().prop_map(fastrand::Rng::with_seed),
        ) {
            let mut window = Window::default();
            let mut all: Vec<(u64, usize, Position)> = Vec::new();
            let mut number = 0_u64;
            for size in sizes {
                let positions: Vec<(u128, u64)> = (0..size as u64)
                    .map(|index| if aggregated { (u128::from(number), index) } else { (u128::from(number + index), 0) })
                    .collect();
                number += size as u64;
                let entry = push(&mut window, &positions);
                all.extend(positions.iter().enumerate().map(|(index, (number, sub))| {
                    (entry, index, Position::after((*number).into(), *sub))
                }));
            }
            let mut todo: Vec<usize> = (0..all.len()).collect();
            order.shuffle(&mut todo);
            let mut done = vec![false; all.len()];
            let (mut position, mut counted) = (None, 0);
            for at in todo {
                let (entry, index, _) = &all[at];
                prop_assert!(window.is_open(*entry, *index));
                done[at] = true;
                if let Some(advance) = window.acknowledge(*entry, *index) {
                    prop_assert!(position.as_ref().is_none_or(|before| *before < advance.position));
                    position = Some(advance.position);
                    counted += advance.records;
                }
                let prefix = done.iter().take_while(|done| **done).count();
                prop_assert_eq!(&position, &prefix.checked_sub(1).map(|last| all[last].2.clone()));
                prop_assert_eq!(counted, prefix as u64);
                prop_assert_eq!(window.records(), all.len() - prefix);
                prop_assert_eq!(window.open(), done.iter().filter(|done| !**done).count());
            }
            prop_assert!(window.is_empty());
        }
    }
}
