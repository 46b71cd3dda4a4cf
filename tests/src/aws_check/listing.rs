//! What a listing with a filter must contain, by the listing of all shards: pure.

use std::collections::BTreeSet;

use aws_sdk_kinesis::types::Shard;

/// A shard as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedShard {
    pub(super) id: String,
    pub(super) parents: Vec<String>,
    pub(super) is_closed: bool,
    /// The first and the last hash key. `None`: the listing has none.
    pub(super) range: Option<(u128, u128)>,
}

impl ListedShard {
    pub(super) fn of(shard: &Shard) -> Self {
        let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
        let end = shard.sequence_number_range().and_then(|range| range.ending_sequence_number());
        let range = shard.hash_key_range().and_then(|range| {
            Some((range.starting_hash_key().parse().ok()?, range.ending_hash_key().parse().ok()?))
        });
        Self {
            id: shard.shard_id().to_owned(),
            parents: parents.into_iter().flatten().map(str::to_owned).collect(),
            is_closed: end.is_some(),
            range,
        }
    }
}

/// The ids of the open shards.
pub(super) fn open(shards: &[ListedShard]) -> BTreeSet<&str> {
    shards.iter().filter(|shard| !shard.is_closed).map(|shard| shard.id.as_str()).collect()
}

/// The ids of the shards after this one.
pub(super) fn after<'a>(shards: &'a [ListedShard], id: &str) -> BTreeSet<&'a str> {
    shards.iter().map(|shard| shard.id.as_str()).filter(|other| *other > id).collect()
}

/// The ids of the children of a shard.
pub(super) fn children<'a>(shards: &'a [ListedShard], id: &str) -> BTreeSet<&'a str> {
    let is_child = |shard: &&ListedShard| shard.parents.iter().any(|parent| parent == id);
    shards.iter().filter(is_child).map(|shard| shard.id.as_str()).collect()
}

pub(super) fn ids(shards: &[ListedShard]) -> BTreeSet<&str> {
    shards.iter().map(|shard| shard.id.as_str()).collect()
}

/// Whether the shards cover every hash key exactly once.
pub(super) fn cover_each_key_once(shards: &[ListedShard]) -> bool {
    let Some(mut ranges) = shards.iter().map(|shard| shard.range).collect::<Option<Vec<_>>>() else {
        return false;
    };
    ranges.sort_unstable();
    let mut next = Some(0);
    for (start, end) in ranges {
        if next != Some(start) {
            return false;
        }
        next = end.checked_add(1);
    }
    // After the last key there is none.
    next.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str], is_closed: bool, range: (u128, u128)) -> ListedShard {
        let parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
        ListedShard { id: id.to_owned(), parents, is_closed, range: Some(range) }
    }

    #[test]
    fn filters_select_by_state_id_and_parents() {
        let shards = [
            shard("0", &[], true, (0, u128::MAX)),
            shard("1", &["0"], false, (0, 9)),
            shard("2", &["0"], false, (10, u128::MAX)),
        ];
        assert_eq!(open(&shards), BTreeSet::from(["1", "2"]));
        assert_eq!(after(&shards, "1"), BTreeSet::from(["2"]));
        assert_eq!(children(&shards, "0"), BTreeSet::from(["1", "2"]));
        assert!(cover_each_key_once(&shards[..1]) && cover_each_key_once(&shards[1..]));
        assert!(!cover_each_key_once(&shards) && !cover_each_key_once(&shards[2..]));
        assert!(!cover_each_key_once(&shards[..0]));
    }
}
