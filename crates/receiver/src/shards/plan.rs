//! Which leases to create: a pure plan over the listed shards and the lease table.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lease_store::{Lease, Position, ShardId};
use shard_worker::Shard;

use crate::shards::descendants::{children, generations, listed_below, with_descendant_in};
use crate::shards::initial_position::{InitialPosition, ShardPosition, ShardPositions, start_of_child};
use crate::shards::unread_parents::missing_parents;

/// Decides which leases to create, parents before children. The rules are those of the KCL (`HierarchicalShardSyncer`), for
/// an empty and for a filled table alike. A *lineage* is a chain of parents and children.
///
/// - An open shard without a lease and without a leased ancestor starts at the initial position: its oldest listed
///   ancestors get the leases, and their descendants follow when those end. With a `LATEST` whose instant is unknown, the
///   shard itself gets the lease.
/// - A shard with a leased ancestor is reached through the end of that ancestor. When a merge joins a leased and an
///   unleased lineage, the unleased side gets leases of its own.
/// - Beyond the KCL: a `LATEST` whose instant is known is treated as a time. A shard that has closed since then may hold
///   later records. So a lineage without leases starts at its oldest shard, or at the oldest one that was open then.
/// - Beyond the KCL: a shard without a lease whose leased parents have all ended gets one, so that no hole stays. Its
///   lease was deleted, or the worker that ended the parent crashed.
///
/// - Beyond the KCL: a listed parent without a lease gets one if the child has not begun and its other parent has a lease.
///   The lease of the parent was deleted, and its records may be unread.
///
/// A child of an ended parent starts at the `position_of_child` of the initial position. `start_time` is the instant of
/// `LATEST` or `AT_TIMESTAMP`, where it is known.
///
/// `named` are shards with positions of their own. A listed one gets a lease at its position, whether it is open or closed,
/// unless it or a descendant of it has a lease. The position also affects other shards:
///
/// - A shard that is processed up to a *record* implies that its ancestors are processed. Its ancestors without a lease
///   count as read to their ends. If such an ancestor has other children, they start at their beginning. The lease of that
///   ancestor is created as ended, so that a later shard sync need not decide again.
/// - An ancestor that descends from another named or leased shard is not processed: that shard leads to it. It gets a
///   lease, so that the named shard waits for it.
/// - A named shard that is processed up to a record and no longer listed counts as read to its end: its children start at
///   their beginning, never at `LATEST`.
/// - A position at `TRIM_HORIZON`, `LATEST` or `AT_TIMESTAMP` changes nothing for the ancestors. If they start earlier,
///   the named shard waits for their end, and so do the shards in between.
pub fn plan_new_leases(
    shards: &[Shard],
    leases: &[Lease],
    initial_position: &InitialPosition,
    start_time: Option<&StartTime>,
    named: &BTreeMap<ShardId, ShardPosition>,
) -> Vec<Lease> {
    let mut planner = LeasePlanner {
        shards: shards.iter().map(|shard| (&shard.shard_id, shard)).collect(),
        leases: leases.iter().map(|lease| (&lease.shard_id, lease)).collect(),
        children: children(shards, leases),
        with_leased_descendant: with_descendant_in(
            leases.iter().map(|lease| &lease.shard_id),
            shards,
            leases.iter(),
        ),
        listed: shards,
        initial_position,
        start_time,
        named,
        active: BTreeMap::new(),
        done: BTreeSet::new(),
        visited: HashMap::new(),
        planned: BTreeMap::new(),
    };
    planner.plan_named();
    for shard in shards.iter().filter(|shard| !shard.is_closed) {
        planner.visit(shard);
        let is_reached =
            |ancestry: &Option<Ancestry>| ancestry.is_some_and(|ancestry| ancestry.is_descendant);
        if !planner.visited.get(&shard.shard_id).is_some_and(is_reached) {
            planner.plan_start(shard);
        }
    }
    planner.plan_holes(shards);
    planner.plan_unread_parents(leases);
    planner.plan_between();
    let mut new_leases: Vec<Lease> = planner.planned.into_values().collect();
    // The lease of a parent must exist before that of its child: a child whose parent has no lease may start at once.
    let generations = generations(shards);
    new_leases.sort_by_key(|lease| generations.get(&lease.shard_id).copied());
    new_leases
}

/// The instant of `LATEST` or `AT_TIMESTAMP`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartTime {
    /// In milliseconds since 1970.
    pub millis_since_1970: u64,
    /// The shards that were open at that time or created later. `None`: not known. A shard that closed before has no
    /// records to read, so no lineage starts there.
    pub open_since: Option<BTreeSet<ShardId>>,
}

