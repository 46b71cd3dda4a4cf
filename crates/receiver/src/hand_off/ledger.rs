//! Which blocks of a shard there are, what comes next, and what can go: a state machine without I/O.
//!
//! Blocks enter in the order of the shard, once they are stored wherever their level wants them. They leave in the same
//! order: served when everything before them was served, deleted when everything in them is checkpointed. Whatever is
//! missing between two of them, or cannot be read, is a [`Gap`], which is closed from the stream before anything after it
//! is served.

use std::collections::VecDeque;

use lease_store::{Position, SequenceNumber};

use super::edge::Edge;
use super::name::{BlockName, BlockRange};

/// Where copies of a block are stored. `K` is what is held for them.
#[derive(Debug)]
pub(super) struct Kept<K> {
    /// The size of the copy in the first place, in bytes.
    pub(super) local: Option<u64>,
    /// The size of the copy in the second place, in bytes.
    pub(super) replica: Option<u64>,
    pub(super) hold: K,
}

/// A block that was received. `M` is the block in memory.
#[derive(Debug)]
pub(super) struct Entry<M, K> {
    pub(super) name: BlockName,
    /// Everything of the shard between here and its end is in it. Of a stored block it is known once that was read.
    pub(super) follows: Option<Edge>,
    pub(super) memory: Option<M>,
    pub(super) kept: Option<Kept<K>>,
}

/// Records that no block gives: to be read again from the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    /// It begins here.
    pub(super) from: Edge,
    pub(super) until: Until,
    /// The block that cannot be read, when it is that; otherwise one is missing altogether.
    pub(super) lost: Option<BlockRange>,
}

/// Where a gap ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Until {
    /// After this record, which was there once.
    Through(SequenceNumber),
    /// Before this record.
    Before(SequenceNumber),
}

/// What lies between what was served and a block.
enum Hole {
    None,
    Until(Until),
    /// The end of a shard of which nothing is known: only the stream can tell what comes before it.
    Unknown,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing yet.
    Wait,
    /// A stored block, to be read first.
    Load(BlockName),
    /// Something is missing before the next block.
    Heal(Gap),
    /// A block in memory, to be taken by [`Ledger::serve`].
    Serve,
    /// Nothing more: the end of the shard, to be looked at with [`Ledger::front_memory`].
    End,
}

#[derive(Debug)]
pub(super) struct Ledger<M, K> {
    /// Up to here everything was served.
    served: Edge,
    /// Up to here everything was received: where reading of the stream goes on.
    received: Edge,
    waiting: VecDeque<Entry<M, K>>,
    /// Served, but not yet checkpointed.
    done: Vec<(BlockName, Kept<K>)>,
    /// To be deleted.
    garbage: Vec<(BlockName, Kept<K>)>,
}

impl<M, K> Ledger<M, K> {
    /// A shard that is read from a place on, and what is stored of it, in any order. What lies before the place is to be
    /// deleted.
    pub(super) fn new(from: Edge, mut stored: Vec<(BlockName, Kept<K>)>) -> Self {
        stored.sort_by(|one, other| one.0.cmp(&other.0));
        let mut ledger = Self {
            served: from.clone(),
            received: from,
            waiting: VecDeque::new(),
            done: Vec::new(),
            garbage: Vec::new(),
        };
        for (name, kept) in stored {
            if ledger.is_served(&name) {
                ledger.garbage.push((name, kept));
                continue;
            }
            if let BlockName::Records(range) = &name
                && !ledger.received.is_past(&range.last)
            {
                ledger.received = Edge::After(range.last.clone());
            }
            ledger.waiting.push_back(Entry { name, follows: None, memory: None, kept: Some(kept) });
        }
        ledger
    }

    /// Where reading of the stream goes on.
    pub(super) fn received(&self) -> &Edge {
        &self.received
    }

    /// Up to where everything was served.
    pub(super) fn served(&self) -> &Edge {
        &self.served
    }

    /// Whether the end of the shard is among what was received.
    pub(super) fn has_end(&self) -> bool {
        self.waiting.back().is_some_and(|entry| entry.name == BlockName::End)
    }

    /// How many blocks wait to be served.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A block that was received and stored.
    pub(super) fn push(&mut self, entry: Entry<M, K>) {
        if let BlockName::Records(range) = &entry.name {
            self.received = Edge::After(range.last.clone());
        }
        self.waiting.push_back(entry);
    }

