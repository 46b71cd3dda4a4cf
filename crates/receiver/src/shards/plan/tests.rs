//! Tests of the plan of new leases.

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

fn id(number: usize) -> ShardId {
    ShardId::new(format!("shardId-{number:012}")).unwrap()
}

fn shard(number: usize, parents: &[usize], is_closed: bool) -> Shard {
    let parents = parents.iter().copied().map(id).collect();
    Shard::new(id(number), is_closed).with_parents(parents)
}

/// 0 and 1 merge into 6, 2 and 3 into 7, then 6 and 7 into 8. 5 splits into 9 and 10. 4 is never resharded.
fn worked_example() -> Vec<Shard> {
    vec![
        shard(0, &[], true),
        shard(1, &[], true),
        shard(2, &[], true),
        shard(3, &[], true),
        shard(4, &[], false),
        shard(5, &[], true),
        shard(6, &[0, 1], true),
        shard(7, &[2, 3], true),
        shard(8, &[6, 7], false),
        shard(9, &[5], false),
        shard(10, &[5], false),
    ]
}

fn leases(numbers: &[usize], position: &Position) -> Vec<Lease> {
    let shards = worked_example();
    numbers.iter().map(|number| new_lease(&shards[*number], position.clone())).collect()
}

fn planned(shards: &[Shard], leases: &[Lease], initial: InitialPosition) -> BTreeSet<(usize, Position)> {
    planned_with(shards, leases, initial, &[])
}

fn planned_with(
    shards: &[Shard],
    leases: &[Lease],
    initial: InitialPosition,
    named: &[(usize, ShardPosition)],
) -> BTreeSet<(usize, Position)> {
    let named = named.iter().cloned().map(|(number, position)| (id(number), position)).collect();
    let new_leases = plan_new_leases(shards, leases, &initial, None, &named);
    new_leases.iter().map(|lease| (number_of(lease), lease.checkpoint.clone())).collect()
}

fn number_of(lease: &Lease) -> usize {
    lease.shard_id.as_str()["shardId-".len()..].parse().unwrap()
}

/// The leases planned at a `LATEST` with a known instant, and the instants in their rows.
fn planned_at(
    shards: &[Shard],
    leases: &[Lease],
    start_time: &StartTime,
) -> BTreeSet<(usize, Position, Option<u64>)> {
    let new_leases =
        plan_new_leases(shards, leases, &InitialPosition::Latest, Some(start_time), &BTreeMap::new());
    let row = |lease: &Lease| (number_of(lease), lease.checkpoint.clone(), lease.initial_time_millis);
    new_leases.iter().map(row).collect()
}

fn after(number: u128) -> ShardPosition {
    ShardPosition::After { sequence_number: number.into(), sub_sequence_number: 0 }
}

const AT_TIMESTAMP: InitialPosition = InitialPosition::AtTimestamp(SystemTime::UNIX_EPOCH);

#[test]
fn the_worked_example_of_the_kcl_gets_the_same_leases() {
    let (shards, leases) = (worked_example(), leases(&[4, 5, 7], &Position::TrimHorizon));
    let plan = |initial| planned(&shards, &leases, initial);
    assert_eq!(plan(InitialPosition::Latest), BTreeSet::from([(6, Position::Latest)]));
    let from_trim_horizon = BTreeSet::from([(0, Position::TrimHorizon), (1, Position::TrimHorizon)]);
    assert_eq!(plan(InitialPosition::TrimHorizon), from_trim_horizon);
    let at_timestamp = BTreeSet::from([(0, Position::AtTimestamp), (1, Position::AtTimestamp)]);
    assert_eq!(plan(AT_TIMESTAMP), at_timestamp);
}

#[test]
fn an_empty_table_starts_at_the_oldest_or_the_open_shards() {
    let shards = worked_example();
    let oldest = planned(&shards, &[], InitialPosition::TrimHorizon);
    assert_eq!(oldest, (0..=5).map(|number| (number, Position::TrimHorizon)).collect());
    let open = planned(&shards, &[], InitialPosition::Latest);
    assert_eq!(open, [4, 8, 9, 10].map(|number| (number, Position::Latest)).into());
}

