//! How many leases each worker should have, and which leases move from the workers above their share to those below it.
//!
//! All workers that see the same leases compute the same distribution, and each carries out its own part of it. So workers
//! that plan at the same time do not conflict, and together they move as few leases as possible.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;
use lease_store::Lease;

use crate::assignment::fleet_view::{FleetView, Worker};
use crate::assignment::lease_observations::ObservedLease;

/// How many leases each worker should have, so that no two differ by more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// The fewest leases of any worker.
    pub(super) floor: usize,
    /// The most leases of any worker.
    pub(super) ceil: usize,
    /// How many workers have one lease more than `floor`.
    remainder: usize,
}

impl Shares {
    pub(super) fn new(work: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        Self { floor: work / workers, ceil: work.div_ceil(workers), remainder: work % workers }
    }

    /// How many leases each worker lacks up to the floor.
    pub(super) fn deficits(&self, loads: &[usize]) -> Vec<usize> {
        loads.iter().map(|load| self.floor.saturating_sub(*load)).collect()
    }

    /// The load above which a worker gives leases away; each such move brings the fleet closer to balance. It is the floor
    /// if the workers below the floor lack more leases than lie above the ceil. `None`: no worker has too many.
    pub(super) fn donor_threshold(&self, loads: &[usize]) -> Option<usize> {
        let lacking: usize = self.deficits(loads).iter().sum();
        let beyond: usize = loads.iter().map(|load| load.saturating_sub(self.ceil)).sum();
        match (lacking, beyond) {
            (0, 0) => None,
            _ if lacking > beyond => Some(self.floor),
            _ => Some(self.ceil),
        }
    }

    /// How many leases each worker should end up with. The fullest workers keep one more than the floor, which needs the
    /// fewest moves.
    pub(super) fn targets(&self, loads: &[usize]) -> Vec<usize> {
        let mut fullest_first: Vec<usize> = (0..loads.len()).collect();
        fullest_first.sort_unstable_by_key(|worker| (Reverse(loads[*worker]), *worker));
        let mut targets = vec![self.floor; loads.len()];
        for worker in fullest_first.into_iter().take(self.remainder) {
            targets[worker] += 1;
        }
        targets
    }
}

/// The part of `available` leases that one worker gets when all workers are served in order, each up to its need.
///
/// After some workers have taken a part of theirs, a new distribution gives each worker the rest of the same part.
pub(super) fn part_of(worker: usize, needs: &[usize], available: usize) -> Range<usize> {
    let start = needs[..worker].iter().sum::<usize>().min(available);
    start..(start + needs[worker]).min(available)
}

/// A worker that leases move away from.
struct Donor<'a> {
    load: usize,
    weight: u64,
    /// How many leases it can lose and still have its share.
    surplus: usize,
    /// The leases that can be requested from it, by weight. Of equal weights the last one goes first.
    movable: BTreeMap<u64, Vec<&'a Lease>>,
}

