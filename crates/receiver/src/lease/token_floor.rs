//! The least lease counter of the next take: it grows with time, so that fencing tokens never go back. Pure.

use std::time::{Duration, SystemTime};

use lease_store::Lease;

/// The largest floor. Up to here a counter is exact in every JSON parser, and far below the `long` of a KCL worker. As
/// microseconds since 1970 it is the year 2255.
const MAX_FLOOR: u64 = 1 << 53;

/// The floor of the counters of the next takes: microseconds since 1970 by the clock of the stream, and above every counter
/// that this worker has seen.
///
/// A lease is written less than once in a microsecond, so its counter stays behind the clock. A table that is deleted and
/// created anew, or restored from a backup, counts from a smaller number; the next take lifts the counter above those of the
/// earlier table. The time decides nothing about ownership: it only makes a number larger.
#[derive(Debug, Default)]
pub(crate) struct TokenFloor {
    highest_seen: u64,
}

impl TokenFloor {
    /// Notes the counters of the leases.
    pub(crate) fn observe(&mut self, leases: &[Lease]) {
        let credible = leases.iter().map(|lease| lease.counter).filter(|counter| *counter < MAX_FLOOR);
        self.highest_seen = credible.max().unwrap_or(0).max(self.highest_seen);
    }

    /// The floor at this time by the clock of the stream. Without a clock, only the counters seen count.
    pub(crate) fn at(&self, now: Option<SystemTime>) -> u64 {
        let since_1970 = now.and_then(|now| now.duration_since(SystemTime::UNIX_EPOCH).ok());
        let micros = since_1970.as_ref().map_or(0, Duration::as_micros);
        let by_clock = u64::try_from(micros).unwrap_or(u64::MAX);
        by_clock.max(self.highest_seen.saturating_add(1)).min(MAX_FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{Position, ShardId};
    use proptest::prelude::*;

    use super::*;

    fn lease(counter: u64) -> Lease {
        Lease { counter, ..Lease::unowned(ShardId::numbered(0), Position::TrimHorizon) }
    }

    fn at_micros(micros: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn the_floor_is_the_time_in_microseconds_or_above_all_seen() {
        let mut floor = TokenFloor::default();
        assert_eq!(
            (floor.at(None), floor.at(Some(at_micros(1_764_000_000_000_000)))),
            (1, 1_764_000_000_000_000)
        );
        floor.observe(&[lease(41), lease(7)]);
        assert_eq!(
            (floor.at(None), floor.at(Some(at_micros(5))), floor.at(Some(at_micros(50)))),
            (42, 42, 50)
        );
        floor.observe(&[lease(9)]);
        assert_eq!(floor.at(None), 42, "the table may be another one");
        floor.observe(&[lease(u64::MAX)]);
        assert_eq!(floor.at(None), 42, "no worker has counted that far");
    }

    proptest! {
        /// Each life of the table starts at 0. Takes come at any times, renewals in between less than once in a microsecond.
        #[test]
        fn tokens_grow_over_the_lives_of_a_table(
            lives in prop::collection::vec(prop::collection::vec((2_u64..10_000_000, any::<u16>()), 1..6), 1..5),
            first in 0_u64..(1 << 52),
        ) {
            let (mut now, mut last) = (first, 0);
            for takes in lives {
                let mut counter = 0;
                for (pause, writes) in takes {
                    now += pause;
                    // A worker that has just started has seen this row only.
                    let mut floor = TokenFloor::default();
                    floor.observe(&[lease(counter)]);
                    let token = floor.at(Some(at_micros(now))).max(counter + 1);
                    prop_assert!(token > last, "{token} after {last}");
                    prop_assert!(token < 1 << 63);
                    last = token;
                    let writes = u64::from(writes);
                    now += writes;
                    counter = token + writes;
                }
            }
        }
    }
}