#[test]
fn a_complete_table_needs_nothing() {
    let shards = worked_example();
    for initial in [InitialPosition::TrimHorizon, InitialPosition::Latest, AT_TIMESTAMP] {
        assert!(planned(&shards, &leases(&[4, 8, 9, 10], &Position::TrimHorizon), initial).is_empty());
    }
}

#[test]
fn a_child_of_an_ended_parent_gets_its_lease_even_at_latest() {
    let shards = worked_example();
    let mut leases = leases(&[4, 5, 8], &Position::Latest);
    leases[1].checkpoint = Position::ShardEnd;
    let plan = planned(&shards, &leases, InitialPosition::Latest);
    assert_eq!(plan, BTreeSet::from([(9, Position::TrimHorizon), (10, Position::TrimHorizon)]));
}

#[test]
fn latest_at_an_instant_starts_a_lineage_at_its_oldest_shard() {
    // The rows of 5, 9 and 10 were deleted, and 5 may hold records that arrived after the instant.
    let with_leases = leases(&[4, 8], &Position::Latest);
    let oldest = BTreeSet::from([(5, Position::Latest, Some(7))]);
    assert_eq!(planned_at(&worked_example(), &with_leases, &StartTime::at_millis(7)), oldest);
    // There are no leases, and the stream lists the shards that were open at the instant or created later.
    let shards = [shard(4, &[], false), shard(5, &[3], true), shard(9, &[5], false), shard(10, &[5], false)];
    let at = |number| (number, Position::Latest, Some(7));
    assert_eq!(planned_at(&shards, &[], &StartTime::at_millis(7)), BTreeSet::from([at(4), at(5)]));
}

#[test]
fn no_lineage_starts_at_a_shard_closed_before_the_instant() {
    // 0 and 1 merged into 2, which split into 3 and 4 before the instant. 4 was read to its end.
    let shards = [
        shard(0, &[], true),
        shard(1, &[], true),
        shard(2, &[0, 1], true),
        shard(3, &[2], true),
        shard(4, &[2], true),
        shard(5, &[3], false),
        shard(6, &[4], false),
    ];
    let with_leases = [new_lease(&shards[6], Position::TrimHorizon)];
    let open_since = |numbers: &[usize]| StartTime {
        open_since: Some(numbers.iter().copied().map(id).collect()),
        ..StartTime::at_millis(7)
    };
    let at = |number| BTreeSet::from([(number, Position::Latest, Some(7))]);
    assert_eq!(planned_at(&shards, &with_leases, &open_since(&[3, 4, 5, 6])), at(3));
    assert_eq!(planned_at(&shards, &with_leases, &open_since(&[5, 6])), at(5));
    // A shard with a lease leads to its descendants, no matter when it closed.
    let with_leases = [with_leases[0].clone(), new_lease(&shards[2], Position::TrimHorizon)];
    assert_eq!(planned_at(&shards, &with_leases, &open_since(&[5, 6])), BTreeSet::new());
}

#[test]
fn a_child_inherits_the_instant_of_its_parent() {
    let mut leases = leases(&[4, 5, 8], &Position::Latest);
    leases[1].checkpoint = Position::ShardEnd;
    leases[1].initial_time_millis = Some(7);
    let child = |number| (number, Position::TrimHorizon, Some(7));
    assert_eq!(
        planned_at(&worked_example(), &leases, &StartTime::at_millis(9)),
        BTreeSet::from([child(9), child(10)])
    );
}

#[test]
fn an_unlisted_parent_still_counts_by_its_lease() {
    let shards = [shard(9, &[5], false)];
    let unfinished = leases(&[5], &Position::TrimHorizon);
    assert!(planned(&shards, &unfinished, InitialPosition::Latest).is_empty());
    let finished = leases(&[5], &Position::ShardEnd);
    let plan = planned(&shards, &finished, InitialPosition::Latest);
    assert_eq!(plan, BTreeSet::from([(9, Position::TrimHorizon)]));
    let plan = planned(&shards, &[], InitialPosition::Latest);
    assert_eq!(plan, BTreeSet::from([(9, Position::Latest)]), "the parent is unknown");
}

