//! Who should have how many leases, and which part of what is to be had is whose: numbers only.
//!
//! Every worker that sees the same leases works out the same deal and carries out its own part of it. So workers that
//! look at the same time do not get into each other's way, and together they move no more than has to move.

use std::cmp::Reverse;
use std::ops::Range;

/// How many leases each worker should have, so that no two differ by more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// The least, and the share of most.
    pub(super) floor: usize,
    /// The most.
    pub(super) ceil: usize,
    /// How many workers have one more than the floor.
    remainder: usize,
}

impl Shares {
    pub(super) fn new(work: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        Self { floor: work / workers, ceil: work.div_ceil(workers), remainder: work % workers }
    }

    /// How many each worker lacks up to the floor.
    pub(super) fn deficits(&self, loads: &[usize]) -> Vec<usize> {
        loads.iter().map(|load| self.floor.saturating_sub(*load)).collect()
    }

    /// A worker that gets a lease from one with more than this brings the fleet closer to balance, whichever it is:
    /// workers below the floor may be served by all above it, unless there are more leases above the ceil to place.
    /// `None`: nobody has too many.
    pub(super) fn least_of_donors(&self, loads: &[usize]) -> Option<usize> {
        let lacking: usize = self.deficits(loads).iter().sum();
        let beyond: usize = loads.iter().map(|load| load.saturating_sub(self.ceil)).sum();
        match (lacking, beyond) {
            (0, 0) => None,
            _ if lacking > beyond => Some(self.floor),
            _ => Some(self.ceil),
        }
    }

    /// How many each worker should have in the end. The fullest keep one more than the floor: then the least has to
    /// move.
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

/// The part of `available` things that one worker gets when all are served in turn, each with what it needs.
///
/// When some of the workers have taken a part of theirs, the deal of what is left gives everybody the rest of the same.
pub(super) fn part_of(worker: usize, needs: &[usize], available: usize) -> Range<usize> {
    let start = needs[..worker].iter().sum::<usize>().min(available);
    start..(start + needs[worker]).min(available)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_keep_what_is_left_over() {
        let shares = Shares::new(10, 4);
        assert_eq!((shares.floor, shares.ceil), (2, 3));
        assert_eq!(shares.targets(&[0, 5, 3, 2]), [2, 3, 3, 2]);
        assert_eq!(shares.targets(&[2, 2, 3, 3]), [2, 2, 3, 3], "at rest");
        assert_eq!(shares.deficits(&[0, 5, 1, 2]), [2, 0, 1, 0]);
    }

    #[test]
    fn everybody_has_a_part_of_its_own() {
        let needs = [2, 0, 3, 1];
        let parts = |available| (0..4).map(|worker| part_of(worker, &needs, available)).collect::<Vec<_>>();
        assert_eq!(parts(9), [0..2, 2..2, 2..5, 5..6]);
        assert_eq!(parts(3), [0..2, 2..2, 2..3, 3..3]);
    }
}