    /// What comes next. Lets go of blocks that were served already, in whole, by others that overlap them.
    pub(super) fn next(&mut self) -> Next {
        while self.waiting.front().is_some_and(|front| self.is_served(&front.name)) {
            self.retire();
        }
        let Some(front) = self.waiting.front() else { return Next::Wait };
        match front.follows.as_ref().map(|follows| self.hole(&front.name, follows)) {
            None | Some(Hole::None) => {}
            Some(Hole::Until(until)) => {
                return Next::Heal(Gap { from: self.served.clone(), until, lost: None });
            }
            Some(Hole::Unknown) => {
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

    /// How far the stream has to be read before a block can be served.
    fn hole(&self, name: &BlockName, follows: &Edge) -> Hole {
        let range = match name {
            BlockName::Records(range) => Some(range),
            BlockName::End => None,
        };
        // At LATEST there is no place to read from: the first block is where it was.
        let is_whole = follows.is_no_later_than(&self.served)
            || self.served == Edge::Latest
            // A block has everything from its first record on.
            || range.is_some_and(|range| match &self.served {
                Edge::After(served) => range.first <= *served,
                Edge::At(served) => range.first <= *served,
                _ => false,
            });
        if is_whole {
            return Hole::None;
        }
        match (follows, range) {
            (Edge::After(before), _) => Hole::Until(Until::Through(before.clone())),
            (_, Some(range)) => Hole::Until(Until::Before(range.first.clone())),
            (Edge::At(first), None) => Hole::Until(Until::Before(first.clone())),
            (_, None) => Hole::Unknown,
        }
    }

    /// The front was read; what it said about its place.
    pub(super) fn loaded(&mut self, follows: Edge, memory: M) {
        if let Some(front) = self.waiting.front_mut() {
            front.follows = Some(follows);
            front.memory = Some(memory);
        }
    }

    /// The front was read too early: something is missing before it, and it is read again after that.
    pub(super) fn unload(&mut self) {
        if let Some(front) = self.waiting.front_mut() {
            front.memory = None;
        }
    }

    /// The front cannot be read anywhere: what to read from the stream in its place. `None`: it is the end of the shard,
    /// which the stream says again.
    pub(super) fn unreadable(&mut self) -> Option<Gap> {
        let front = self.waiting.front()?;
        let BlockName::Records(range) = &front.name else {
            let end = self.waiting.pop_front()?;
            self.garbage.extend(end.kept.map(|kept| (end.name, kept)));
            return None;
        };
        let from = match &self.served {
            Edge::Latest => Edge::At(range.first.clone()),
            served => served.clone(),
        };
        Some(Gap { from, until: Until::Through(range.last.clone()), lost: Some(range.clone()) })
    }

    /// Records up to this one were read again from the stream, and are served.
    pub(super) fn served_to(&mut self, last: SequenceNumber) {
        if !self.served.is_past(&last) {
            self.served = Edge::After(last);
        }
    }

    /// Everything of a gap that the stream still has is served.
    pub(super) fn healed(&mut self, gap: &Gap) {
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

    /// The block in memory at the front.
    pub(super) fn front_memory(&self) -> Option<&M> {
        self.waiting.front()?.memory.as_ref()
    }

    /// Takes the block in memory at the front; what of it comes before the returned place was served.
    pub(super) fn serve(&mut self) -> Option<(M, Edge)> {
        let memory = self.waiting.front_mut()?.memory.take()?;
        let before = self.served.clone();
        if let Some(Entry { name: BlockName::Records(range), .. }) = self.waiting.front() {
            let last = range.last.clone();
            self.served_to(last);
        }
        self.retire();
        Some((memory, before))
    }

    /// Everything up to a position is checkpointed: blocks that lie wholly before it can go. One whose last record is the
    /// position stays until a later one, since the record may be an aggregate of which a part is done. `passed` hears of it.
    pub(super) fn checkpointed(&mut self, position: &Position, mut passed: impl FnMut(&mut K)) {
        let mut index = 0;
        while let Some((name, kept)) = self.done.get_mut(index) {
            let (is_passed, is_over) = match (&*name, position) {
                (_, Position::ShardEnd) => (true, true),
                (BlockName::Records(range), Position::After(record)) => {
                    (range.last <= record.sequence_number, range.last < record.sequence_number)
                }
                _ => (false, false),
            };
            if is_passed {
                passed(&mut kept.hold);
            }
            if is_over {
                let over = self.done.remove(index);
                self.garbage.push(over);
            } else {
                index += 1;
            }
        }
        if *position == Position::ShardEnd {
            while let Some(front) = self.waiting.pop_front() {
                self.garbage.extend(front.kept.map(|kept| (front.name, kept)));
            }
        }
    }

    /// A block to be deleted.
    pub(super) fn next_garbage(&mut self) -> Option<(BlockName, Kept<K>)> {
        self.garbage.pop()
    }

    /// Where the copies of the front are.
    pub(super) fn front_kept(&self) -> Option<&Kept<K>> {
        self.waiting.front()?.kept.as_ref()
    }

    fn is_served(&self, name: &BlockName) -> bool {
        match name {
            BlockName::Records(range) => self.served.is_past(&range.last),
            BlockName::End => false,
        }
    }

    fn retire(&mut self) {
        if let Some(front) = self.waiting.pop_front() {
            self.done.extend(front.kept.map(|kept| (front.name, kept)));
        }
    }
}
