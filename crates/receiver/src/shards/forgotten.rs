//! Which rows are no longer needed according to the shards that the stream lists: a pure plan.
//!
//! [`plan_cleanup`](crate::shards::cleanup::plan_cleanup) knows the children of a finished shard from its row. Rows of old
//! KCL versions name no children, and the stream forgets its shards after the retention period: by that rule both kinds of
//! rows stay for ever, and every scan reads them.

use std::collections::{BTreeSet, HashMap};

use lease_store::{HashKey, HashKeyRange, Lease, Position, ShardId};
use shard_worker::Shard;

use crate::shards::coverage::{Coverage, coverage};
use crate::shards::descendants::children;

/// The rows that can be deleted, in addition to those of the ordinary clean-up:
///
/// - a finished row without named children whose shard is listed: the listed children cover its hash keys, all have begun,
///   and no parent has a row;
/// - a finished row whose shard is no longer listed: each of its children has begun, or is neither listed nor in the table;
/// - an unfinished row whose shard is no longer listed, if it was read past: it has children, and all of them have begun. A
///   row that a live worker holds is left to it, since that worker may be about to report a loss.
///
/// A child has begun once its checkpoint is past `TRIM_HORIZON`. Nothing is deleted unless the open shards of the listing
/// and the unfinished rows each cover the whole hash-key space: an incomplete answer proves nothing.
pub(crate) fn plan_forgotten<'a>(
    leases: &'a [Lease],
    shards: &[Shard],
    is_held: impl Fn(&Lease) -> bool,
) -> Vec<&'a Lease> {
    if coverage(leases) != Coverage::Complete || !is_complete(shards) {
        return Vec::new();
    }
    let rows: HashMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard_id, lease)).collect();
    let listed: HashMap<&ShardId, &Shard> = shards.iter().map(|shard| (&shard.shard_id, shard)).collect();
    let known_children = children(shards, leases);
    let has_begun =
        |child: &ShardId| rows.get(child).is_some_and(|lease| lease.checkpoint > Position::TrimHorizon);
    let is_gone = |child: &ShardId| !rows.contains_key(child) && !listed.contains_key(child);
    let can_be_deleted = |lease: &&Lease| {
        let known = known_children.get(&lease.shard_id).into_iter().flatten().copied();
        let children: BTreeSet<&ShardId> = known.chain(&lease.children).collect();
        let have_all_begun = !children.is_empty() && children.iter().all(|child| has_begun(child));
        match (listed.get(&lease.shard_id), lease.is_finished()) {
            (Some(shard), true) => {
                lease.children.is_empty()
                    && have_all_begun
                    && !lease.parents.iter().chain(&shard.parents).any(|parent| rows.contains_key(parent))
                    && is_covered(shard, children.iter().filter_map(|child| listed.get(child).copied()))
            }
            (Some(_), false) => false,
            (None, true) => {
                children.iter().all(|child| has_begun(child) || is_gone(child))
                    && !lease
                        .parents
                        .iter()
                        .any(|parent| listed.contains_key(parent) && rows.contains_key(parent))
            }
            (None, false) => have_all_begun && !is_held(lease),
        }
    };
    leases.iter().filter(can_be_deleted).collect()
}

/// Whether the open shards cover the hash-key space.
fn is_complete(shards: &[Shard]) -> bool {
    let open = shards.iter().filter(|shard| !shard.is_closed).map(|shard| shard.hash_key_range);
    let ranges: Option<Vec<HashKeyRange>> = open.collect();
    ranges.is_some_and(|ranges| covers(ranges, HashKeyRange::FULL))
}

/// Whether these children cover the hash keys of their parent.
fn is_covered<'a>(parent: &Shard, children: impl Iterator<Item = &'a Shard>) -> bool {
    let ranges: Option<Vec<HashKeyRange>> = children.map(|child| child.hash_key_range).collect();
    match (parent.hash_key_range, ranges) {
        (Some(range), Some(ranges)) => covers(ranges, range),
        _ => false,
    }
}