impl StartTime {
    /// A start time in milliseconds since 1970, at which every shard may have been open.
    pub fn at_millis(millis_since_1970: u64) -> Self {
        Self { millis_since_1970, open_since: None }
    }
}

/// A new, unowned lease for a shard.
pub(crate) fn new_lease(shard: &Shard, checkpoint: Position) -> Lease {
    let mut lease = Lease::unowned(shard.shard_id.clone(), checkpoint);
    lease.parents.clone_from(&shard.parents);
    lease.hash_key_range = shard.hash_key_range;
    lease
}

/// How a shard is reached, as found by walking up its ancestors.
#[derive(Debug, Clone, Copy)]
struct Ancestry {
    /// The shard has a lease, or an ancestor has or gets one.
    is_descendant: bool,
    /// The shard is the oldest of a lineage without leases, and the lineage starts at it.
    is_oldest_of_lineage: bool,
}

impl Ancestry {
    const DESCENDANT: Self = Self { is_descendant: true, is_oldest_of_lineage: false };
}

struct LeasePlanner<'a> {
    shards: HashMap<&'a ShardId, &'a Shard>,
    leases: HashMap<&'a ShardId, &'a Lease>,
    children: HashMap<&'a ShardId, BTreeSet<&'a ShardId>>,
    /// The shards of which a descendant has a lease.
    with_leased_descendant: HashSet<&'a ShardId>,
    listed: &'a [Shard],
    initial_position: &'a InitialPosition,
    start_time: Option<&'a StartTime>,
    named: &'a ShardPositions,
    /// The named shards that get a lease.
    active: BTreeMap<&'a ShardId, &'a ShardPosition>,
    /// Shards without a lease that count as read to their ends, because a named descendant is processed up to a record.
    done: BTreeSet<&'a ShardId>,
    /// `None`: its ancestors are being visited.
    visited: HashMap<&'a ShardId, Option<Ancestry>>,
    planned: BTreeMap<&'a ShardId, Lease>,
}

impl<'a> LeasePlanner<'a> {
    /// Plans the leases of the named shards, and those that their positions imply for their ancestors.
    fn plan_named(&mut self) {
        let named = self.named.iter();
        let active = named.filter(|(shard_id, _)| {
            self.shards.contains_key(shard_id)
                && !self.leases.contains_key(shard_id)
                && !self.has_leased_descendant(shard_id)
        });
        self.active = active.collect();
        let at_record = self.active.keys().copied().filter(|shard_id| self.is_at_record(shard_id));
        let ancestors = self.listed_ancestors(at_record);
        let leads_on =
            |shard_id: &ShardId| self.active.contains_key(shard_id) || self.leases.contains_key(shard_id);
        let below_named_or_leased = listed_below(self.listed, leads_on);
        let (below_others, done): (BTreeSet<_>, BTreeSet<_>) = ancestors
            .into_iter()
            .filter(|shard_id| !self.active.contains_key(shard_id) && !self.leases.contains_key(shard_id))
            .partition(|shard_id| below_named_or_leased.contains(*shard_id));
        self.done = done;
        for shard_id in below_others {
            if let Some(shard) = self.shards.get(shard_id).copied() {
                self.plan_child(shard, None);
            }
        }
        for shard_id in self.done.clone() {
            let Some(shard) =
                self.shards.get(shard_id).copied().filter(|_| self.has_child_to_start(shard_id))
            else {
                continue;
            };
            let mut ended = new_lease(shard, Position::ShardEnd);
            ended.children = self.children_of(shard_id).cloned().collect();
            self.planned.insert(shard_id, ended);
        }
        let active: Vec<(&'a Shard, &'a ShardPosition)> = self
            .active
            .iter()
            .filter_map(|(shard_id, position)| Some((*self.shards.get(shard_id)?, *position)))
            .collect();
        for (shard, position) in &active {
            let mut lease = new_lease(shard, position.position());
            // The instant of `LATEST` is not known here.
            lease.initial_time_millis = position.millis(None);
            self.planned.insert(&shard.shard_id, lease);
        }
        for (shard, _) in active {
            if !self.is_at_record(&shard.shard_id) {
                self.check_ancestors(shard);
            }
        }
    }

    /// Plans leases for the shards between a leased shard and its named descendant. Without them the named shard would not
    /// wait for its ancestors.
    fn plan_between(&mut self) {
        let ancestors = self.listed_ancestors(self.active.keys().copied());
        let leads_on = |shard_id: &ShardId| {
            let is_read = |lease: &Lease| !lease.is_finished();
            self.leases.contains_key(shard_id) || self.planned.get(shard_id).is_some_and(is_read)
        };
        let below = listed_below(self.listed, leads_on);
        let between: Vec<&'a Shard> = ancestors
            .iter()
            .filter(|shard_id| !leads_on(shard_id) && !self.done.contains(*shard_id))
            .filter(|shard_id| below.contains(*shard_id))
            .filter_map(|shard_id| self.shards.get(shard_id).copied())
            .collect();
        for shard in between {
            self.plan_child(shard, None);
        }
    }

