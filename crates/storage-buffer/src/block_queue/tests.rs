//! Random histories of a shard: blocks that are received, stored, damaged, lost or overlapping, and restarts of the process.

use std::collections::BTreeMap;

use lease_store::{Position, SequenceNumber};
use proptest::prelude::*;

use crate::block_edge::Edge;
use crate::block_name::{BlockName, BlockRange};
use crate::block_queue::{BlockQueue, Copies, Entry, Gap, Next, Until};

/// The first and the last record number of a block in memory.
type Memory = (u64, u64);

#[derive(Debug, Clone)]
enum Step {
    /// Receives a number of records into a block: in memory, in the stores, or both.
    Receive {
        records: u64,
        in_memory: bool,
        is_stored: bool,
    },
    Serve,
    /// Checkpoints a share of the served records, in percent.
    Checkpoint(u64),
    /// A stored block disappears.
    Lose(prop::sample::Index),
    /// A stored block becomes unreadable.
    Damage(prop::sample::Index),
    /// A worker that has lost the lease stores a block that overlaps others.
    Stale {
        first: u64,
        records: u64,
    },
    /// The process dies, and another one starts from the checkpoint.
    Kill,
}

fn any_step() -> impl Strategy<Value = Step> {
    let receive = (1..4_u64, any::<bool>(), any::<bool>()).prop_map(|(records, in_memory, stored)| {
        Step::Receive { records, in_memory, is_stored: stored || !in_memory }
    });
    prop_oneof![
        6 => receive,
        6 => Just(Step::Serve),
        2 => (0..=100_u64).prop_map(Step::Checkpoint),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        1 => any::<prop::sample::Index>().prop_map(Step::Damage),
        1 => (1..40_u64, 1..6_u64).prop_map(|(first, records)| Step::Stale { first, records }),
        1 => Just(Step::Kill),
    ]
}

fn number(number: u64) -> SequenceNumber {
    u128::from(number).into()
}

fn value(number: &SequenceNumber) -> u64 {
    number.as_str().parse().unwrap()
}

fn block(first: u64, last: u64) -> BlockName {
    let records = u32::try_from(last + 1 - first).unwrap();
    BlockName::Records(BlockRange { first: number(first), last: number(last), records })
}

fn copies() -> Copies<()> {
    Copies { local: Some(1), replica: None, reservation: () }
}

/// A stored block: the edge it begins at, and whether it is readable.
#[derive(Debug, Clone)]
struct Stored {
    follows: Edge,
    is_readable: bool,
}

struct World {
    /// The records of the shard are numbered from 1 to this.
    tip: u64,
    stored: BTreeMap<BlockName, Stored>,
    checkpoint: Option<u64>,
    queue: BlockQueue<Memory, ()>,
    /// The records served since the last start.
    served: Vec<u64>,
}

impl World {
    fn new(tip: u64) -> Self {
        let queue = BlockQueue::new(Edge::TrimHorizon, Vec::new());
        Self { tip, stored: BTreeMap::new(), checkpoint: None, queue, served: Vec::new() }
    }

    fn start(&self) -> Edge {
        self.checkpoint.map_or(Edge::TrimHorizon, |checkpoint| Edge::At(number(checkpoint)))
    }

    /// The first record after an edge.
    fn first_after(edge: &Edge) -> u64 {
        match edge {
            Edge::At(edge) => value(edge),
            Edge::After(edge) => value(edge) + 1,
            Edge::TrimHorizon | Edge::Latest | Edge::AtTimestamp(_) => 1,
        }
    }

    fn store(&mut self, name: BlockName, follows: Edge) {
        self.stored.insert(name, Stored { follows, is_readable: true });
    }