/// Whether the ranges together contain all of `whole`.
fn covers(mut ranges: Vec<HashKeyRange>, whole: HashKeyRange) -> bool {
    ranges.sort_unstable();
    let mut first_uncovered = whole.start();
    for range in ranges {
        if range.start() > first_uncovered {
            return false;
        }
        if range.end() >= first_uncovered {
            match range.end().0.checked_add(1) {
                Some(next) if range.end() < whole.end() => first_uncovered = HashKey(next),
                _ => return true,
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::shards::initial_position::InitialPosition;
    use crate::shards::plan::{new_lease, plan_new_leases};

    fn id(number: usize) -> ShardId {
        ShardId::numbered(number as u64)
    }

    fn range(start: u128, end: u128) -> HashKeyRange {
        HashKeyRange::new(HashKey(start), HashKey(end)).unwrap()
    }

    const MAX: u128 = u128::MAX;
    const MIDDLE: u128 = MAX / 2;

    fn shard(number: usize, parents: &[usize], is_closed: bool, range: HashKeyRange) -> Shard {
        let parents = parents.iter().copied().map(id).collect();
        Shard::new(id(number), is_closed).with_parents(parents).with_hash_key_range(Some(range))
    }

    fn at(number: u128) -> Position {
        Position::after(number.into(), 0)
    }

    /// 0 split into 1 and 2; 1 split into 3 and 4.
    fn history() -> Vec<Shard> {
        vec![
            shard(0, &[], true, range(0, MAX)),
            shard(1, &[0], true, range(0, MIDDLE)),
            shard(2, &[0], false, range(MIDDLE + 1, MAX)),
            shard(3, &[1], false, range(0, 9)),
            shard(4, &[1], false, range(10, MIDDLE)),
        ]
    }

    /// Rows as an old KCL leaves them: finished ones name no children.
    fn rows() -> Vec<Lease> {
        let closed = |shard: &Shard| if shard.is_closed { Position::ShardEnd } else { at(5) };
        history().iter().map(|shard| new_lease(shard, closed(shard))).collect()
    }

    fn deletable(leases: &[Lease], shards: &[Shard]) -> BTreeSet<ShardId> {
        plan_forgotten(leases, shards, |_| false).into_iter().map(|lease| lease.shard_id.clone()).collect()
    }

    fn ids<const N: usize>(numbers: [usize; N]) -> BTreeSet<ShardId> {
        numbers.map(id).into()
    }

    #[test]
    fn finished_rows_without_named_children_go_oldest_first() {
        let mut rows = rows();
        assert_eq!(deletable(&rows, &history()), ids([0]));
        rows[2].checkpoint = Position::TrimHorizon;
        assert_eq!(deletable(&rows, &history()), ids([]), "a child has not begun");
        rows[2].checkpoint = at(5);
        rows.remove(0);
        assert_eq!(deletable(&rows, &history()), ids([1]));
        let without_range = |shard: &Shard| {
            let range = shard.hash_key_range.filter(|_| shard.shard_id != id(4));
            shard.clone().with_hash_key_range(range)
        };
        let shards: Vec<Shard> = history().iter().map(without_range).collect();
        assert_eq!(deletable(&rows, &shards), ids([]), "the children are not known to be all");
    }

    #[test]
    fn rows_of_unlisted_shards_go_when_finished_or_read_past() {
        let (mut rows, listed) = (rows(), history().split_off(2));
        assert_eq!(deletable(&rows, &listed), ids([0, 1]));
        rows[1].checkpoint = at(3);
        assert_eq!(deletable(&rows, &listed), ids([0, 1]), "the children of 1 have begun");
        assert_eq!(plan_forgotten(&rows, &listed, |lease| lease.shard_id == id(1)).len(), 1, "1 is held");
        rows[3].checkpoint = Position::TrimHorizon;
        assert_eq!(deletable(&rows, &listed), ids([0]), "3 has not begun");
        rows[1].checkpoint = Position::TrimHorizon;
        assert_eq!(deletable(&rows, &listed), ids([]), "1 has not begun either");
    }

    #[test]
    fn incomplete_listing_or_table_deletes_nothing() {
        let rows = rows();
        assert_eq!(deletable(&rows, &[]), ids([]));
        assert_eq!(deletable(&rows, &history()[..4]), ids([]), "4 is missing");
        assert_eq!(deletable(&rows[..4], &history()), ids([]), "the row of 4 is missing");
    }

    #[test]
    fn chain_of_forgotten_shards_is_deleted_at_once() {
        let mut rows = vec![new_lease(&shard(0, &[], true, range(0, MAX)), Position::ShardEnd)];
        for number in 1..100_000 {
            rows.push(new_lease(&shard(number, &[number - 1], true, range(0, MAX)), Position::ShardEnd));
        }
        let listed = [shard(100_000, &[99_999], false, range(0, MAX))];
        rows.push(new_lease(&listed[0], at(1)));
        assert_eq!(plan_forgotten(&rows, &listed, |_| false).len(), 100_000);
    }

    /// A stream that was resharded at random, of which the oldest shards are forgotten, and the rows of a fleet that read
    /// some of it: finished ones with or without the names of their children.
    fn any_table() -> impl Strategy<Value = (Vec<Shard>, Vec<Lease>)> {
        let steps = prop::collection::vec((any::<bool>(), any::<usize>()), 0..12);
        let rows = prop::collection::vec((0..4u8, any::<bool>()), 40);
        (steps, rows, 0..12usize).prop_map(|(steps, rows, forgotten)| {
            let mut shards = vec![shard(0, &[], false, range(0, MAX))];
            for (is_merge, choice) in steps {
                let mut open: Vec<usize> =
                    (0..shards.len()).filter(|number| !shards[*number].is_closed).collect();
                open.sort_by_key(|number| shards[*number].hash_key_range);
                let index = choice % open.len();
                let one = open[index];
                let whole = shards[one].hash_key_range.unwrap();
                let next = shards.len();
                if let (true, Some(other)) = (is_merge, open.get(index + 1).copied()) {
                    let end = shards[other].hash_key_range.unwrap().end().0;
                    shards.push(shard(next, &[one, other], false, range(whole.start().0, end)));
                    shards[other].is_closed = true;
                } else {
                    let middle = whole.start().0 + (whole.end().0 - whole.start().0) / 2;
                    shards.push(shard(next, &[one], false, range(whole.start().0, middle)));
                    shards.push(shard(next + 1, &[one], false, range(middle + 1, whole.end().0)));
                }
                shards[one].is_closed = true;
            }
            // Parents first: a row is unfinished, finished, or deleted; children exist once their parents are finished.
            let mut leases: Vec<Lease> = Vec::new();
            let mut is_done = vec![false; shards.len()];
            for (number, shard) in shards.iter().enumerate() {
                let parent_numbers =
                    (0..number).filter(|parent| shard.parents.contains(&shards[*parent].shard_id));
                let is_reachable = parent_numbers.clone().all(|parent| is_done[parent]);
                let (state, names_children) = rows[number % rows.len()];
                if !is_reachable {
                    continue;
                }
                is_done[number] = shard.is_closed && state != 0;
                if is_done[number] && state == 1 {
                    continue;
                }
                let position = match (is_done[number], state) {
                    (true, _) => Position::ShardEnd,
                    (false, 0 | 1) => Position::TrimHorizon,
                    (false, _) => at(7),
                };
                let mut lease = new_lease(shard, position);
                if is_done[number] && names_children {
                    let named = shards.iter().filter(|child| child.parents.contains(&shard.shard_id));
                    lease.children = named.map(|child| child.shard_id.clone()).collect();
                }
                leases.push(lease);
            }
            let is_forgotten = |number: usize| number < forgotten && shards[number].is_closed;
            let listed = (0..shards.len()).filter(|number| !is_forgotten(*number));
            (listed.map(|number| shards[number].clone()).collect(), leases)
        })
    }

    proptest! {
        /// Deleting the planned rows, all or any one alone, leaves no hole and makes no shard start anew.
        #[test]
        fn deletion_of_forgotten_rows_starts_no_shard_again((shards, leases) in any_table(), at_latest: bool) {
            let initial = if at_latest { InitialPosition::Latest } else { InitialPosition::TrimHorizon };
            let planned = deletable(&leases, &shards);
            let missing = |leases: &[Lease]| plan_new_leases(&shards, leases, &initial, None, &BTreeMap::new());
            let without = |gone: &dyn Fn(&ShardId) -> bool| -> Vec<Lease> {
                leases.iter().filter(|lease| !gone(&lease.shard_id)).cloned().collect()
            };
            let before = missing(&leases);
            let all_gone = without(&|shard_id| planned.contains(shard_id));
            prop_assert_eq!(&missing(&all_gone), &before);
            if !planned.is_empty() {
                prop_assert_eq!(coverage(&all_gone), Coverage::Complete);
            }
            for one in &planned {
                prop_assert_eq!(&missing(&without(&|shard_id| shard_id == one)), &before);
            }
        }
    }
}
