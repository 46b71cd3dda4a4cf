//! The positions of the records of one batch, without references to the buffers that the records are slices of.

use lease_store::{Position, SequenceNumber};

use crate::record::Record;

/// The positions of records in order, packed. They own their digits: once the application has dropped a record, its
/// position must not keep the buffer alive.
///
/// One string holds all digits, once for all records of an aggregate. A plain record costs 72 bytes, a sub-record 8.
#[derive(Debug, Default)]
pub(super) struct PackedPositions {
    digits: String,
    /// One run for all records with the same sequence number; it extends to the next run.
    runs: Vec<Run>,
    sub_sequence_numbers: Vec<u64>,
}

#[derive(Debug)]
struct Run {
    first_index: usize,
    digits_from: usize,
}

impl PackedPositions {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut packed = Self { sub_sequence_numbers: Vec::with_capacity(records.len()), ..Self::default() };
        let mut newest: Option<&SequenceNumber> = None;
        for (index, record) in records.iter().enumerate() {
            if newest != Some(&record.sequence_number) {
                packed.runs.push(Run { first_index: index, digits_from: packed.digits.len() });
                packed.digits.push_str(record.sequence_number.as_str());
                newest = Some(&record.sequence_number);
            }
            packed.sub_sequence_numbers.push(record.sub_sequence_number);
        }
        packed
    }

    /// The position after a record; `None` when there is no such record.
    pub(super) fn after(&self, index: usize) -> Option<Position> {
        let sub_sequence_number = *self.sub_sequence_numbers.get(index)?;
        let run = self.runs.partition_point(|run| run.first_index <= index).checked_sub(1)?;
        let digits_to = self.runs.get(run + 1).map_or(self.digits.len(), |next| next.digits_from);
        let digits = self.digits.get(self.runs.get(run)?.digits_from..digits_to)?;
        Some(Position::after(digits.parse().ok()?, sub_sequence_number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_comes_out_as_it_went_in() {
        let positions: [(u128, u64); 7] =
            [(7, 0), (7, 2), (7, 3), (8, 0), (1_000_000, 0), (1_000_001, 0), (1_000_001, 9)];
        let records: Vec<Record> = positions
            .iter()
            .map(|(number, sub_sequence_number)| Record {
                sequence_number: (*number).into(),
                sub_sequence_number: *sub_sequence_number,
                partition_key: None,
                data: bytes::Bytes::new(),
                approximate_arrival: None,
            })
            .collect();
        let packed = PackedPositions::of(&records);
        let found: Vec<Position> = (0..records.len()).filter_map(|index| packed.after(index)).collect();
        assert_eq!(found, records.iter().map(Record::position).collect::<Vec<_>>());
        assert_eq!(packed.after(records.len()), None);
        assert_eq!(PackedPositions::of(&[]).after(0), None);
    }
}
