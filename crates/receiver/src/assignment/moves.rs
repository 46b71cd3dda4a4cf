//! Which leases move from workers that have too many to those that have too few.

use std::collections::BTreeMap;

use fastrand::Rng;
use lease_store::Lease;

use super::ObservedLease;
use super::fleet::{FleetView, Worker};

/// A worker that gives leases away.
struct Donor<'a> {
    load: usize,
    weight: u64,
    /// How many it can give away and still have its share.
    surplus: usize,
    /// What it can be asked for, by weight; of equal weight the last ones go first.
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

    /// Gives away the lease that brings the weights of giver and receiver closest: of a difference, half has to move.
    /// `choose` is asked which one of several that are equally good.
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

/// Deals the surplus of those above their target to those below theirs, and yields the part of one receiver: what it
/// should ask for, the leases of the fullest donors first.
pub(super) fn moves_for<'a>(
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
            // Everybody has to come to the same deal, so nothing is left to chance here.
            let Some((moved, lease)) = donor.give(weight, |count| count - 1) else { break };
            weight = weight.saturating_add(moved);
            if index == receiver {
                moves.push((donor.load, lease));
            }
        }
    }
    fullest_first(moves)
}

/// One lease of any worker with more than `least`, for a worker of whom the others do not know yet. It is left to
/// chance, so that of many such workers each gets one.
pub(super) fn any_move<'a>(fleet: &FleetView<'a>, least: usize, rng: &mut Rng) -> Option<&'a Lease> {
    let workers = fleet.order.iter().map(|index| &fleet.workers[*index]);
    let donors: Vec<&Worker<'_>> =
        workers.filter(|worker| worker.load > least && !worker.movable.is_empty()).collect();
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
    moves.sort_by_key(|(load, _)| std::cmp::Reverse(*load));
    moves.into_iter().map(|(_, lease)| lease).collect()
}