#[test]
fn a_named_shard_starts_at_its_own_position() {
    let shards = worked_example();
    let named = [(4, after(7)), (5, ShardPosition::Latest)];
    let plan = planned_with(&shards, &[], InitialPosition::TrimHorizon, &named);
    let mut expected: BTreeSet<_> = (0..=3).map(|number| (number, Position::TrimHorizon)).collect();
    expected.extend([(4, after(7).position()), (5, Position::Latest)]);
    assert_eq!(plan, expected);
}

#[test]
fn named_position_marks_its_ancestors_done() {
    let shards = worked_example();
    for initial in [InitialPosition::TrimHorizon, InitialPosition::Latest, AT_TIMESTAMP] {
        // 9 and 10 are children of 5. 8 descends from 0 to 3.
        let named = [(4, after(1)), (8, after(2)), (9, after(3))];
        let plan = planned_with(&shards, &[], initial, &named);
        let expected = BTreeSet::from([
            (4, after(1).position()),
            (5, Position::ShardEnd),
            (8, after(2).position()),
            (9, after(3).position()),
            (10, Position::TrimHorizon),
        ]);
        assert_eq!(plan, expected, "{initial:?}");
    }
}

#[test]
fn the_ended_lease_of_an_ancestor_comes_first_with_its_children() {
    let named = BTreeMap::from([(id(9), after(3))]);
    let new_leases = plan_new_leases(&worked_example(), &[], &InitialPosition::TrimHorizon, None, &named);
    let index_of = |number| new_leases.iter().position(|lease| lease.shard_id == id(number)).unwrap();
    assert!(index_of(5) < index_of(9) && index_of(5) < index_of(10));
    assert!(new_leases[index_of(5)].children.iter().eq([&id(9), &id(10)]));
}

#[test]
fn the_unnamed_side_of_a_merge_is_read() {
    let shards = [shard(0, &[], true), shard(1, &[], true), shard(2, &[0, 1], false)];
    for (initial, position) in
        [(InitialPosition::TrimHorizon, Position::TrimHorizon), (InitialPosition::Latest, Position::Latest)]
    {
        let plan = planned_with(&shards, &[], initial, &[(0, after(5))]);
        assert_eq!(plan, BTreeSet::from([(0, after(5).position()), (1, position)]), "{initial:?}");
    }
}

#[test]
fn a_shard_between_two_named_ones_is_read() {
    let shards = [shard(0, &[], true), shard(1, &[0], true), shard(2, &[1], false)];
    let plan = |named: &[_]| planned_with(&shards, &[], InitialPosition::Latest, named);
    let [zero, one, two] = [0, 1, 2].map(|number| (number, after(number as u128).position()));
    assert_eq!(plan(&[(0, after(0)), (1, after(1))]), BTreeSet::from([zero.clone(), one]));
    let between = (1, Position::TrimHorizon);
    assert_eq!(plan(&[(0, after(0)), (2, after(2))]), BTreeSet::from([zero, between, two]));
}

#[test]
fn a_named_sentinel_changes_nothing_for_the_ancestors() {
    let shards = [shard(0, &[], true), shard(1, &[0], false), shard(2, &[0], false)];
    let named = [(1, ShardPosition::Latest)];
    let plan = planned_with(&shards, &[], InitialPosition::TrimHorizon, &named);
    assert_eq!(plan, BTreeSet::from([(0, Position::TrimHorizon), (1, Position::Latest)]));
    let named = [(1, ShardPosition::TrimHorizon)];
    let plan = planned_with(&shards, &[], InitialPosition::Latest, &named);
    assert_eq!(plan, BTreeSet::from([(1, Position::TrimHorizon), (2, Position::Latest)]));
}

#[test]
fn a_named_shard_with_a_leased_descendant_is_not_restarted() {
    let shards = worked_example();
    let named = [(5, after(1)), (4, after(1)), (0, ShardPosition::TrimHorizon)];
    // 5 was read and its row deleted. Of the descendants of 0 only 8 has a row.
    let complete = leases(&[4, 8, 9, 10], &Position::TrimHorizon);
    let plan = planned_with(&shards, &complete, InitialPosition::TrimHorizon, &named);
    assert_eq!(plan, BTreeSet::new());
}

