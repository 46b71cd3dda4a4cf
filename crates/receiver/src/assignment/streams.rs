//! One plan for the leases of several streams: pure.
//!
//! The planner of one stream sees shards, and balances them. So the leases of all streams are numbered in the order of
//! stream and shard, which is the same for every worker, and planned as those of one stream. Each stream carries out its part.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use fastrand::Rng;
use lease_store::{Lease, ShardId, WorkerId};

use crate::assignment::fleet_view::{AssignmentLimits, Holdings};
use crate::assignment::lease_observations::ObservedLease;
use crate::assignment::plan_assignment;
use crate::assignment::unread::shards_without_worker;

/// The weight of a lease when the throughput of no lease is known.
const DEFAULT_WEIGHT: u64 = 1;

/// The leases of one stream, and those that this worker holds and has requested.
#[derive(Debug)]
pub(crate) struct StreamRows<'a> {
    /// The key of the stream, the same in all workers.
    pub(crate) key: &'a str,
    pub(crate) leases: Vec<ObservedLease<'a>>,
    pub(crate) held: &'a HashSet<ShardId>,
    pub(crate) requested: &'a HashSet<ShardId>,
}

/// The part of a plan that belongs to one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamPart {
    pub(crate) take: Vec<ShardId>,
    pub(crate) request: Vec<ShardId>,
    /// The shards that no worker reads, as this worker sees them at its `max_leases`.
    pub(crate) unread: Vec<ShardId>,
}

/// A plan for all streams.
#[derive(Debug, Default)]
pub(crate) struct StreamsPlan {
    /// The parts, by the key of the stream. A stream without a part has nothing to do.
    pub(crate) parts: BTreeMap<String, StreamPart>,
    /// The plan stays below this worker's share: it should plan again soon.
    pub(crate) is_partial: bool,
}

