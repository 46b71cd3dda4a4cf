//! How a shard proceeds: the longest time that a step of it took, and the trend of its lag. Pure.
//!
//! Nothing here is a setting. A time is long if it is several times as long as those that were seen before.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The gaps kept for one kind of step.
const MAX_GAPS: usize = 8;

/// The measurements of the lag kept for one shard.
const MAX_POINTS: usize = 24;

/// The fewest measurements that show a trend.
const MIN_POINTS: usize = 6;

/// The measurements after which a lag without a trend counts as one that does not shrink.
const HELD_POINTS: usize = 12;

/// The newest times between two steps of one kind, such as two renewals, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gaps(VecDeque<u64>);

impl Gaps {
    pub(crate) fn push(&mut self, gap_millis: u64) {
        if self.0.len() == MAX_GAPS {
            self.0.pop_front();
        }
        self.0.push_back(gap_millis);
    }

    pub(crate) fn longest(&self) -> Option<u64> {
        self.0.iter().max().copied()
    }
}

/// One measurement of the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Point {
    at_millis: u64,
    behind_millis: u64,
}

/// The newest measurements of the lag, each at another position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LagPoints(VecDeque<Point>);

/// Where a lag goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trend {
    /// All newer measurements are above all older ones, or the lag is large and does not shrink.
    Growing,
    /// All newer measurements are below all older ones.
    Shrinking,
}

impl LagPoints {
    /// Adds a measurement. Older ones than the newest are ignored.
    pub(crate) fn push(&mut self, at_millis: u64, behind_millis: u64) {
        if self.newest_at().is_some_and(|newest| newest >= at_millis) {
            return;
        }
        if self.0.len() == MAX_POINTS {
            self.0.pop_front();
        }
        self.0.push_back(Point { at_millis, behind_millis });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn newest_at(&self) -> Option<u64> {
        self.0.back().map(|point| point.at_millis)
    }

    /// The trend of a lag that is larger than usual, given the trend so far. `None`: the lag is within the usual, or the
    /// measurements are too few.
    ///
    /// Two halves are compared as wholes, since a lag rises between two checkpoints and falls with each. A trend holds until
    /// the opposite one shows, or the lag is within the usual again.
    pub(crate) fn trend(&self, usual_millis: u64, so_far: Option<Trend>) -> Option<Trend> {
        let newest = self.0.back()?.behind_millis;
        if newest <= usual_millis {
            return None;
        }
        let behind: Vec<u64> = self.0.iter().map(|point| point.behind_millis).collect();
        if behind.len() < MIN_POINTS {
            return so_far;
        }
        // The newest few decide, so that a turn shows soon; a slow trend needs all.
        for count in [MIN_POINTS, HELD_POINTS, MAX_POINTS] {
            let Some(window) = behind.len().checked_sub(count).and_then(|from| behind.get(from..)) else {
                break;
            };
            let (older, newer) = window.split_at(count / 2);
            match (older.iter().min(), older.iter().max(), newer.iter().min(), newer.iter().max()) {
                (_, Some(highest_before), Some(lowest), _) if lowest > highest_before => {
                    return Some(Trend::Growing);
                }
                (Some(lowest_before), _, _, Some(highest)) if highest < lowest_before => {
                    return Some(Trend::Shrinking);
                }
                _ => {}
            }
        }
        let held = behind.len().checked_sub(HELD_POINTS).and_then(|from| behind.get(from..));
        let is_held = held.is_some_and(|held| held.iter().all(|behind| *behind > usual_millis));
        so_far.or(is_held.then_some(Trend::Growing))
    }

    /// When a lag that goes on as measured reaches a limit, in milliseconds from now; `None`: never, or not known.
    pub(crate) fn reaches(&self, limit_millis: u64, behind_millis: u64) -> Option<u64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let (passed, grown) = (
            last.at_millis.checked_sub(first.at_millis)?,
            last.behind_millis.checked_sub(first.behind_millis).filter(|grown| *grown > 0)?,
        );
        let left = u128::from(limit_millis.saturating_sub(behind_millis));
        let needed = left * u128::from(passed) / u128::from(grown);
        Some(u64::try_from(needed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(behind: impl IntoIterator<Item = u64>) -> LagPoints {
        let mut points = LagPoints::default();
        for (index, behind) in (1_u64..).zip(behind) {
            points.push(index * 10, behind);
        }
        points
    }

    #[test]
    fn trend_needs_all_newer_points_beyond_all_older() {
        assert_eq!(points([1, 2, 3, 4, 5]).trend(0, None), None, "too few");
        assert_eq!(points([1, 2, 3, 4, 5, 6]).trend(0, None), Some(Trend::Growing));
        assert_eq!(points([6, 5, 4, 3, 2, 1]).trend(0, None), Some(Trend::Shrinking));
        assert_eq!(points([1, 9, 3, 4, 5, 6]).trend(0, None), None, "a saw tooth");
        assert_eq!(points([1, 2, 3, 4, 5, 6]).trend(6, None), None, "within the usual");
    }

    #[test]
    fn trend_holds_until_the_opposite_shows() {
        let turning = points([7, 8, 9, 9, 8, 7]);
        assert_eq!(turning.trend(0, Some(Trend::Growing)), Some(Trend::Growing));
        assert_eq!(turning.trend(0, None), None);
        assert_eq!(points([9; HELD_POINTS]).trend(8, None), Some(Trend::Growing), "large and steady");
        assert_eq!(points([9; HELD_POINTS - 1]).trend(8, None), None);
    }

    #[test]
    fn growth_is_extrapolated() {
        // It grows by 30 in 30: from 40 to 100 it takes 60.
        assert_eq!(points([10, 20, 30, 40]).reaches(100, 40), Some(60));
        assert_eq!(points([40, 30]).reaches(100, 30), None);
        assert_eq!(points([1]).reaches(100, 1), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut gaps = Gaps::default();
        (0..100).for_each(|gap| gaps.push(gap));
        assert_eq!((gaps.0.len(), gaps.longest()), (MAX_GAPS, Some(99)));
        assert_eq!(points(0..100).0.len(), MAX_POINTS);
    }
}
