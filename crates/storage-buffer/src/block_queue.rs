//! The blocks of a shard in order: which block is served next, and which blocks can be deleted. A state machine without I/O.
//!
//! Blocks enter in the order of the shard, once they are in every store that their level requires. They leave in the same
//! order: a block is served after every record before it, and deleted after every record in it is checkpointed. Missing or
//! unreadable blocks leave a [`Gap`], which is backfilled from the stream before anything after it is served.

use std::collections::VecDeque;

use lease_store::{Position, SequenceNumber};

use crate::block_edge::Edge;
use crate::block_name::{BlockName, BlockRange};

/// The stored copies of a block. `K` is the capacity reserved for them.
#[derive(Debug)]
pub(crate) struct Copies<K> {
    /// The size of the copy in the local store, in bytes; `None` without a copy.
    pub(crate) local: Option<u64>,
    /// The size of the copy in the replica store, in bytes; `None` without a copy.
    pub(crate) replica: Option<u64>,
    pub(crate) reservation: K,
}

/// A received block. `M` is the block in memory.
#[derive(Debug)]
pub(crate) struct Entry<M, K> {
    pub(crate) name: BlockName,
    /// The block holds every record of the shard between this edge and its last record. `None` for a stored block that has
    /// not been read yet.
    pub(crate) follows: Option<Edge>,
    pub(crate) memory: Option<M>,
    pub(crate) copies: Option<Copies<K>>,
}

/// A range of records that no block holds, to be read again from the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The edge where the range begins.
    pub(crate) from: Edge,
    pub(crate) until: Until,
    /// The range of an unreadable block; `None` if blocks are missing altogether.
    pub(crate) lost: Option<BlockRange>,
}

/// Where a gap ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this record, which was received once.
    Through(SequenceNumber),
    /// Before this record.
    Before(SequenceNumber),
}

/// The records missing between the served edge and a block.
enum Missing {
    Nothing,
    Records(Until),
    /// Unknown, before the end of a shard without other blocks: only the stream knows its last records.
    Unknown,
}

/// The next step of the reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for a block.
    Wait,
    /// Read this stored block into memory.
    Load(BlockName),
    /// Backfill this gap before the next block.
    Backfill(Gap),
    /// Serve the block in memory with [`BlockQueue::serve`].
    Serve,
    /// Report the end of the shard, which [`BlockQueue::front_memory`] holds.
    End,
}

/// The blocks of one shard.
#[derive(Debug)]
pub(crate) struct BlockQueue<M, K> {
    /// Every record before this edge was served.
    served: Edge,
    /// Every record before this edge was received: the writer reads on from here.
    received: Edge,
    waiting: VecDeque<Entry<M, K>>,
    /// Blocks that were served and are not yet checkpointed.
    uncheckpointed: Vec<(BlockName, Copies<K>)>,
    /// Blocks to delete.
    garbage: Vec<(BlockName, Copies<K>)>,
}

impl<M, K> BlockQueue<M, K> {
    /// The queue of a shard that is read from an edge on. `stored` are its stored blocks, in any order; those before the edge
    /// are to be deleted.
    pub(crate) fn new(from: Edge, mut stored: Vec<(BlockName, Copies<K>)>) -> Self {
        stored.sort_by(|one, other| one.0.cmp(&other.0));
        let mut queue = Self {
            served: from.clone(),
            received: from,
            waiting: VecDeque::new(),
            uncheckpointed: Vec::new(),
            garbage: Vec::new(),
        };
        for (name, copies) in stored {
            if queue.is_served(&name) {
                queue.garbage.push((name, copies));
                continue;
            }
            if let BlockName::Records(range) = &name
                && !queue.received.is_past(&range.last)
            {
                queue.received = Edge::After(range.last.clone());
            }
            queue.waiting.push_back(Entry { name, follows: None, memory: None, copies: Some(copies) });
        }
        queue
    }

    /// The edge from which the writer reads on.
    pub(crate) fn received(&self) -> &Edge {
        &self.received
    }

    /// The edge up to which every record was served.
    pub(crate) fn served(&self) -> &Edge {
        &self.served
    }

    /// Whether the end of the shard was received.
    pub(crate) fn has_end(&self) -> bool {
        self.waiting.back().is_some_and(|entry| entry.name == BlockName::End)
    }

    /// How many blocks wait to be served.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Appends a block that was received and stored.
    pub(crate) fn push(&mut self, entry: Entry<M, K>) {
        if let BlockName::Records(range) = &entry.name {
            self.received = Edge::After(range.last.clone());
        }
        self.waiting.push_back(entry);
    }

    /// The next step. Retires blocks whose records were all served from overlapping blocks.
    pub(crate) fn next(&mut self) -> Next {
        while self.waiting.front().is_some_and(|front| self.is_served(&front.name)) {
            self.retire();
        }
        let Some(front) = self.waiting.front() else { return Next::Wait };
        match front.follows.as_ref().map(|follows| self.missing_before(&front.name, follows)) {
            None | Some(Missing::Nothing) => {}
            Some(Missing::Records(until)) => {
                return Next::Backfill(Gap { from: self.served.clone(), until, lost: None });
            }
            Some(Missing::Unknown) => {
                self.unreadable();
                return Next::Wait;
            }
        }
        let Some(front) = self.waiting.front() else { return Next::Wait };
        match (&front.name, &front.memory) {
            (name, None) => Next::Load(name.clone()),
            (BlockName::Records(_), Some(_)) => Next::Serve,
            (BlockName::End, Some(_)) => Next::End,
        }
    }

