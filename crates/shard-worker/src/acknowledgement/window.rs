//! What is delivered and not acknowledged: a position may only move over records that are done without a gap.

use std::collections::VecDeque;

use lease_store::Position;

use super::places::PackedPlaces;
use crate::Record;

/// How far the position of a shard may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The position after the last record that is done without a gap before it.
    pub position: Position,
    /// How many records that is more than before.
    pub records: u64,
    /// The payload bytes of the deliveries that were completed by it.
    pub payload_bytes: u64,
}

/// The deliveries of one shard that are not wholly acknowledged, in order.
///
/// An acknowledgement takes constant time, on average: each record is marked once and passed once. A delivery costs one
/// bit a record, and the positions of its records only where they are acknowledged one by one.
#[derive(Debug, Default)]
pub struct Window {
    deliveries: VecDeque<Delivery>,
    /// The number of the first delivery; the next ones count on.
    first: u64,
    records: usize,
    open: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Delivery {
    last: Position,
    /// The positions of all its records, where they are acknowledged one by one.
    each: Option<PackedPlaces>,
    count: usize,
    memory_bytes: u64,
    payload_bytes: u64,
    /// One bit a record; a delivery that is acknowledged at once needs none.
    marks: Vec<u64>,
    marked: usize,
    /// How many records from the first on are done without a gap.
    passed: usize,
}

impl Delivery {
    fn is_marked(&self, index: usize) -> bool {
        self.marks.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Whether that is news.
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

    /// Moves over what is marked; tells how many records that is.
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
    /// Takes up a delivery of records, which come after all that was delivered before; tells its number.
    pub fn deliver(&mut self, records: &[Record], memory_bytes: u64) -> u64 {
        self.records += records.len();
        self.open += records.len();
        self.bytes += memory_bytes;
        self.deliveries.push_back(Delivery {
            last: records.last().map_or(Position::TrimHorizon, Record::position),
            each: None,
            count: records.len(),
            memory_bytes,
            payload_bytes: records.iter().map(|record| record.data.len() as u64).sum(),
            marks: Vec::new(),
            marked: 0,
            passed: 0,
        });
        self.first + self.deliveries.len() as u64 - 1
    }

    /// This delivery will be acknowledged later than others: its position must not keep the buffer that its records are
    /// slices of.
    pub fn detach(&mut self, delivery: u64) {
        if let Some(delivery) = self.delivery(delivery)
            && let Position::After(last) = &mut delivery.last
            && let Ok(detached) = last.sequence_number.as_str().parse()
        {
            last.sequence_number = detached;
        }
    }

    /// The records of this delivery, which are these, will be acknowledged one by one.
    pub fn keep_places(&mut self, delivery: u64, records: &[Record]) {
        if let Some(delivery) = self.delivery(delivery)
            && delivery.each.is_none()
        {
            delivery.each = Some(PackedPlaces::of(records));
        }
    }

    /// Takes note that a record is done. Tells how far the position may move, if it may. What is acknowledged already, or
    /// was never delivered, changes nothing.
    pub fn acknowledge(&mut self, delivery: u64, index: usize) -> Option<Advance> {
        if !self.delivery(delivery)?.mark(index) {
            return None;
        }
        self.open -= 1;
        self.advance()
    }

    /// Takes note that all records of a delivery are done.
    pub fn acknowledge_all(&mut self, delivery: u64) -> Option<Advance> {
        let delivery = self.delivery(delivery)?;
        let open = delivery.count - delivery.marked;
        delivery.marked = delivery.count;
        self.open -= open;
        self.advance()
    }

    /// Whether a record is delivered and not acknowledged.
    pub fn is_open(&self, delivery: u64, index: usize) -> bool {
        self.is_any_open(delivery)
            && usize::try_from(delivery - self.first)
                .ok()
                .and_then(|at| self.deliveries.get(at))
                .is_some_and(|delivery| index < delivery.count && !delivery.is_marked(index))
    }

    /// Whether a record of a delivery is not acknowledged.
    pub fn is_any_open(&self, delivery: u64) -> bool {
        let at = delivery.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.deliveries.get(at)).is_some_and(|delivery| delivery.marked < delivery.count)
    }

    /// How many records are delivered and not passed by the position.
    pub fn records(&self) -> usize {
        self.records
    }

    /// How many records are delivered and not acknowledged.
    pub fn open(&self) -> usize {
        self.open
    }

    /// What the deliveries that are not completed took in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Forgets all deliveries: they will be made again. Their numbers are not used again.
    pub fn clear(&mut self) {
        *self = Self { first: self.first + self.deliveries.len() as u64, ..Self::default() };
    }

    fn delivery(&mut self, number: u64) -> Option<&mut Delivery> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.deliveries.get_mut(at)
    }

