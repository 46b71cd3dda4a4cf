//! Over generated lineages and tables, no plan skips a record outside the asked range, also when it is cut short.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use fleet_view::plan::{EffectKind, ResetOptions, ResetTo, Scope, Situation, copy, delete, reset};
use fleet_view::{History, Lineage, PositionsFile, ShardInfo};
use lease_store::{HashKeyRange, Lease, Position, ShardId};
use proptest::prelude::*;

use crate::table::{NOW, Record, Stream, carry_out, identity};

/// A stream that splits and merges, oldest shards first. Some of the oldest are no longer listed.
fn stream(random: &mut Rng) -> Stream {
    let mut shards: Vec<ShardInfo> = Vec::new();
    let mut records = Vec::new();
    let (mut open, mut next_id, mut number, mut time) = (Vec::new(), 0, 0_u128, NOW - 1_000_000);
    let mut add = |shards: &mut Vec<ShardInfo>, parents: &[ShardId]| {
        let shard_id = ShardId::numbered(next_id);
        next_id += 1;
        shards.push(ShardInfo {
            shard_id: shard_id.clone(),
            parents: parents.iter().cloned().collect(),
            hash_key_range: Some(HashKeyRange::FULL),
            is_open: true,
        });
        shard_id
    };
    for _ in 0..random.usize(1..4) {
        open.push(add(&mut shards, &[]));
    }
    for _ in 0..random.usize(1..6) {
        for shard_id in &open {
            for _ in 0..random.usize(..4) {
                number += 1;
                time += random.u64(1..50_000);
                records.push(Record { shard_id: shard_id.clone(), number, arrived: time.min(NOW - 1) });
            }
        }
        let first = open.swap_remove(random.usize(..open.len()));
        let mut closed = vec![first];
        if !open.is_empty() && random.bool() {
            closed.push(open.swap_remove(random.usize(..open.len())));
            open.push(add(&mut shards, &closed));
        } else {
            open.push(add(&mut shards, &closed));
            open.push(add(&mut shards, &closed));
        }
        for shard in &mut shards {
            shard.is_open &= !closed.contains(&shard.shard_id);
        }
    }
    let gone = random.usize(..2).min(shards.iter().take_while(|shard| !shard.is_open).count());
    let gone: BTreeSet<ShardId> = shards.drain(..gone).map(|shard| shard.shard_id).collect();
    records.retain(|record| !gone.contains(&record.shard_id));
    Stream { shards, records }
}

/// A table as workers leave it: parents are read before their children, and rows of read parents may be deleted.
fn table(random: &mut Rng, stream: &Stream) -> Vec<Lease> {
    let mut leases: BTreeMap<ShardId, Lease> = BTreeMap::new();
    let mut ended: BTreeSet<ShardId> = BTreeSet::new();
    for shard in &stream.shards {
        let is_listed = |parent: &ShardId| stream.shards.iter().any(|shard| shard.shard_id == *parent);
        let may_begin = shard.parents.iter().all(|parent| ended.contains(parent) || !is_listed(parent));
        let numbers: Vec<u128> = (stream.records.iter())
            .filter(|record| record.shard_id == shard.shard_id)
            .map(|record| record.number)
            .collect();
        let position = match random.u8(..4) {
            _ if !may_begin => Position::TrimHorizon,
            0 | 1 if !shard.is_open => Position::ShardEnd,
            2 if !numbers.is_empty() => Position::after(numbers[random.usize(..numbers.len())].into(), 0),
            _ => Position::TrimHorizon,
        };
        if position.is_shard_end() {
            ended.insert(shard.shard_id.clone());
        }
        // A child has a row once one of its parents has ended; before, it may have one if they have.
        let has_row = may_begin
            || shard.parents.iter().any(|parent| ended.contains(parent))
            || random.bool() && shard.parents.iter().all(|parent| leases.contains_key(parent));
        if has_row {
            let mut lease = Lease::unowned(shard.shard_id.clone(), position);
            lease.parents.clone_from(&shard.parents);
            lease.counter = random.u64(1..9);
            lease.stream = Some(identity());
            leases.insert(shard.shard_id.clone(), lease);
        }
    }
    // The KCL deletes the row of a read shard whose children have begun.
    for shard_id in &ended {
        let mut children = stream.shards.iter().filter(|shard| shard.parents.contains(shard_id));
        if random.bool() && children.all(|child| leases.contains_key(&child.shard_id)) {
            leases.remove(shard_id);
        }
    }
    leases.into_values().collect()
}

pub(crate) struct Case {
    pub(crate) stream: Stream,
    pub(crate) leases: Vec<Lease>,
    pub(crate) random: Rng,
}