#[test]
fn children_of_an_unlisted_named_shard_start_at_the_beginning() {
    let shards = [shard(1, &[0], false), shard(2, &[0], true), shard(3, &[2], false), shard(4, &[], false)];
    let named = [(0, after(9))];
    let plan = |leases: &[Lease]| planned_with(&shards, leases, InitialPosition::Latest, &named);
    let beginning = |number| (number, Position::TrimHorizon);
    assert_eq!(plan(&[]), BTreeSet::from([beginning(1), beginning(2), (4, Position::Latest)]));
    // 2 was read to its end and its row deleted.
    let leases = [1, 3, 4].map(|number| Lease {
        parents: BTreeSet::from([id(if number == 3 { 2 } else { 0 })]),
        ..Lease::unowned(id(number), Position::TrimHorizon)
    });
    assert_eq!(plan(&leases), BTreeSet::new());
}

#[test]
fn the_instant_of_a_named_shard_is_kept_in_its_row() {
    let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(77);
    let named = BTreeMap::from([(id(4), ShardPosition::AtTimestamp(at))]);
    let new_leases = plan_new_leases(&worked_example(), &[], &InitialPosition::Latest, None, &named);
    let lease_of = |number| new_leases.iter().find(|lease| lease.shard_id == id(number)).unwrap();
    assert_eq!(lease_of(4).initial_time_millis, Some(77));
    assert_eq!(lease_of(9).initial_time_millis, None);
}

fn order_of(new_leases: &[Lease]) -> Vec<usize> {
    new_leases.iter().map(number_of).collect()
}

#[test]
fn merge_before_split_is_planned_before_its_children() {
    // 0 and 1 merged into 2, which split into 3 and 5. All shards are named, so all of them get leases.
    let shards = [
        shard(0, &[], true),
        shard(1, &[], true),
        shard(2, &[0, 1], true),
        shard(3, &[2], false),
        shard(5, &[2], false),
    ];
    let at_record = |number| (id(number), ShardPosition::TrimHorizon);
    let named: BTreeMap<ShardId, ShardPosition> = [0, 1, 2, 3, 5].map(at_record).into();
    let plan = plan_new_leases(&shards, &[], &InitialPosition::TrimHorizon, None, &named);
    assert_eq!(order_of(&plan), [0, 1, 2, 3, 5]);
}

/// More generations than a recursive plan survives on the stack of a test (2 MiB).
const GENERATIONS: usize = 100_000;

/// One shard that split again and again into a shard that stays open and one that splits. The shards with even numbers
/// are those that split.
fn deep_history(generations: usize) -> Vec<Shard> {
    let mut shards = vec![shard(0, &[], true)];
    for generation in 1..=generations {
        let (split, open) = (2 * generation, 2 * generation - 1);
        let parent = split - 2;
        shards.push(shard(open, &[parent], false));
        shards.push(shard(split, &[parent], generation < generations));
    }
    shards
}

#[test]
fn hundred_thousand_generations_are_planned() {
    // A chain, so that each plan is quick.
    let shards: Vec<Shard> = (0..=GENERATIONS)
        .map(|number| {
            let parents: Vec<usize> = number.checked_sub(1).into_iter().collect();
            shard(number, &parents, number < GENERATIONS)
        })
        .collect();
    let trim_horizon = InitialPosition::TrimHorizon;
    let oldest = plan_new_leases(&shards, &[], &trim_horizon, None, &BTreeMap::new());
    assert_eq!(order_of(&oldest), [0], "the oldest shard leads to all others");
    let named = BTreeMap::from([(id(0), after(1)), (id(GENERATIONS), after(5))]);
    let between = plan_new_leases(&shards, &[], &trim_horizon, None, &named);
    assert!(order_of(&between).into_iter().eq(0..=GENERATIONS), "each waits for the one before it");
}