    fn record_served(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        self.served.extend(numbers);
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Receive { records, in_memory, is_stored } => self.receive(*records, *in_memory, *is_stored),
            Step::Serve => drop(self.serve()),
            Step::Checkpoint(percent) => {
                let index = (self.served.len() as u64 * percent / 100).checked_sub(1);
                let Some(index) = index else { return };
                let checkpoint = self.served[usize::try_from(index).unwrap()];
                // A checkpoint only moves forward, and never beyond the served records.
                self.checkpoint = self.checkpoint.max(Some(checkpoint));
                let position = Position::after(number(self.checkpoint.unwrap()), 0);
                self.queue.checkpointed(&position, |()| {});
                while let Some((name, _)) = self.queue.next_garbage() {
                    let BlockName::Records(range) = &name else { continue };
                    assert!(value(&range.last) < self.checkpoint.unwrap(), "{name} is deleted too early");
                    self.stored.remove(&name);
                }
            }
            Step::Lose(index) => {
                let names: Vec<BlockName> = self.stored.keys().cloned().collect();
                if !names.is_empty() {
                    self.stored.remove(index.get(&names));
                }
            }
            Step::Damage(index) => {
                let mut blocks: Vec<&mut Stored> = self.stored.values_mut().collect();
                if !blocks.is_empty() {
                    index.get_mut(&mut blocks).is_readable = false;
                }
            }
            Step::Stale { first, records } => {
                let last = (first + records - 1).min(self.tip);
                if *first <= last {
                    self.store(block(*first, last), Edge::At(number(*first)));
                }
            }
            Step::Kill => {
                let stored = self.stored.keys().map(|name| (name.clone(), copies())).collect();
                self.queue = BlockQueue::new(self.start(), stored);
                self.served.clear();
            }
        }
    }

    fn receive(&mut self, records: u64, in_memory: bool, is_stored: bool) {
        let follows = self.queue.received().clone();
        let first = Self::first_after(&follows);
        let last = (first + records - 1).min(self.tip);
        if first > last {
            return;
        }
        let name = block(first, last);
        if is_stored {
            self.store(name.clone(), follows.clone());
        }
        let memory = in_memory.then_some((first, last));
        self.queue.push(Entry { name, follows: Some(follows), memory, copies: is_stored.then(copies) });
    }

    /// One step as the reader makes it, with a stream that has every record. Returns whether there was a step.
    fn serve(&mut self) -> bool {
        match self.queue.next() {
            Next::Wait | Next::End => false,
            Next::Load(name) => {
                match self.stored.get(&name).filter(|stored| stored.is_readable).cloned() {
                    Some(Stored { follows, .. }) => {
                        let BlockName::Records(range) = &name else { return false };
                        self.queue.loaded(follows, (value(&range.first), value(&range.last)));
                        if matches!(self.queue.next(), Next::Backfill(_)) {
                            self.queue.unload();
                        }
                    }
                    None => {
                        let gap = self.queue.unreadable().unwrap();
                        self.backfill(&gap);
                    }
                }
                true
            }
            Next::Backfill(gap) => {
                self.backfill(&gap);
                true
            }
            Next::Serve => {
                let ((first, last), before) = self.queue.serve().unwrap();
                self.record_served(first.max(Self::first_after(&before))..=last);
                true
            }
        }
    }

    fn backfill(&mut self, gap: &Gap) {
        let first = Self::first_after(&gap.from);
        let last = match &gap.until {
            Until::Through(last) => value(last),
            Until::Before(first) => value(first) - 1,
        };
        self.record_served(first..=last);
        if first <= last {
            self.queue.served_to(number(last));
        }
        self.queue.close_gap(gap);
    }

    /// Since each start every record from the checkpoint on was served once, in order.
    fn check(&self) {
        let first = self.served.first().copied().unwrap_or_default();
        let expected: Vec<u64> = (first..).take(self.served.len()).collect();
        assert_eq!(self.served, expected, "in order, without a gap");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_and_lost_blocks_skip_no_record(steps in prop::collection::vec(any_step(), 1..60), tip in 1..60_u64) {
        let mut world = World::new(tip);
        let mut start = 1;
        for step in &steps {
            world.apply(step);
            if matches!(step, Step::Kill) {
                start = world.checkpoint.unwrap_or(1);
            }
            world.check();
            prop_assert!(world.served.first().is_none_or(|first| *first == start), "{:?} from {}", world.served, start);
        }
        // The remaining records are served.
        loop {
            while world.serve() {}
            let before = world.queue.received().clone();
            world.receive(5, true, false);
            if *world.queue.received() == before && world.queue.waiting() == 0 {
                break;
            }
        }
        world.check();
        prop_assert_eq!(world.served.first().copied(), Some(start));
        prop_assert_eq!(world.served.last().copied(), Some(tip));
    }
}

#[test]
fn the_end_of_a_shard_never_passes_its_stored_tail() {
    let stored = [block(1, 2), block(3, 4), BlockName::End].map(|name| (name, copies()));
    let mut queue: BlockQueue<Memory, ()> = BlockQueue::new(Edge::TrimHorizon, stored.into());
    assert!(queue.has_end(), "the writer receives nothing more");
    for (name, follows) in [(block(1, 2), Edge::TrimHorizon), (block(3, 4), Edge::After(number(2)))] {
        assert_eq!(queue.next(), Next::Load(name));
        queue.loaded(follows, (0, 0));
        assert_eq!(queue.next(), Next::Serve);
        queue.serve().unwrap();
    }
    assert_eq!(queue.next(), Next::Load(BlockName::End));
    // The end follows a lost block, whose records come first.
    queue.loaded(Edge::After(number(6)), (0, 0));
    let Next::Backfill(gap) = queue.next() else { panic!("a gap") };
    assert_eq!((gap.from.clone(), gap.until.clone()), (Edge::After(number(4)), Until::Through(number(6))));
    queue.close_gap(&gap);
    assert_eq!(queue.next(), Next::End);
    assert_eq!(queue.next(), Next::End, "and is reported again");
    queue.checkpointed(&Position::ShardEnd, |()| {});
    let garbage: Vec<BlockName> = std::iter::from_fn(|| queue.next_garbage()).map(|(name, _)| name).collect();
    assert_eq!(garbage.len(), 3, "a checkpoint at the end completes every block: {garbage:?}");
}

#[test]
fn a_stored_end_without_a_known_edge_is_received_again() {
    let mut queue: BlockQueue<Memory, ()> =
        BlockQueue::new(Edge::TrimHorizon, vec![(BlockName::End, copies())]);
    assert_eq!(queue.next(), Next::Load(BlockName::End));
    queue.loaded(Edge::Latest, (0, 0));
    assert_eq!(queue.next(), Next::Wait);
    assert!(!queue.has_end());
}
