//! The fault modes of a proxy over time: a pure plan drawn from a seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::fault_mode::FaultMode;
use super::treatment::Treatment;

/// How long a fault lasts, in milliseconds: from less than the time between two renewals to the fail-over time of the runs.
const FAULT_MILLIS: std::ops::RangeInclusive<u64> = 800..=4000;

/// How long a fault lasts that blocks all bytes or all answers, or a slow link, in milliseconds. In some of the first, other
/// workers take the leases of the client before the held bytes arrive.
const LONG_FAULT_MILLIS: std::ops::RangeInclusive<u64> = 800..=9000;

/// How long the clear mode lasts between two faults, in milliseconds.
const CLEAR_MILLIS: std::ops::RangeInclusive<u64> = 1000..=3500;

/// A span of time with one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The index of this period in the plan.
    pub index: usize,
    /// When this period begins, since the start of the proxy.
    pub from: Duration,
    /// When this period ends; [`Duration::MAX`] for the last one.
    pub until: Duration,
    /// The mode.
    pub mode: FaultMode,
}

impl Period {
    /// Whether it is the last one.
    pub fn is_last(&self) -> bool {
        self.until == Duration::MAX
    }
}

/// All modes of a proxy over time. The last one never ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    seed: u64,
    /// Without gaps, from zero to [`Duration::MAX`]; never empty.
    periods: Vec<Period>,
}

impl Plan {
    /// A plan with a single mode.
    pub fn always(mode: FaultMode, seed: u64) -> Self {
        let period = Period { index: 0, from: Duration::ZERO, until: Duration::MAX, mode };
        Self { seed, periods: vec![period] }
    }

    /// These modes one after another, each for its time, and then the clear mode.
    pub fn in_turn(seed: u64, modes: &[(FaultMode, Duration)]) -> Self {
        let mut from = Duration::ZERO;
        let mut periods: Vec<Period> = Vec::new();
        for (mode, lasts) in modes {
            let until = from + *lasts;
            periods.push(Period { index: periods.len(), from, until, mode: *mode });
            from = until;
        }
        periods.push(Period { index: periods.len(), from, until: Duration::MAX, mode: FaultMode::Clear });
        Self { seed, periods }
    }

    /// Every kind of fault in turn, in an order that the seed decides. The mode is clear before, between, and from `length`
    /// on after the faults.
    pub fn draw(seed: u64, length: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (mut modes, mut until, mut deck) = (Vec::new(), Duration::ZERO, Vec::new());
        loop {
            if deck.is_empty() {
                deck.extend(FaultMode::FAULTS);
                rng.shuffle(&mut deck);
            }
            let Some(mode) = deck.pop() else { break };
            let lasts = if mode.may_last_long() { LONG_FAULT_MILLIS } else { FAULT_MILLIS };
            let [clear, fault] = [CLEAR_MILLIS, lasts].map(|range| Duration::from_millis(rng.u64(range)));
            until += clear + fault;
            if until > length {
                break;
            }
            modes.extend([(FaultMode::Clear, clear), (mode, fault)]);
        }
        Self::in_turn(seed, &modes)
    }

    /// The first period.
    pub fn first(&self) -> Period {
        self.periods[0]
    }

    /// The next period; the last one is followed by itself.
    pub fn after(&self, period: &Period) -> Period {
        self.periods[(period.index + 1).min(self.periods.len() - 1)]
    }

    /// The period at this time since the start.
    pub fn at(&self, since_start: Duration) -> Period {
        let index = self.periods.partition_point(|period| period.until <= since_start);
        self.periods[index.min(self.periods.len() - 1)]
    }

    /// The treatment of a connection in a period. It depends only on the seed, the period and the connection.
    pub fn treatment(&self, period: &Period, connection: u64) -> Treatment {
        // Spreads the numbers over all bits, so that adjacent connections get independent treatments.
        let spread = |number: u64, odd: u64| number.wrapping_add(1).wrapping_mul(odd);
        let mixed = self.seed
            ^ spread(period.index as u64, 0x9e37_79b9_7f4a_7c15)
            ^ spread(connection, 0xd1b5_4a32_d192_ed03);
        Treatment::draw(period.mode, &mut Rng::with_seed(mixed))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for period in self.periods.iter().filter(|period| period.mode != FaultMode::Clear) {
            let (from, until) = (period.from.as_secs_f64(), period.until.as_secs_f64());
            write!(formatter, "{} {from:.1}-{until:.1} s; ", period.mode)?;
        }
        formatter.write_str("then clear")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(600);

    #[test]
    fn same_seed_gives_the_same_plan_and_treatments() {
        let (one, same, other) = (Plan::draw(1, LENGTH), Plan::draw(1, LENGTH), Plan::draw(2, LENGTH));
        assert_eq!(one, same);
        assert_ne!(one.periods, other.periods);
        let treatments = |plan: &Plan| {
            let all =
                plan.periods.iter().flat_map(|period| (0..10).map(|number| plan.treatment(period, number)));
            all.collect::<Vec<_>>()
        };
        assert_eq!(treatments(&one), treatments(&same));
        assert_ne!(treatments(&one), treatments(&other));
    }

    #[test]
    fn periods_have_no_gap_and_the_last_one_is_clear() {
        for (seed, seconds) in (0..200).zip((0..600).step_by(3)) {
            let length = Duration::from_secs(seconds);
            let plan = Plan::draw(seed, length);
            let mut period = plan.first();
            assert_eq!((period.from, period.mode), (Duration::ZERO, FaultMode::Clear));
            while !period.is_last() {
                let next = plan.after(&period);
                assert_eq!((next.from, next.index), (period.until, period.index + 1));
                assert!(next.mode == FaultMode::Clear || next.until <= length, "{next:?} of {length:?}");
                assert_eq!(plan.at(period.until), next);
                assert_eq!(plan.at(next.from.saturating_sub(Duration::from_millis(1))), period);
                period = next;
            }
            assert_eq!(period.mode, FaultMode::Clear);
            assert_eq!(plan.after(&period), period);
        }
    }

    #[test]
    fn every_fault_occurs_before_one_repeats() {
        let plan = Plan::draw(7, LENGTH);
        let faults: Vec<FaultMode> =
            plan.periods.iter().map(|period| period.mode).filter(|mode| *mode != FaultMode::Clear).collect();
        assert!(faults.len() > 2 * FaultMode::FAULTS.len(), "{faults:?}");
        for round in faults.chunks_exact(FaultMode::FAULTS.len()) {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), FaultMode::FAULTS.len(), "{round:?}");
        }
    }
}