impl Case {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let stream = stream(&mut random);
        let leases = table(&mut random, &stream);
        Self { stream, leases, random }
    }

    fn scope(&mut self) -> Scope {
        if self.random.bool() {
            return Scope::All;
        }
        let shards = (self.stream.shards.iter())
            .filter(|_| self.random.u8(..3) == 0)
            .map(|shard| shard.shard_id.clone())
            .collect();
        Scope::Shards { shards, with_descendants: self.random.bool() }
    }

    /// The shards of a scope.
    fn shards_of(&self, scope: &Scope) -> BTreeSet<ShardId> {
        let all = self.stream.shards.iter().map(|shard| shard.shard_id.clone());
        match scope {
            Scope::All => all.collect(),
            Scope::Shards { shards, with_descendants } => {
                let lineage = Lineage::of(&self.stream.look(&self.leases));
                let descendants = shards.iter().flat_map(|shard_id| lineage.descendants(shard_id));
                shards.iter().cloned().chain(descendants.filter(|_| *with_descendants)).collect()
            }
        }
    }

    /// Makes a plan, carries it out to the end or in part, and returns what was read before, and what after.
    fn check(&mut self, to: &ResetTo, scope: &Scope, is_asked: impl Fn(&Record) -> bool) {
        let look = self.stream.look(&self.leases);
        let mut history = History::new();
        history.add(&look).unwrap();
        let situation = Situation { look: &look, history: &history };
        let plan = reset(&situation, to, &ResetOptions { scope: scope.clone(), is_live: false });
        assert!(!plan.is_refused(), "{:?}", plan.refusals);
        let before = self.stream.read_from(&self.leases);
        let in_scope = self.shards_of(scope);
        let after = self.stream.read_from(&carry_out(&plan, &self.leases, usize::MAX));
        for record in &self.stream.records {
            let is_read = after.contains(record);
            if in_scope.contains(&record.shard_id) {
                assert!(is_read || !is_asked(record), "{record:?} is asked for and skipped by {plan:#?}");
            } else {
                assert!(
                    is_read || !before.contains(record),
                    "{record:?} is out of scope and skipped by {plan:#?}"
                );
            }
            if before.contains(record) && !is_read {
                let said = plan.effects.iter().find(|effect| effect.shard_id == record.shard_id);
                let is_said = said
                    .is_some_and(|effect| matches!(effect.kind, EffectKind::Skipped | EffectKind::Either));
                assert!(is_said, "{record:?} is skipped without a word in {plan:#?}");
            }
            if !before.contains(record) && is_read && in_scope.contains(&record.shard_id) {
                let has_effect = plan.effects.iter().any(|effect| effect.shard_id == record.shard_id);
                assert!(has_effect, "{record:?} is read again without a word in {plan:#?}");
            }
        }
        // A plan that is cut short loses nothing either.
        let count = self.random.usize(..=plan.changes.len());
        let amid = self.stream.read_from(&carry_out(&plan, &self.leases, count));
        for record in before.iter().filter(|record| !amid.contains(*record)) {
            assert!(
                in_scope.contains(&record.shard_id) && !is_asked(record),
                "{record:?} is lost amid {plan:#?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reset_to_the_horizon_reads_everything(seed in any::<u64>()) {
        let mut case = Case::new(seed);
        let scope = case.scope();
        case.check(&ResetTo::TrimHorizon, &scope, |_| true);
    }

    #[test]
    fn reset_to_latest_skips_only_what_was_asked(seed in any::<u64>()) {
        let mut case = Case::new(seed);
        let scope = case.scope();
        case.check(&ResetTo::Latest, &scope, |_| false);
    }

    #[test]
    fn reset_to_a_time_reads_all_later_records(seed in any::<u64>(), ago in 0..1_200_000_u64, is_span in any::<bool>()) {
        let mut case = Case::new(seed);
        let scope = case.scope();
        let at_millis = NOW - ago;
        let to = match is_span {
            true => ResetTo::Ago { millis: ago },
            false => ResetTo::Time { at_millis, resolved: BTreeMap::new() },
        };
        case.check(&to, &scope, |record| record.arrived >= at_millis);
    }

    #[test]
    fn reset_to_a_file_reads_all_it_did_not_have(seed in any::<u64>(), other in any::<u64>()) {
        let mut case = Case::new(seed);
        let leases = table(&mut Rng::with_seed(other), &case.stream);
        let file = PositionsFile::of(&case.stream.look(&leases));
        let file = PositionsFile::from_json(&file.to_json().unwrap()).unwrap();
        let unread = case.stream.read_from(&leases);
        case.check(&ResetTo::Positions(file), &Scope::All, |record| unread.contains(record));
    }

    #[test]
    fn copy_reads_what_the_first_application_would(seed in any::<u64>()) {
        let case = Case::new(seed);
        let (from, to) = (case.stream.look(&case.leases), case.stream.look(&[]));
        let mut history = History::new();
        history.add(&to).unwrap();
        let plan = copy(&from, &Situation { look: &to, history: &history });
        assert!(!plan.is_refused(), "{:?}", plan.refusals);
        let unread = case.stream.read_from(&case.leases);
        prop_assert_eq!(case.stream.read_from(&carry_out(&plan, &[], usize::MAX)), unread);
    }

    #[test]
    fn deletion_leaves_no_row_and_no_orphan(seed in any::<u64>()) {
        let mut case = Case::new(seed);
        let look = case.stream.look(&case.leases);
        let mut history = History::new();
        history.add(&look).unwrap();
        let plan = delete(&Situation { look: &look, history: &history });
        assert!(!plan.is_refused(), "{:?}", plan.refusals);
        prop_assert_eq!(carry_out(&plan, &case.leases, usize::MAX), vec![]);
        let count = case.random.usize(..=plan.changes.len());
        let rest = carry_out(&plan, &case.leases, count);
        // No row is deleted before those of its descendants: a child without its parent's row would not wait for it.
        let kept: BTreeSet<&ShardId> = rest.iter().map(|lease| &lease.shard_id).collect();
        let lineage = Lineage::of(&look);
        for lease in case.leases.iter().filter(|lease| !kept.contains(&lease.shard_id)) {
            prop_assert!(lineage.descendants(&lease.shard_id).iter().all(|descendant| !kept.contains(descendant)));
        }
    }
}