#[test]
fn deep_history_is_planned_like_a_shallow_one() {
    const DEPTH: usize = 500;
    let shards = deep_history(DEPTH);
    let plan = |leases: &[Lease], initial, named: &ShardPositions| {
        plan_new_leases(&shards, leases, &initial, None, named)
    };
    let none = BTreeMap::new();
    assert_eq!(order_of(&plan(&[], InitialPosition::TrimHorizon, &none)), [0]);
    assert_eq!(plan(&[], InitialPosition::Latest, &none).len(), DEPTH + 1);
    let root = |position| [new_lease(&shards[0], position)];
    assert_eq!(plan(&root(Position::TrimHorizon), InitialPosition::Latest, &none).len(), 0);
    let ended = plan(&root(Position::ShardEnd), InitialPosition::Latest, &none);
    assert_eq!(order_of(&ended), [1, 2]);
    // The ancestors of the named shard count as read, and their other children start.
    let named = BTreeMap::from([(id(2 * DEPTH), after(5))]);
    let with_named = plan(&[], InitialPosition::TrimHorizon, &named);
    assert_eq!(with_named.len(), 2 * DEPTH + 1);
    assert_eq!(with_named.iter().filter(|lease| lease.is_finished()).count(), DEPTH);
    // Every row is kept, finished, without the names of its children.
    let closed = shards.iter().filter(|shard| shard.is_closed);
    let mut rows: Vec<Lease> = closed.map(|shard| new_lease(shard, Position::ShardEnd)).collect();
    let missing = plan(&rows, InitialPosition::Latest, &none);
    assert_eq!(missing.len(), DEPTH + 1);
    rows.extend(missing);
    assert_eq!(plan(&rows, InitialPosition::Latest, &none).len(), 0);
}

#[test]
fn shards_that_are_their_own_ancestors_are_planned_without_end() {
    // No stream has such a history; a damaged listing must not stop the receiver.
    let shards = [shard(0, &[1], true), shard(1, &[0], false)];
    let plan = plan_new_leases(&shards, &[], &InitialPosition::TrimHorizon, None, &BTreeMap::new());
    assert!(!plan.is_empty());
}

/// The shards of a stream that was resharded at random, all of them still listed.
fn any_history() -> impl Strategy<Value = Vec<Shard>> {
    let steps = prop::collection::vec((any::<bool>(), any::<usize>(), any::<usize>()), 0..12);
    (1..4usize, steps).prop_map(|(roots, steps)| {
        let mut shards: Vec<Shard> = (0..roots).map(|number| shard(number, &[], false)).collect();
        for (is_merge, one, other) in steps {
            let open: Vec<usize> = (0..shards.len()).filter(|number| !shards[*number].is_closed).collect();
            let (one, other) = (open[one % open.len()], open[other % open.len()]);
            shards[one].is_closed = true;
            if is_merge && one != other {
                shards[other].is_closed = true;
                shards.push(shard(shards.len(), &[one, other], false));
            } else {
                let first = shards.len();
                shards.extend([first, first + 1].map(|number| shard(number, &[one], false)));
            }
        }
        shards
    })
}

#[test]
fn parent_of_a_merge_without_a_row_gets_one_again() {
    let shards = worked_example();
    let mut rows = leases(&[0, 4], &Position::TrimHorizon);
    rows.extend(leases(&[6], &Position::TrimHorizon));
    rows[0].checkpoint = Position::ShardEnd;
    let with = |rows: &[Lease], named: &[(usize, ShardPosition)]| -> Vec<usize> {
        let planned = planned_with(&shards, rows, InitialPosition::TrimHorizon, named);
        planned.into_iter().map(|(number, _)| number).filter(|number| *number < 2).collect()
    };
    assert_eq!(with(&rows, &[]), [1]);
    assert_eq!(with(&rows, &[(6, after(5))]), [0; 0], "the named position implies that 1 is read");
    rows[2].initial_time_millis = Some(70);
    let instants: Vec<Option<u64>> =
        plan_new_leases(&shards, &rows, &InitialPosition::TrimHorizon, None, &BTreeMap::new())
            .iter()
            .filter(|lease| lease.shard_id == id(1))
            .map(|lease| lease.initial_time_millis)
            .collect();
    assert_eq!(instants, [Some(70)], "records before the instant of the child are not asked for");
    rows[2].checkpoint = Position::after(5.into(), 0);
    assert_eq!(with(&rows, &[]), [0; 0], "the child has begun");
}