    /// The records that must be read from the stream before a block can be served.
    fn missing_before(&self, name: &BlockName, follows: &Edge) -> Missing {
        let range = match name {
            BlockName::Records(range) => Some(range),
            BlockName::End => None,
        };
        // At LATEST there is no position to read from: the first block marks it.
        let is_whole = follows.is_no_later_than(&self.served)
            || self.served == Edge::Latest
            // A block holds every record from its first one on.
            || range.is_some_and(|range| match &self.served {
                Edge::After(served) => range.first <= *served,
                Edge::At(served) => range.first <= *served,
                _ => false,
            });
        if is_whole {
            return Missing::Nothing;
        }
        match (follows, range) {
            (Edge::After(before), _) => Missing::Records(Until::Through(before.clone())),
            (_, Some(range)) => Missing::Records(Until::Before(range.first.clone())),
            (Edge::At(first), None) => Missing::Records(Until::Before(first.clone())),
            (_, None) => Missing::Unknown,
        }
    }

    /// The front block was read into memory; `follows` is the edge that it names.
    pub(crate) fn loaded(&mut self, follows: Edge, memory: M) {
        if let Some(front) = self.waiting.front_mut() {
            front.follows = Some(follows);
            front.memory = Some(memory);
        }
    }

    /// Drops the front block from memory, because a gap before it comes first. It is read again after the backfill.
    pub(crate) fn unload(&mut self) {
        if let Some(front) = self.waiting.front_mut() {
            front.memory = None;
        }
    }

    /// The front block is unreadable in all stores. Returns the gap to read from the stream instead; `None` for the end of
    /// the shard, which the writer then receives again.
    pub(crate) fn unreadable(&mut self) -> Option<Gap> {
        let front = self.waiting.front()?;
        let BlockName::Records(range) = &front.name else {
            let end = self.waiting.pop_front()?;
            self.garbage.extend(end.copies.map(|copies| (end.name, copies)));
            return None;
        };
        let from = match &self.served {
            Edge::Latest => Edge::At(range.first.clone()),
            served => served.clone(),
        };
        Some(Gap { from, until: Until::Through(range.last.clone()), lost: Some(range.clone()) })
    }

    /// Records up to this one were read again from the stream and served.
    pub(crate) fn served_to(&mut self, last: SequenceNumber) {
        if !self.served.is_past(&last) {
            self.served = Edge::After(last);
        }
    }

    /// Every record of a gap that the stream still has was served.
    pub(crate) fn close_gap(&mut self, gap: &Gap) {
        match &gap.until {
            Until::Through(last) => self.served_to(last.clone()),
            Until::Before(first) => {
                let edge = Edge::At(first.clone());
                if !edge.is_no_later_than(&self.served) {
                    self.served = edge;
                }
            }
        }
    }

    /// The front block, if it is in memory.
    pub(crate) fn front_memory(&self) -> Option<&M> {
        self.waiting.front()?.memory.as_ref()
    }

    /// Removes the front block and returns it from memory. Its records before the returned edge were served already.
    pub(crate) fn serve(&mut self) -> Option<(M, Edge)> {
        let memory = self.waiting.front_mut()?.memory.take()?;
        let before = self.served.clone();
        if let Some(Entry { name: BlockName::Records(range), .. }) = self.waiting.front() {
            let last = range.last.clone();
            self.served_to(last);
        }
        self.retire();
        Some((memory, before))
    }

    /// A position was checkpointed: blocks that lie wholly before it can be deleted. A block that ends with the record of the
    /// position stays, because the record may be an aggregate of which only a part is done. `passed` is called for each
    /// block up to the position, deleted or not.
    pub(crate) fn checkpointed(&mut self, position: &Position, mut passed: impl FnMut(&mut K)) {
        let mut index = 0;
        while let Some((name, copies)) = self.uncheckpointed.get_mut(index) {
            let (is_passed, is_over) = match (&*name, position) {
                (_, Position::ShardEnd) => (true, true),
                (BlockName::Records(range), Position::After(record)) => {
                    (range.last <= record.sequence_number, range.last < record.sequence_number)
                }
                _ => (false, false),
            };
            if is_passed {
                passed(&mut copies.reservation);
            }
            if is_over {
                let over = self.uncheckpointed.remove(index);
                self.garbage.push(over);
            } else {
                index += 1;
            }
        }
        if *position == Position::ShardEnd {
            while let Some(front) = self.waiting.pop_front() {
                self.garbage.extend(front.copies.map(|copies| (front.name, copies)));
            }
        }
    }

    /// Removes a block from the queue that the caller deletes from the stores.
    pub(crate) fn next_garbage(&mut self) -> Option<(BlockName, Copies<K>)> {
        self.garbage.pop()
    }

    /// The stored copies of the front block.
    pub(crate) fn front_copies(&self) -> Option<&Copies<K>> {
        self.waiting.front()?.copies.as_ref()
    }

    fn is_served(&self, name: &BlockName) -> bool {
        match name {
            BlockName::Records(range) => self.served.is_past(&range.last),
            BlockName::End => false,
        }
    }

    fn retire(&mut self) {
        if let Some(front) = self.waiting.pop_front() {
            self.uncheckpointed.extend(front.copies.map(|copies| (front.name, copies)));
        }
    }
}

#[cfg(test)]
mod tests;