    fn is_at_record(&self, shard_id: &ShardId) -> bool {
        matches!(self.named.get(shard_id), Some(ShardPosition::After { .. }))
    }

    /// Whether the shard is named, processed up to a record, and in neither stream nor table.
    fn is_named_and_unlisted(&self, shard_id: &ShardId) -> bool {
        self.is_at_record(shard_id)
            && !self.shards.contains_key(shard_id)
            && !self.leases.contains_key(shard_id)
    }

    fn children_of(&self, shard_id: &ShardId) -> impl Iterator<Item = &'a ShardId> + use<'a> {
        self.children.get(shard_id).cloned().unwrap_or_default().into_iter()
    }

    fn has_leased_descendant(&self, shard_id: &ShardId) -> bool {
        self.with_leased_descendant.contains(shard_id)
    }

    /// The listed ancestors of these shards.
    fn listed_ancestors(&self, shards: impl Iterator<Item = &'a ShardId>) -> BTreeSet<&'a ShardId> {
        let mut waiting: Vec<&ShardId> = shards.collect();
        let mut found = BTreeSet::new();
        while let Some(shard_id) = waiting.pop() {
            let parents = self.shards.get(shard_id).map(|shard| &shard.parents);
            for parent in parents.into_iter().flatten() {
                if let Some(parent) = self.shards.get(parent).copied()
                    && found.insert(&parent.shard_id)
                {
                    waiting.push(&parent.shard_id);
                }
            }
        }
        found
    }

    /// Whether a shard that counts as read has a child that has to start because of it.
    fn has_child_to_start(&self, shard_id: &ShardId) -> bool {
        self.children_of(shard_id).any(|child| {
            !self.active.contains_key(child)
                && !self.leases.contains_key(child)
                && !self.done.contains(child)
                && !self.planned.contains_key(child)
                && !self.has_leased_descendant(child)
        })
    }

    /// Walks up the ancestors of a shard, oldest first, with a stack of its own: a stream that is resharded by schedule has
    /// more generations than a thread has stack.
    fn visit(&mut self, shard: &'a Shard) {
        let mut path = vec![shard];
        while let Some(shard) = path.last().copied() {
            let shard_id = &shard.shard_id;
            if matches!(self.visited.get(shard_id), Some(Some(_))) {
                path.pop();
                continue;
            }
            if !self.visited.contains_key(shard_id) && self.is_settled(shard_id) {
                self.visited.insert(shard_id, Some(Ancestry::DESCENDANT));
                path.pop();
                continue;
            }
            self.visited.insert(shard_id, None);
            let next = shard.parents.iter().find_map(|parent| {
                self.shards.get(parent).copied().filter(|parent| !self.visited.contains_key(&parent.shard_id))
            });
            if let Some(parent) = next {
                path.push(parent);
            } else {
                let ancestry = self.combine_parents(shard);
                self.visited.insert(shard_id, Some(ancestry));
                path.pop();
            }
        }
    }

    fn is_settled(&self, shard_id: &ShardId) -> bool {
        self.leases.contains_key(shard_id)
            || self.planned.contains_key(shard_id)
            || self.done.contains(shard_id)
    }

    /// Visits the ancestors of a shard that has a lease.
    fn check_ancestors(&mut self, shard: &'a Shard) {
        for parent in &shard.parents {
            if let Some(parent) = self.shards.get(parent).copied() {
                self.visit(parent);
            }
        }
        self.combine_parents(shard);
    }

    /// How a shard is reached, once its parents are visited.
    fn combine_parents(&mut self, shard: &'a Shard) -> Ancestry {
        let mut parents = Vec::new();
        for parent_id in &shard.parents {
            if let Some(parent) = self.shards.get(parent_id).copied() {
                // A parent that is still being visited is its own ancestor, which no shard history has: do not wait for it.
                if let Some(ancestry) = self.visited.get(parent_id).copied().flatten() {
                    parents.push((Some(parent), ancestry));
                }
            } else if self.leases.contains_key(parent_id) || self.is_named_and_unlisted(parent_id) {
                // The stream no longer lists the parent, but the table or the named positions have it.
                parents.push((None, Ancestry::DESCENDANT));
            }
        }
        let is_followed = |ancestry: &Ancestry| ancestry.is_descendant || ancestry.is_oldest_of_lineage;
        if !parents.iter().any(|(_, ancestry)| is_followed(ancestry)) {
            let starts_at_oldest = match self.start_time {
                Some(start_time) => {
                    start_time.open_since.as_ref().is_none_or(|open| open.contains(&shard.shard_id))
                }
                None => *self.initial_position != InitialPosition::Latest,
            };
            return Ancestry { is_descendant: false, is_oldest_of_lineage: starts_at_oldest };
        }
        for (parent, ancestry) in parents {
            // A parent with a leased ancestor gets its lease when that ancestor ends.
            if let (Some(parent), false) = (parent, ancestry.is_descendant) {
                self.plan_start(parent);
            }
        }
        Ancestry::DESCENDANT
    }

    /// Plans the lease of a shard that starts at the initial position.
    fn plan_start(&mut self, shard: &'a Shard) {
        let position = self.initial_position.position();
        let millis = self.start_millis().filter(|_| position != Position::TrimHorizon);
        self.plan(shard, position, millis);
    }

    fn start_millis(&self) -> Option<u64> {
        self.start_time.map(|start_time| start_time.millis_since_1970)
    }

    fn plan(&mut self, shard: &'a Shard, position: Position, millis: Option<u64>) {
        if !self.leases.contains_key(&shard.shard_id) {
            let planned = self.planned.entry(&shard.shard_id);
            planned.or_insert_with(|| Lease { initial_time_millis: millis, ..new_lease(shard, position) });
        }
    }

    /// Plans the lease of a shard whose parents are read to their ends.
    fn plan_child(&mut self, shard: &'a Shard, parent_millis: Option<u64>) {
        let (position, millis) =
            start_of_child(*self.initial_position, !self.named.is_empty(), parent_millis);
        let millis = millis.or_else(|| self.start_millis().filter(|_| position == Position::AtTimestamp));
        self.plan(shard, position, millis);
    }

    /// Plans leases for the parents of a merge whose rows vanished before the child has begun.
    fn plan_unread_parents(&mut self, leases: &[Lease]) {
        // A named position up to a record implies that the ancestors are read.
        let named = self.named;
        let read = self.listed_ancestors(named.keys().filter(|shard_id| self.is_at_record(shard_id)));
        // Children of one parent may start at different instants: it is read from the earliest of them.
        let mut unread: BTreeMap<ShardId, Option<u64>> = BTreeMap::new();
        for (child, parents) in missing_parents(leases) {
            let child_millis = self.leases.get(&child).and_then(|lease| lease.initial_time_millis);
            for parent in parents.into_iter().filter(|parent| !read.contains(parent)) {
                let earliest = unread.entry(parent).or_insert(child_millis);
                *earliest = (*earliest).min(child_millis);
            }
        }
        for (shard_id, child_millis) in &unread {
            if let Some(shard) = self.shards.get(shard_id).copied() {
                let start_millis =
                    self.start_millis().filter(|_| *self.initial_position != InitialPosition::TrimHorizon);
                // A child that starts at an instant has that of its parents.
                self.plan_child(shard, child_millis.or(start_millis));
            }
        }
    }

    /// Plans leases for shards whose parents are all read to their ends, but which have none.
    fn plan_holes(&mut self, shards: &'a [Shard]) {
        for shard in shards {
            let rows: Vec<&Lease> = shard
                .parents
                .iter()
                .filter_map(|parent| {
                    let ended = || self.planned.get(parent).filter(|lease| lease.is_finished());
                    self.leases.get(parent).copied().or_else(ended)
                })
                .collect();
            // Parents that only the named positions have.
            let has_unlisted_parents = shard.parents.iter().any(|parent| self.is_named_and_unlisted(parent));
            // The other parent of a merge may get its lease from its own parents first.
            let is_awaited = |parent: &ShardId| {
                !self.leases.contains_key(parent)
                    && !self.planned.contains_key(parent)
                    && !self.done.contains(parent)
                    && self.shards.contains_key(parent)
            };
            if (has_unlisted_parents || !rows.is_empty())
                && !self.done.contains(&shard.shard_id)
                && rows.iter().all(|parent| parent.is_finished())
                && !shard.parents.iter().any(is_awaited)
                // Otherwise the shard was read to its end and its row deleted.
                && !self.has_leased_descendant(&shard.shard_id)
            {
                let instants: Option<Vec<u64>> =
                    rows.iter().map(|parent| parent.initial_time_millis).collect();
                let parent_millis = instants
                    .filter(|_| !has_unlisted_parents)
                    .and_then(|instants| instants.into_iter().min());
                self.plan_child(shard, parent_millis);
            }
        }
    }
}

#[cfg(test)]
mod tests;