impl<'a> Donor<'a> {
    fn new(load: usize, weight: u64, surplus: usize, movable: &[ObservedLease<'a>]) -> Self {
        let mut by_weight: BTreeMap<u64, Vec<&Lease>> = BTreeMap::new();
        for observed in movable {
            by_weight.entry(observed.weight).or_default().push(observed.lease);
        }
        for leases in by_weight.values_mut() {
            leases.sort_unstable_by(|left, right| right.shard_id.cmp(&left.shard_id));
        }
        Self { load, weight, surplus, movable: by_weight }
    }

    /// Removes the lease that brings the weights of donor and receiver closest together: one of half their difference.
    /// `choose` picks among leases of the same weight.
    fn give(
        &mut self,
        receiver_weight: u64,
        choose: impl FnOnce(usize) -> usize,
    ) -> Option<(u64, &'a Lease)> {
        let wanted = self.weight.saturating_sub(receiver_weight) / 2;
        let lighter = self.movable.range(..=wanted).next_back().map(|(weight, _)| *weight);
        let heavier = self.movable.range(wanted..).next().map(|(weight, _)| *weight);
        let weight = [lighter, heavier].into_iter().flatten().min_by_key(|weight| weight.abs_diff(wanted))?;
        let leases = self.movable.get_mut(&weight)?;
        let lease = leases.swap_remove(choose(leases.len()));
        if leases.is_empty() {
            self.movable.remove(&weight);
        }
        self.surplus = self.surplus.saturating_sub(1);
        self.weight = self.weight.saturating_sub(weight);
        Some((weight, lease))
    }
}

/// Distributes the surplus of the workers above their targets to those below theirs. Returns the part of one receiver: the
/// leases it should request, those of the fullest donors first.
pub(super) fn surplus_for<'a>(
    receiver: usize,
    fleet: &FleetView<'a>,
    targets: &[usize],
    needs: &[usize],
) -> Vec<&'a Lease> {
    let mut donors = donors(fleet, targets);
    let Some(mut donor) = donors.next() else { return Vec::new() };
    let mut moves = Vec::new();
    for (index, need) in needs.iter().enumerate().take(receiver + 1) {
        let mut weight = fleet.workers[fleet.order[index]].weight;
        for _ in 0..*need {
            while donor.surplus == 0 {
                let Some(next) = donors.next() else { return fullest_first(moves) };
                donor = next;
            }
            // All workers have to compute the same distribution, so the choice is not random.
            let Some((moved, lease)) = donor.give(weight, |count| count - 1) else { break };
            weight = weight.saturating_add(moved);
            if index == receiver {
                moves.push((donor.load, lease));
            }
        }
    }
    fullest_first(moves)
}

/// A random lease of a random worker with more than `threshold` leases, for a worker that the others cannot see yet.
/// The choice is random so that several such workers choose different leases.
pub(super) fn random_move<'a>(fleet: &FleetView<'a>, threshold: usize, rng: &mut Rng) -> Option<&'a Lease> {
    let workers = fleet.order.iter().map(|index| &fleet.workers[*index]);
    let donors: Vec<&Worker<'_>> =
        workers.filter(|worker| worker.load > threshold && !worker.movable.is_empty()).collect();
    let donor = rng.choice(donors)?;
    let mut donor = Donor::new(donor.load, donor.weight, 1, &donor.movable);
    donor.give(0, |count| rng.usize(..count)).map(|(_, lease)| lease)
}

fn donors<'f, 'a>(fleet: &'f FleetView<'a>, targets: &'f [usize]) -> impl Iterator<Item = Donor<'a>> + 'f {
    fleet.order.iter().zip(targets).filter_map(|(index, target)| {
        let worker = &fleet.workers[*index];
        let surplus = worker.load.saturating_sub(*target).min(worker.movable.len());
        (surplus > 0).then(|| Donor::new(worker.load, worker.weight, surplus, &worker.movable))
    })
}

fn fullest_first(mut moves: Vec<(usize, &Lease)>) -> Vec<&Lease> {
    moves.sort_by_key(|(load, _)| Reverse(*load));
    moves.into_iter().map(|(_, lease)| lease).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_workers_keep_the_remainder() {
        let shares = Shares::new(10, 4);
        assert_eq!((shares.floor, shares.ceil), (2, 3));
        assert_eq!(shares.targets(&[0, 5, 3, 2]), [2, 3, 3, 2]);
        assert_eq!(shares.targets(&[2, 2, 3, 3]), [2, 2, 3, 3], "balanced");
        assert_eq!(shares.deficits(&[0, 5, 1, 2]), [2, 0, 1, 0]);
    }

    #[test]
    fn the_parts_of_the_workers_do_not_overlap() {
        let needs = [2, 0, 3, 1];
        let parts = |available| (0..4).map(|worker| part_of(worker, &needs, available)).collect::<Vec<_>>();
        assert_eq!(parts(9), [0..2, 2..2, 2..5, 5..6]);
        assert_eq!(parts(3), [0..2, 2..2, 2..3, 3..3]);
    }
}