proptest! {
    /// For any history and any named positions, every named shard gets its position, and the plan is empty once the
    /// leases are created. Reading shard after shard to its end reaches every open shard, parents before children.
    #[test]
    fn every_lineage_is_read_to_its_open_shards_and_never_twice(
        shards in any_history(),
        choices in prop::collection::btree_map(0..30usize, 0..3u8, 0..6),
        at_latest: bool,
        at_instant: bool,
    ) {
        let start_time = at_instant.then(|| StartTime::at_millis(7));
        let initial = if at_latest { InitialPosition::Latest } else { InitialPosition::TrimHorizon };
        let named: BTreeMap<ShardId, ShardPosition> = choices
            .into_iter()
            .filter(|(number, _)| *number < shards.len())
            .map(|(number, choice)| (id(number), match choice {
                0 => ShardPosition::TrimHorizon,
                1 => ShardPosition::Latest,
                _ => after(5),
            }))
            .collect();
        let mut leases = plan_new_leases(&shards, &[], &initial, start_time.as_ref(), &named);
        for (index, lease) in leases.iter().enumerate() {
            let later = leases[index..].iter().find(|later| lease.parents.contains(&later.shard_id));
            prop_assert!(later.is_none(), "{:?} comes before its parent", lease.shard_id);
        }
        for (shard_id, position) in &named {
            let lease = leases.iter().find(|lease| lease.shard_id == *shard_id);
            prop_assert_eq!(lease.map(|lease| &lease.checkpoint), Some(&position.position()));
        }
        prop_assert_eq!(plan_new_leases(&shards, &leases, &initial, start_time.as_ref(), &named), vec![]);
        // Each shard that may be read is read to its end, after the leases of its children are created.
        let is_ancestor = |ancestor: &ShardId, shard_id: &ShardId| {
            let mut above: Vec<&ShardId> = vec![shard_id];
            while let Some(next) = above.pop() {
                let shard = shards.iter().find(|shard| shard.shard_id == *next).unwrap();
                if shard.parents.contains(ancestor) {
                    return true;
                }
                above.extend(&shard.parents);
            }
            false
        };
        let mut started: BTreeSet<ShardId> = BTreeSet::new();
        loop {
            let has_lease = |leases: &[Lease], shard_id: &ShardId| {
                leases.iter().any(|lease| lease.shard_id == *shard_id)
            };
            let is_unfinished = |parent: &ShardId| {
                leases.iter().any(|lease| lease.shard_id == *parent && !lease.is_finished())
            };
            let can_start =
                |lease: &Lease| !lease.is_finished() && !lease.parents.iter().any(is_unfinished);
            let readable: Vec<ShardId> =
                leases.iter().filter(|lease| can_start(lease)).map(|lease| lease.shard_id.clone()).collect();
            for shard_id in &readable {
                let is_new = started.insert(shard_id.clone());
                let late = started.iter().find(|descendant| is_ancestor(shard_id, descendant));
                prop_assert!(!is_new || late.is_none(), "{:?} starts after its descendant {:?}", shard_id, late);
            }
            // The end of a shard waits for the lease of a child's other parent.
            let can_end = |shard_id: &&ShardId| {
                let shard = shards.iter().find(|shard| shard.shard_id == **shard_id).unwrap();
                shard.is_closed
                    && shards
                        .iter()
                        .filter(|child| child.parents.contains(*shard_id) && !has_lease(&leases, &child.shard_id))
                        .all(|child| child.parents.iter().all(|parent| has_lease(&leases, parent)))
            };
            let Some(ended) = readable.iter().find(can_end) else { break };
            for child in shards.iter().filter(|shard| shard.parents.contains(ended)) {
                if !has_lease(&leases, &child.shard_id) {
                    leases.push(new_lease(child, Position::TrimHorizon));
                }
            }
            let row = leases.iter_mut().find(|lease| lease.shard_id == *ended);
            row.unwrap().checkpoint = Position::ShardEnd;
            prop_assert_eq!(plan_new_leases(&shards, &leases, &initial, start_time.as_ref(), &named), vec![]);
        }
        for open in shards.iter().filter(|shard| !shard.is_closed) {
            prop_assert!(started.contains(&open.shard_id), "{:?} is never read: {:?}", open, leases);
        }
    }
}