    fn advance(&mut self) -> Option<Advance> {
        let mut advance: Option<Advance> = None;
        let (mut records, mut payload_bytes) = (0, 0);
        while let Some(delivery) = self.deliveries.front_mut() {
            let passed = delivery.pass();
            let is_complete = delivery.passed == delivery.count;
            records += passed;
            if is_complete {
                payload_bytes += delivery.payload_bytes;
                self.bytes -= delivery.memory_bytes;
            }
            if (passed > 0 || is_complete)
                && let Some(position) = delivery.position()
            {
                advance = Some(Advance { position, records: records as u64, payload_bytes });
            }
            if !is_complete {
                break;
            }
            self.deliveries.pop_front();
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

    fn records(places: &[(u128, u64)]) -> Vec<Record> {
        let record = |(number, sub_sequence_number): &(u128, u64)| Record {
            sequence_number: (*number).into(),
            sub_sequence_number: *sub_sequence_number,
            partition_key: None,
            data: Bytes::from_static(b"four"),
            approximate_arrival: None,
        };
        places.iter().map(record).collect()
    }

    fn deliver(window: &mut Window, places: &[(u128, u64)]) -> u64 {
        let records = records(places);
        let delivery = window.deliver(&records, 100);
        window.keep_places(delivery, &records);
        delivery
    }

    fn moved_to(advance: Option<Advance>) -> Option<(Position, u64)> {
        advance.map(|advance| (advance.position, advance.records))
    }

    #[test]
    fn the_position_moves_only_over_what_is_done_without_a_gap() {
        let mut window = Window::default();
        let first = deliver(&mut window, &[(1, 0), (2, 0), (2, 1), (2, 5)]);
        let second = deliver(&mut window, &[(3, 0)]);
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
    fn what_is_done_already_or_forgotten_changes_nothing() {
        let mut window = Window::default();
        let first = deliver(&mut window, &[(1, 0), (2, 0)]);
        assert!(window.acknowledge(first, 0).is_some());
        assert_eq!(window.acknowledge(first, 0), None);
        assert_eq!(window.acknowledge(first, 2), None);
        assert_eq!(window.acknowledge_all(first + 1), None);
        window.clear();
        assert!(window.is_empty());
        let again = deliver(&mut window, &[(2, 0)]);
        assert_eq!(window.acknowledge_all(first), None, "a handle from before is void");
        assert!(window.is_open(again, 0));
        assert!(window.acknowledge_all(again).is_some());
        assert!(!window.is_open(again, 0));
    }

    #[test]
    fn a_window_of_a_hundred_thousand_records_takes_a_hundred_bytes_for_each_at_most() {
        // Sequence numbers as the service writes them, 56 digits, of plain records.
        let text = |number: u64| format!("49{number:054}").parse().unwrap();
        let record = |number| Record { sequence_number: text(number), ..records(&[(0, 0)]).swap_remove(0) };
        let records: Vec<Record> = (0..100_000).map(record).collect();
        let mut window = Window::default();
        let taken = allocation_counter::measure(|| {
            for batch in records.chunks(1000) {
                let delivery = window.deliver(batch, 0);
                window.detach(delivery);
                window.keep_places(delivery, batch);
                // Everything but the first.
                let first = usize::from(delivery == 0);
                assert!((first..batch.len()).all(|index| window.acknowledge(delivery, index).is_none()));
            }
        });
        assert_eq!(window.records(), 100_000);
        println!("{} bytes for 100,000 records, at most {}", taken.bytes_current, taken.bytes_max);
        assert!(taken.bytes_max < 10_000_000, "{} bytes", taken.bytes_max);
        let all = allocation_counter::measure(|| {
            let advance = window.acknowledge(0, 0).unwrap();
            assert_eq!((advance.records, advance.position), (100_000, Position::after(text(99_999), 0)));
        });
        assert!(all.count_total < 200, "{} allocations", all.count_total);
    }

    proptest! {
        /// Against the plainest model: the position is that of the last record before the first one that is open.
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
                let places: Vec<(u128, u64)> = (0..size as u64)
                    .map(|index| if aggregated { (u128::from(number), index) } else { (u128::from(number + index), 0) })
                    .collect();
                number += size as u64;
                let delivery = deliver(&mut window, &places);
                all.extend(places.iter().enumerate().map(|(index, (number, sub))| {
                    (delivery, index, Position::after((*number).into(), *sub))
                }));
            }
            let mut todo: Vec<usize> = (0..all.len()).collect();
            order.shuffle(&mut todo);
            let mut done = vec![false; all.len()];
            let (mut position, mut counted) = (None, 0);
            for at in todo {
                let (delivery, index, _) = &all[at];
                prop_assert!(window.is_open(*delivery, *index));
                done[at] = true;
                if let Some(advance) = window.acknowledge(*delivery, *index) {
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
