//! Random histories of a shard behind the ledger: blocks received, stored, damaged, lost, overlapping; kills and restarts.

use std::collections::BTreeMap;

use lease_store::{Position, SequenceNumber};
use proptest::prelude::*;

use super::edge::Edge;
use super::ledger::{Entry, Kept, Ledger, Next, Until};
use super::name::{BlockName, BlockRange};

/// A block in memory is the numbers of its records.
type Memory = (u64, u64);

#[derive(Debug, Clone)]
enum Step {
    /// So many records are received into a block; into memory, into the stores, or both.
    Receive {
        records: u64,
        in_memory: bool,
        is_stored: bool,
    },
    Serve,
    /// A share of what was served is checkpointed, in percent.
    Checkpoint(u64),
    /// A stored block vanishes, or cannot be read any more.
    Lose(prop::sample::Index),
    Damage(prop::sample::Index),
    /// A worker that has lost the lease stores a block of its own.
    Stale {
        first: u64,
        records: u64,
    },
    /// The process dies, and another one goes on.
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

fn kept() -> Kept<()> {
    Kept { local: Some(1), replica: None, hold: () }
}

/// A block as it is stored: where it begins, and whether it can be read.
#[derive(Debug, Clone)]
struct Stored {
    follows: Edge,
    is_readable: bool,
}

struct World {
    /// The records of the shard are 1 to this.
    tip: u64,
    stored: BTreeMap<BlockName, Stored>,
    checkpoint: Option<u64>,
    ledger: Ledger<Memory, ()>,
    /// What was handed over in this life.
    served: Vec<u64>,
}

impl World {
    fn new(tip: u64) -> Self {
        let ledger = Ledger::new(Edge::TrimHorizon, Vec::new());
        Self { tip, stored: BTreeMap::new(), checkpoint: None, ledger, served: Vec::new() }
    }

    fn start(&self) -> Edge {
        self.checkpoint.map_or(Edge::TrimHorizon, |checkpoint| Edge::At(number(checkpoint)))
    }

    /// The first record after a place.
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

    fn hand_over(&mut self, numbers: std::ops::RangeInclusive<u64>) {
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
                // A checkpoint only moves forward, and tells of what was served.
                self.checkpoint = self.checkpoint.max(Some(checkpoint));
                let position = Position::after(number(self.checkpoint.unwrap()), 0);
                self.ledger.checkpointed(&position, |()| {});
                while let Some((name, _)) = self.ledger.next_garbage() {
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
                let stored = self.stored.keys().map(|name| (name.clone(), kept())).collect();
                self.ledger = Ledger::new(self.start(), stored);
                self.served.clear();
            }
        }
    }

    fn receive(&mut self, records: u64, in_memory: bool, is_stored: bool) {
        let follows = self.ledger.received().clone();
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
        self.ledger.push(Entry { name, follows: Some(follows), memory, kept: is_stored.then(kept) });
    }

    /// One step of serving, as the reader does it; the stream has everything. Whether there was something.
    fn serve(&mut self) -> bool {
        match self.ledger.next() {
            Next::Wait | Next::End => false,
            Next::Load(name) => {
                match self.stored.get(&name).filter(|stored| stored.is_readable).cloned() {
                    Some(Stored { follows, .. }) => {
                        let BlockName::Records(range) = &name else { return false };
                        self.ledger.loaded(follows, (value(&range.first), value(&range.last)));
                        if matches!(self.ledger.next(), Next::Heal(_)) {
                            self.ledger.unload();
                        }
                    }
                    None => {
                        let gap = self.ledger.unreadable().unwrap();
                        self.heal(&gap);
                    }
                }
                true
            }
            Next::Heal(gap) => {
                self.heal(&gap);
                true
            }
            Next::Serve => {
                let ((first, last), before) = self.ledger.serve().unwrap();
                self.hand_over(first.max(Self::first_after(&before))..=last);
                true
            }
        }
    }

    fn heal(&mut self, gap: &super::ledger::Gap) {
        let first = Self::first_after(&gap.from);
        let last = match &gap.until {
            Until::Through(last) => value(last),
            Until::Before(first) => value(first) - 1,
        };
        self.hand_over(first..=last);
        if first <= last {
            self.ledger.served_to(number(last));
        }
        self.ledger.healed(gap);
    }

    /// In each life everything from the checkpoint on is handed over once, in order, and nothing is left out.
    fn check(&self) {
        let first = self.served.first().copied().unwrap_or_default();
        let expected: Vec<u64> = (first..).take(self.served.len()).collect();
        assert_eq!(self.served, expected, "in order, without a hole");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_to_blocks_nothing_is_skipped(steps in prop::collection::vec(any_step(), 1..60), tip in 1..60_u64) {
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
        // Whoever goes on reads everything that there is.
        loop {
            while world.serve() {}
            let before = world.ledger.received().clone();
            world.receive(5, true, false);
            if *world.ledger.received() == before && world.ledger.waiting() == 0 {
                break;
            }
        }
        world.check();
        prop_assert_eq!(world.served.first().copied(), Some(start));
        prop_assert_eq!(world.served.last().copied(), Some(tip));
    }
}

/// Serves as the reader does, with everything readable: what is handed over.
#[test]
fn the_end_of_a_shard_never_passes_its_stored_tail() {
    let stored = [block(1, 2), block(3, 4), BlockName::End].map(|name| (name, kept()));
    let mut ledger: Ledger<Memory, ()> = Ledger::new(Edge::TrimHorizon, stored.into());
    assert!(ledger.has_end(), "nothing more is to be received");
    for (name, follows) in [(block(1, 2), Edge::TrimHorizon), (block(3, 4), Edge::After(number(2)))] {
        assert_eq!(ledger.next(), Next::Load(name));
        ledger.loaded(follows, (0, 0));
        assert_eq!(ledger.next(), Next::Serve);
        ledger.serve().unwrap();
    }
    assert_eq!(ledger.next(), Next::Load(BlockName::End));
    // The end follows a block that is gone: its records come first.
    ledger.loaded(Edge::After(number(6)), (0, 0));
    let Next::Heal(gap) = ledger.next() else { panic!("a gap") };
    assert_eq!((gap.from.clone(), gap.until.clone()), (Edge::After(number(4)), Until::Through(number(6))));
    ledger.healed(&gap);
    assert_eq!(ledger.next(), Next::End);
    assert_eq!(ledger.next(), Next::End, "and is told again");
    ledger.checkpointed(&Position::ShardEnd, |()| {});
    let garbage: Vec<BlockName> =
        std::iter::from_fn(|| ledger.next_garbage()).map(|(name, _)| name).collect();
    assert_eq!(garbage.len(), 3, "with the end everything is done: {garbage:?}");
}

#[test]
fn an_end_of_which_nothing_is_known_is_left_to_the_stream() {
    let mut ledger: Ledger<Memory, ()> = Ledger::new(Edge::TrimHorizon, vec![(BlockName::End, kept())]);
    assert_eq!(ledger.next(), Next::Load(BlockName::End));
    ledger.loaded(Edge::Latest, (0, 0));
    assert_eq!(ledger.next(), Next::Wait);
    assert!(!ledger.has_end());
}
