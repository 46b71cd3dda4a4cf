//! The batches that wait for a checkpoint of the child.

use std::collections::VecDeque;

use lease_store::Position;
use shard_worker::{Acknowledgement, RecordAcknowledgement};

/// Batches that were delivered to the child and not checkpointed, in order.
///
/// Dropping them makes the shard worker read their records again.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    batches: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    first: Position,
    last: Position,
    handles: Handles,
}

#[derive(Debug)]
enum Handles {
    /// One handle for all records, which it still holds.
    Whole(Acknowledgement),
    /// One handle for all records, which were dropped.
    WithoutRecords(Acknowledgement),
    /// The rest of a batch that was checkpointed up to a record inside it.
    Records(VecDeque<(Position, RecordAcknowledgement)>),
}

impl Unacknowledged {
    /// Adds a batch with these first and last positions.
    pub(super) fn push(&mut self, first: Position, last: Position, handle: Acknowledgement) {
        self.batches.push_back(Batch { first, last, handles: Handles::Whole(handle) });
    }

    /// Acknowledges all records up to a position.
    ///
    /// A position inside a batch whose records were dropped acknowledges none of that batch: the position of the shard stays
    /// at most one batch behind until the next checkpoint, and its records repeat after a restart.
    pub(super) fn acknowledge_through(&mut self, position: &Position) {
        while let Some(batch) = self.batches.pop_front() {
            if batch.first > *position {
                return self.batches.push_front(batch);
            }
            if batch.last > *position {
                let handles = up_to(batch.handles, position);
                return self.batches.push_front(Batch { handles, ..batch });
            }
            match batch.handles {
                Handles::Whole(handle) | Handles::WithoutRecords(handle) => handle.acknowledge(),
                Handles::Records(records) => {
                    records.into_iter().for_each(|(_, record)| record.acknowledge());
                }
            }
        }
    }

    /// Drops the records of all batches, which frees their memory, except those of batches that are partly acknowledged.
    pub(super) fn drop_records(&mut self) {
        let batches = std::mem::take(&mut self.batches);
        self.batches = batches
            .into_iter()
            .map(|batch| match batch.handles {
                Handles::Whole(handle) => {
                    Batch { handles: Handles::WithoutRecords(handle.without_records()), ..batch }
                }
                Handles::WithoutRecords(_) | Handles::Records(_) => batch,
            })
            .collect();
    }

    /// Drops all batches: their records are read again, or by the next owner.
    pub(super) fn clear(&mut self) {
        // A handle without records makes the shard read them again from the acknowledged position, in order. A handle with
        // records would deliver only its own ones again.
        self.drop_records();
        self.batches.clear();
    }
}

/// Acknowledges the records of a batch up to a position, and returns the handles of the rest.
fn up_to(handles: Handles, position: &Position) -> Handles {
    let mut records: VecDeque<_> = match handles {
        Handles::WithoutRecords(handle) => return Handles::WithoutRecords(handle),
        Handles::Whole(handle) => {
            handle.into_records().map(|(record, handle)| (record.position(), handle)).collect()
        }
        Handles::Records(records) => records,
    };
    while let Some((at, handle)) = records.pop_front() {
        if at > *position {
            records.push_front((at, handle));
            break;
        }
        handle.acknowledge();
    }
    Handles::Records(records)
}
