//! The state that children inherit, and the totals over all shards.

use lease_store::{HashKey, HashKeyRange, Position, ShardId};
use processor_state::KeyedState;
use processor_state::internals::{
    MAX_ANCESTORS, Snapshot, combine, cover, entry_hash_key, inherit, reaches_lease,
};
use proptest::prelude::*;
use shard_worker::hash_key_of;

use crate::format::header;

fn range(start: u128, end: u128) -> HashKeyRange {
    HashKeyRange::new(HashKey(start), HashKey(end)).unwrap()
}

fn snapshot(shard: u64, of: HashKeyRange, ancestors: &[u64], state: KeyedState<u64>) -> Snapshot<u64> {
    let mut header = header(Position::ShardEnd);
    header.shard_id = ShardId::numbered(shard);
    header.hash_key_range = of;
    header.ancestors = ancestors.iter().copied().map(ShardId::numbered).collect();
    Snapshot { header, state }
}

fn add(_: &str, one: u64, other: u64) -> u64 {
    one + other
}

fn sum(state: &KeyedState<u64>) -> u64 {
    state.iter().map(|(_, count)| count).sum()
}

/// A shard in the model: its snapshot, and whether it is open and started.
#[derive(Debug, Clone)]
struct Node {
    shard: Snapshot<u64>,
    is_open: bool,
    is_started: bool,
}

proptest! {
    #[test]
    fn every_key_has_a_hash_key_inside_its_shard(
        key in ".{0,8}", start: u128, length: u128,
    ) {
        let range = range(start, start.saturating_add(length));
        let hash_key = entry_hash_key(&key, range);
        prop_assert!(range.contains(hash_key));
        if range.contains(hash_key_of(&key)) {
            prop_assert_eq!(hash_key, hash_key_of(&key));
        }
    }

    #[test]
    fn a_split_gives_each_entry_to_one_child(
        entries in prop::collection::btree_map("[a-z]{1,6}", 1_u64..100, 0..50),
        start: u128, length in 1_u128.., middle: u128,
    ) {
        let whole = range(start, start.saturating_add(length).max(start.saturating_add(1)));
        prop_assume!(whole.start() < whole.end());
        let middle = whole.start().0 + 1 + middle % (whole.end().0 - whole.start().0);
        let state: KeyedState<u64> = entries.into_iter().collect();
        let parent = snapshot(0, whole, &[], state.clone());
        let (left, _) = inherit(range(whole.start().0, middle - 1), vec![parent.clone()], add);
        let (right, _) = inherit(range(middle, whole.end().0), vec![parent], add);
        prop_assert_eq!(left.len() + right.len(), state.len());
        for (key, count) in state.iter() {
            prop_assert_eq!(left.get(key).or(right.get(key)), Some(count));
        }
    }

    #[test]
    fn totals_are_right_after_splits_and_merges(
        steps in prop::collection::vec((0_u8..5, any::<prop::sample::Index>(), "[a-f]", 1_u64..9), 1..60),
    ) {
        let mut truth: KeyedState<u64> = KeyedState::default();
        let root = Node { shard: snapshot(0, HashKeyRange::FULL, &[], KeyedState::default()), is_open: true, is_started: true };
        let mut nodes = vec![root];
        // The parents of each shard.
        let mut parents: Vec<Vec<usize>> = vec![vec![]];
        for (step, index, key, count) in steps {
            let open: Vec<usize> = (0..nodes.len()).filter(|at| nodes[*at].is_open).collect();
            let at = open[index.index(open.len())];
            match step {
                // A shard starts, after its parents have started and ended.
                0..=2 => {
                    let mut chain = vec![at];
                    while let Some(next) = chain.last().copied() {
                        let ready = nodes[next].is_started || parents[next].iter().all(|parent| nodes[*parent].is_started);
                        if ready { break; }
                        let waiting = parents[next].iter().copied().find(|parent| !nodes[*parent].is_started).unwrap();
                        chain.push(waiting);
                    }
                    for started in chain.into_iter().rev() {
                        if nodes[started].is_started || !parents[started].iter().all(|parent| nodes[*parent].is_started) { continue; }
                        let of_parents = parents[started].iter().map(|parent| nodes[*parent].shard.clone()).collect();
                        let (state, ancestors) = inherit(nodes[started].shard.header.hash_key_range, of_parents, add);
                        nodes[started].shard.state = state;
                        nodes[started].shard.header.ancestors = ancestors;
                        nodes[started].is_started = true;
                    }
                    if nodes[at].is_started && step > 0 {
                        let one: KeyedState<u64> = [(key.clone(), count)].into_iter().collect();
                        let whole = HashKeyRange::FULL;
                        let merged = |state: &KeyedState<u64>| {
                            let both = vec![snapshot(90, whole, &[], state.clone()), snapshot(91, whole, &[], one.clone())];
                            combine(both, add).0
                        };
                        nodes[at].shard.state = merged(&nodes[at].shard.state);
                        truth = merged(&truth);
                    }
                }
                3 => {
                    let of = nodes[at].shard.header.hash_key_range;
                    if of.start() == of.end() { continue; }
                    let middle = of.start().0 + (of.end().0 - of.start().0) / 2;
                    nodes[at].is_open = false;
                    for child in [range(of.start().0, middle), range(middle + 1, of.end().0)] {
                        let shard = snapshot(nodes.len() as u64, child, &[], KeyedState::default());
                        nodes.push(Node { shard, is_open: true, is_started: false });
                        parents.push(vec![at]);
                    }
                }
                _ => {
                    let end = nodes[at].shard.header.hash_key_range.end();
                    let neighbour = open.iter().copied().find(|other| Some(nodes[*other].shard.header.hash_key_range.start().0) == end.0.checked_add(1));
                    let Some(neighbour) = neighbour else { continue };
                    let whole = range(nodes[at].shard.header.hash_key_range.start().0, nodes[neighbour].shard.header.hash_key_range.end().0);
                    nodes[at].is_open = false;
                    nodes[neighbour].is_open = false;
                    let shard = snapshot(nodes.len() as u64, whole, &[], KeyedState::default());
                    nodes.push(Node { shard, is_open: true, is_started: false });
                    parents.push(vec![at, neighbour]);
                }
            }
            let all = |leave_out_covered: bool| -> Vec<Snapshot<u64>> {
                let is_covered = |at: usize| {
                    let children = (0..nodes.len()).filter(|child| parents[*child].contains(&at) && nodes[*child].is_started);
                    cover(nodes[at].shard.header.hash_key_range, children.map(|child| nodes[child].shard.header.hash_key_range))
                };
                (0..nodes.len())
                    .filter(|at| nodes[*at].is_started && !(leave_out_covered && is_covered(*at)))
                    .map(|at| nodes[at].shard.clone())
                    .collect()
            };
            prop_assert_eq!(&combine(all(false), add).0, &truth, "with all snapshots");
            prop_assert_eq!(&combine(all(true), add).0, &truth, "without the snapshots that all children have taken over");
        }
    }

    #[test]
    fn parts_cover_the_whole_or_leave_a_gap(
        cuts in prop::collection::btree_set(1_u128..1000, 0..8), left_out in any::<prop::sample::Index>(),
    ) {
        let mut starts = vec![0];
        starts.extend(cuts);
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([1000]);
        let parts: Vec<HashKeyRange> = starts.iter().zip(ends).map(|(start, end)| range(*start, end)).collect();
        prop_assert!(cover(range(0, 1000), parts.iter().rev().copied()));
        prop_assert!(cover(range(3, 997), parts.iter().copied()));
        let mut gap = parts;
        gap.remove(left_out.index(gap.len()));
        prop_assert!(!cover(range(0, 1000), gap));
    }
}