/// Plans for the streams of a worker together. `streams` are in the order of their keys.
pub(crate) fn plan_streams(
    streams: &[StreamRows<'_>],
    worker_id: &WorkerId,
    limits: AssignmentLimits,
    rng: &mut Rng,
) -> StreamsPlan {
    let numbering = Numbering::new(streams);
    let leases = numbering.leases(streams);
    let observed = numbering.observed(streams, &leases);
    let ids_of = |chosen: fn(&StreamRows<'_>) -> HashSet<ShardId>| -> HashSet<ShardId> {
        let each = streams.iter().enumerate();
        each.flat_map(|(stream, rows)| chosen(rows).into_iter().map(move |shard_id| (stream, shard_id)))
            .map(|(stream, shard_id)| numbering.id_of(stream, &shard_id))
            .collect()
    };
    let held = ids_of(|rows| rows.held.clone());
    let requested = ids_of(|rows| rows.requested.clone());
    let holdings = Holdings { worker_id, held: &held, requested: &requested };
    let unread = shards_without_worker(&observed, &holdings, &limits);
    let plan = plan_assignment(&observed, &holdings, limits, rng);
    let mut parts: BTreeMap<String, StreamPart> = BTreeMap::new();
    let mut add = |id: &ShardId, to: fn(&mut StreamPart) -> &mut Vec<ShardId>| {
        if let Some((stream, shard_id)) = numbering.shard_of(id) {
            to(parts.entry(streams[stream].key.to_owned()).or_default()).push(shard_id.clone());
        }
    };
    plan.take.iter().for_each(|lease| add(&lease.shard_id, |part| &mut part.take));
    plan.request.iter().for_each(|lease| add(&lease.shard_id, |part| &mut part.request));
    unread.iter().for_each(|id| add(id, |part| &mut part.unread));
    StreamsPlan { parts, is_partial: plan.is_partial }
}

/// A number for each shard of each stream, as an id that the planner sorts like the number.
struct Numbering<'a> {
    /// The stream and the shard of each number.
    shards: Vec<(usize, &'a ShardId)>,
    numbers: HashMap<(usize, &'a ShardId), u64>,
}

impl<'a> Numbering<'a> {
    /// Numbers the listed shards first, in order, and then those that are held or requested without a row.
    fn new(streams: &'a [StreamRows<'_>]) -> Self {
        let mut numbering = Self { shards: Vec::new(), numbers: HashMap::new() };
        for (stream, rows) in streams.iter().enumerate() {
            let mut listed: Vec<&ShardId> =
                rows.leases.iter().map(|observed| &observed.lease.shard_id).collect();
            listed.sort_unstable();
            listed.into_iter().for_each(|shard_id| numbering.add(stream, shard_id));
        }
        for (stream, rows) in streams.iter().enumerate() {
            let without_row = rows.held.iter().chain(rows.requested);
            without_row.for_each(|shard_id| numbering.add(stream, shard_id));
        }
        numbering
    }

    fn add(&mut self, stream: usize, shard_id: &'a ShardId) {
        let number = self.shards.len() as u64;
        if let Entry::Vacant(entry) = self.numbers.entry((stream, shard_id)) {
            entry.insert(number);
            self.shards.push((stream, shard_id));
        }
    }

    fn id_of(&self, stream: usize, shard_id: &ShardId) -> ShardId {
        ShardId::numbered(self.numbers.get(&(stream, shard_id)).copied().unwrap_or(u64::MAX))
    }

    fn shard_of(&self, id: &ShardId) -> Option<(usize, &'a ShardId)> {
        let number = id.as_str().rsplit('-').next()?.parse::<usize>().ok()?;
        self.shards.get(number).copied()
    }

    /// The leases under their numbers. A parent without a row keeps no child back, so it is left out.
    fn leases(&self, streams: &[StreamRows<'_>]) -> Vec<Lease> {
        let numbered = |stream: usize, lease: &Lease| {
            let parents = lease.parents.iter().filter_map(|parent| self.numbers.get(&(stream, parent)));
            Lease {
                shard_id: self.id_of(stream, &lease.shard_id),
                parents: parents.map(|number| ShardId::numbered(*number)).collect(),
                ..lease.clone()
            }
        };
        let each = streams.iter().enumerate();
        each.flat_map(|(stream, rows)| rows.leases.iter().map(move |observed| (stream, observed.lease)))
            .map(|(stream, lease)| numbered(stream, lease))
            .collect()
    }

    /// The observations of the leases, with weights that are comparable over all streams.
    fn observed<'l>(&self, streams: &[StreamRows<'_>], leases: &'l [Lease]) -> Vec<ObservedLease<'l>> {
        let known: Vec<u64> = leases.iter().filter_map(|lease| lease.throughput_bytes_per_second).collect();
        let average = known.iter().sum::<u64>().checked_div(known.len() as u64).unwrap_or(DEFAULT_WEIGHT);
        let rows = streams.iter().flat_map(|rows| &rows.leases);
        rows.zip(leases)
            .map(|(observed, lease)| ObservedLease {
                lease,
                unchanged_for: observed.unchanged_for,
                owned_for: observed.owned_for,
                requested_for: observed.requested_for,
                weight: lease.throughput_bytes_per_second.unwrap_or(average),
                is_of_namesake: observed.is_of_namesake,
                is_paused: observed.is_paused,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use lease_store::Position;
    use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};
    use tokio::time::Duration;

    use super::*;

    const LIMITS: AssignmentLimits = AssignmentLimits {
        failover_time: Duration::from_secs(10),
        hand_over_time: Duration::from_secs(20),
        drain_time: Duration::from_secs(30),
        max_leases: usize::MAX,
        max_moves: 8,
        max_takes: 256,
    };

    fn worker(index: usize) -> WorkerId {
        WorkerId::new(format!("worker-{index:02}")).unwrap()
    }

    /// The table: for each stream its leases. All streams number their shards from 0.
    fn table(shards: &[usize]) -> Vec<(String, Vec<Lease>)> {
        let lease = |number: usize| Lease::unowned(ShardId::numbered(number as u64), Position::TrimHorizon);
        let stream = |(index, count): (usize, &usize)| {
            (format!("1:stream-{index:03}:7"), (0..*count).map(lease).collect())
        };
        shards.iter().enumerate().map(stream).collect()
    }

    fn observe(lease: &Lease) -> ObservedLease<'_> {
        ObservedLease {
            lease,
            unchanged_for: Duration::ZERO,
            owned_for: None,
            requested_for: Duration::ZERO,
            weight: 1,
            is_of_namesake: false,
            is_paused: false,
        }
    }

    fn owned_by(leases: &[Lease], owner: &WorkerId) -> HashSet<ShardId> {
        let owned = leases.iter().filter(|lease| lease.is_owned_by(owner));
        owned.map(|lease| lease.shard_id.clone()).collect()
    }

    /// A plan at a time when all free leases have been free for long.
    fn plan_of_abandoned(table: &[(String, Vec<Lease>)], me: &WorkerId, seed: u64) -> StreamsPlan {
        let observe = |lease| {
            let observed = observe(lease);
            let unchanged_for = if lease.owner.is_none() { LIMITS.failover_time * 9 } else { Duration::ZERO };
            ObservedLease { unchanged_for, ..observed }
        };
        plan_as_observed(table, me, LIMITS, seed, observe)
    }

    fn plan(
        table: &[(String, Vec<Lease>)],
        me: &WorkerId,
        limits: AssignmentLimits,
        seed: u64,
    ) -> StreamsPlan {
        plan_as_observed(table, me, limits, seed, observe)
    }

    fn plan_as_observed<'a>(
        table: &'a [(String, Vec<Lease>)],
        me: &WorkerId,
        limits: AssignmentLimits,
        seed: u64,
        observe: impl Fn(&'a Lease) -> ObservedLease<'a>,
    ) -> StreamsPlan {
        let held: Vec<HashSet<ShardId>> = table.iter().map(|(_, leases)| owned_by(leases, me)).collect();
        let none = HashSet::new();
        let rows: Vec<StreamRows<'_>> = table
            .iter()
            .zip(&held)
            .map(|((key, leases), held)| StreamRows {
                key,
                leases: leases.iter().map(&observe).collect(),
                held,
                requested: &none,
            })
            .collect();
        plan_streams(&rows, me, limits, &mut Rng::with_seed(seed))
    }

    /// Carries out a plan at once: a requested lease is handed over. Of two takers the first one wins.
    fn carry_out(table: &mut [(String, Vec<Lease>)], me: &WorkerId, plan: &StreamsPlan) {
        for (key, leases) in table {
            let Some(part) = plan.parts.get(key) else { continue };
            for lease in leases {
                let is_taken = lease.owner.is_none() && part.take.contains(&lease.shard_id);
                if is_taken || part.request.contains(&lease.shard_id) {
                    lease.owner = Some(me.clone());
                }
            }
        }
    }

    fn loads(table: &[(String, Vec<Lease>)], workers: usize) -> Vec<usize> {
        let load = |index| table.iter().map(|(_, leases)| owned_by(leases, &worker(index)).len()).sum();
        (0..workers).map(load).collect()
    }

    #[test]
    fn streams_of_one_shard_each_spread_over_the_workers() {
        let mut table = table(&[1; 6]);
        for round in 0..12 {
            for index in 0..3 {
                let plan = plan(&table, &worker(index), LIMITS, round * 3 + index as u64);
                carry_out(&mut table, &worker(index), &plan);
            }
        }
        assert_eq!(loads(&table, 3), [2, 2, 2]);
    }

    #[test]
    fn equal_shard_ids_of_two_streams_are_apart() {
        let mut table = table(&[2, 2]);
        table[0].1[0].owner = Some(worker(0));
        // The child of the first stream waits for its parent, and that of the second one does not.
        table[0].1[1].parents = [ShardId::numbered(0)].into();
        table[1].1[1].parents = [ShardId::numbered(0)].into();
        table[1].1[0].checkpoint = Position::ShardEnd;
        let plan = plan(&table, &worker(0), LIMITS, 1);
        assert_eq!(plan.parts.len(), 1);
        assert_eq!(plan.parts["1:stream-001:7"].take, [ShardId::numbered(1)]);
    }

    #[test]
    fn the_maximum_counts_over_all_streams() {
        let mut table = table(&[3, 3]);
        let limits = AssignmentLimits { max_leases: 4, ..LIMITS };
        for seed in 0..9 {
            let plan = plan(&table, &worker(0), limits, seed);
            carry_out(&mut table, &worker(0), &plan);
        }
        assert_eq!(loads(&table, 1), [4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the streams, and whichever parts are carried out late, the loads differ by at most one in the end.
        #[test]
        fn workers_balance_over_all_streams(
            shards in prop::collection::vec(0..6usize, 1..12),
            workers in 1..6usize,
            seed in 0..u64::MAX,
        ) {
            let mut table = table(&shards);
            let mut rng = Rng::with_seed(seed);
            for _ in 0..60 {
                // All workers plan on the same table, and carry out their plans in any order.
                let mut plans: Vec<(usize, StreamsPlan)> =
                    (0..workers).map(|index| (index, plan(&table, &worker(index), LIMITS, rng.u64(..)))).collect();
                rng.shuffle(&mut plans);
                for (index, mut plan) in plans {
                    plan.parts.retain(|_, _| rng.u8(..4) > 0);
                    carry_out(&mut table, &worker(index), &plan);
                }
            }
            let loads = loads(&table, workers);
            prop_assert_eq!(loads.iter().sum::<usize>(), shards.iter().sum::<usize>());
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", loads);
        }

        /// Workers with different lists of streams read all of them together, and then move nothing: a worker sees the whole
        /// load of its own and a part of that of the others, so it requests leases only from workers that have more than it.
        #[test]
        fn workers_with_different_lists_settle(
            shards in prop::collection::vec(0..6usize, 1..8),
            lists in prop::collection::vec(prop::collection::vec(prop::bool::ANY, 8), 1..6),
            seed in 0..u64::MAX,
        ) {
            let mut table = table(&shards);
            let mut rng = Rng::with_seed(seed);
            let part = |table: &[(String, Vec<Lease>)], list: &[bool]| -> Vec<(String, Vec<Lease>)> {
                table.iter().zip(list).filter(|(_, is_listed)| **is_listed).map(|(stream, _)| stream.clone()).collect()
            };
            let mut settled = 0;
            for _ in 0..120 {
                let plans = lists.iter().enumerate().map(|(index, list)| {
                    (index, plan_of_abandoned(&part(&table, list), &worker(index), rng.u64(..)))
                });
                let mut plans: Vec<(usize, StreamsPlan)> = plans.collect();
                rng.shuffle(&mut plans);
                let is_empty = plans.iter().all(|(_, plan)| plan.parts.is_empty());
                settled = if is_empty { settled + 1 } else { 0 };
                for (index, plan) in plans {
                    carry_out(&mut table, &worker(index), &plan);
                }
            }
            prop_assert!(settled >= 20, "the fleet moves leases for ever: {:?}", loads(&table, lists.len()));
            for (stream, (key, leases)) in table.iter().enumerate() {
                let is_listed = lists.iter().any(|list| list[stream]);
                prop_assert!(leases.iter().all(|lease| lease.owner.is_some() == is_listed), "{}", key);
            }
        }

        /// The plan of one stream is the plan that it would get alone.
        #[test]
        fn one_stream_is_planned_as_before(count in 1..30usize, owners in prop::collection::vec(0..4usize, 30), seed in 0..u64::MAX) {
            let mut table = table(&[count]);
            for (lease, owner) in table[0].1.iter_mut().zip(owners) {
                lease.owner = (owner < 3).then(|| worker(owner));
            }
            let leases = table[0].1.clone();
            let observed: Vec<ObservedLease<'_>> = leases.iter().map(observe).collect();
            let (me, held, none) = (worker(0), owned_by(&leases, &worker(0)), HashSet::new());
            let holdings = Holdings { worker_id: &me, held: &held, requested: &none };
            let alone = plan_assignment(&observed, &holdings, LIMITS, &mut Rng::with_seed(seed));
            let together = plan(&table, &me, LIMITS, seed);
            let part = together.parts.get("1:stream-000:7").cloned().unwrap_or_default();
            let ids = |leases: &[&Lease]| leases.iter().map(|lease| lease.shard_id.clone()).collect::<Vec<_>>();
            prop_assert_eq!(part.take, ids(&alone.take));
            prop_assert_eq!(part.request, ids(&alone.request));
            prop_assert_eq!(together.is_partial, alone.is_partial);
        }
    }
}