#[test]
fn a_merged_shard_inherits_all_and_merges_common_keys() {
    let state =
        |entries: &[(&str, u64)]| entries.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect();
    let left = snapshot(1, range(0, 99), &[0], state(&[("a", 1), ("b", 2)]));
    let right = snapshot(2, range(100, 199), &[0], state(&[("b", 5), ("c", 7)]));
    let (merged, ancestors) = inherit(range(0, 199), vec![left, right], add);
    assert_eq!(merged.iter().collect::<Vec<_>>(), [("a", &1), ("b", &7), ("c", &7)]);
    assert_eq!(ancestors, [0, 1, 2].map(ShardId::numbered).into());
    assert_eq!(sum(&merged), 15);
}

#[test]
fn the_full_range_is_covered_and_old_ancestors_are_dropped() {
    let middle = u128::MAX / 2;
    assert!(cover(HashKeyRange::FULL, [range(0, middle), range(middle + 1, u128::MAX)]));
    assert!(!cover(HashKeyRange::FULL, [range(0, u128::MAX - 1)]));
    let many: Vec<u64> = (0..200).collect();
    let parent = snapshot(200, HashKeyRange::FULL, &many, KeyedState::default());
    let (_, ancestors) = inherit(HashKeyRange::FULL, vec![parent], add);
    assert_eq!(ancestors.len(), MAX_ANCESTORS);
    assert!(ancestors.contains(&ShardId::numbered(200)) && !ancestors.contains(&ShardId::numbered(100)));
}

#[test]
fn a_snapshot_must_reach_the_lease() {
    let after = |number: u128| Position::after(number.into(), 0);
    for (covers, lease, expected) in [
        (Position::TrimHorizon, Position::TrimHorizon, true),
        (Position::TrimHorizon, Position::Latest, true),
        (after(5), Position::TrimHorizon, true),
        (Position::Latest, after(1), false),
        (after(4), after(5), false),
        (after(10), after(9), true),
        (after(5), after(5), true),
        (after(5), Position::after(5_u128.into(), 1), false),
        (Position::ShardEnd, after(5), true),
        (after(5), Position::ShardEnd, false),
        (Position::ShardEnd, Position::ShardEnd, true),
    ] {
        assert_eq!(reaches_lease(&covers, &lease), expected, "{covers} {lease}");
    }
}
