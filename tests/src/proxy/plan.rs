//! Which mood a proxy is in at which time: pure, drawn from a seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::fate::Fate;

/// How long faults last, in milliseconds: some shorter than the time between two renewals, some as long as the fail-over
/// time of the runs.
const FAULT_MILLIS: std::ops::RangeInclusive<u64> = 800..=4000;

/// How long those last that let nothing through, or no answer: some so long that others take over what the client had, and
/// what was held arrives after that.
const LONG_FAULT_MILLIS: std::ops::RangeInclusive<u64> = 800..=9000;

/// How long it is clear between two faults, in milliseconds.
const CLEAR_MILLIS: std::ops::RangeInclusive<u64> = 1000..=3500;

/// How a proxy treats the connections; what each means stands in the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // named in the module's table
pub enum Mood {
    Clear,
    Slow,
    Throttled,
    CutAtOnce,
    CutInRequests,
    CutInAnswers,
    LostAnswers,
    SwallowedAnswers,
    HalfClosedUp,
    HalfClosedDown,
    Silent,
    Refused,
}

impl Mood {
    /// All but [`Clear`](Self::Clear).
    pub const FAULTS: [Self; 11] = [
        Self::Slow,
        Self::Throttled,
        Self::CutAtOnce,
        Self::CutInRequests,
        Self::CutInAnswers,
        Self::LostAnswers,
        Self::SwallowedAnswers,
        Self::HalfClosedUp,
        Self::HalfClosedDown,
        Self::Silent,
        Self::Refused,
    ];

    fn lets_nothing_through(self) -> bool {
        matches!(self, Self::SwallowedAnswers | Self::Silent | Self::Refused)
    }
}

impl fmt::Display for Mood {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Clear => "clear",
            Self::Slow => "slow",
            Self::Throttled => "throttled",
            Self::CutAtOnce => "cut at once",
            Self::CutInRequests => "cut in requests",
            Self::CutInAnswers => "cut in answers",
            Self::LostAnswers => "lost answers",
            Self::SwallowedAnswers => "swallowed answers",
            Self::HalfClosedUp => "half closed up",
            Self::HalfClosedDown => "half closed down",
            Self::Silent => "silent",
            Self::Refused => "refused",
        })
    }
}

/// A stretch of time in one mood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its number in the plan.
    pub index: usize,
    /// When it begins, from the start of the proxy on.
    pub from: Duration,
    /// When it ends; [`Duration::MAX`] for the last one.
    pub until: Duration,
    /// The mood.
    pub mood: Mood,
}

impl Period {
    /// Whether no other follows.
    pub fn is_last(&self) -> bool {
        self.until == Duration::MAX
    }
}

/// All moods of a proxy over time. The last one lasts for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    seed: u64,
    /// Without gaps, from zero to [`Duration::MAX`]; never empty.
    periods: Vec<Period>,
}

impl Plan {
    /// One mood for ever.
    pub fn always(mood: Mood, seed: u64) -> Self {
        let period = Period { index: 0, from: Duration::ZERO, until: Duration::MAX, mood };
        Self { seed, periods: vec![period] }
    }

    /// These moods one after another, each for so long, and then clear weather.
    pub fn in_turn(seed: u64, moods: &[(Mood, Duration)]) -> Self {
        let mut from = Duration::ZERO;
        let mut periods: Vec<Period> = Vec::new();
        for (mood, lasts) in moods {
            let until = from + *lasts;
            periods.push(Period { index: periods.len(), from, until, mood: *mood });
            from = until;
        }
        periods.push(Period { index: periods.len(), from, until: Duration::MAX, mood: Mood::Clear });
        Self { seed, periods }
    }

    /// Faults of every kind in turn, in an order that the seed decides, with clear weather before, between and, from
    /// `length` on, after them.
    pub fn draw(seed: u64, length: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (mut moods, mut until, mut deck) = (Vec::new(), Duration::ZERO, Vec::new());
        loop {
            if deck.is_empty() {
                deck.extend(Mood::FAULTS);
                rng.shuffle(&mut deck);
            }
            let Some(mood) = deck.pop() else { break };
            let lasts = if mood.lets_nothing_through() { LONG_FAULT_MILLIS } else { FAULT_MILLIS };
            let [clear, fault] = [CLEAR_MILLIS, lasts].map(|range| Duration::from_millis(rng.u64(range)));
            until += clear + fault;
            if until > length {
                break;
            }
            moods.extend([(Mood::Clear, clear), (mood, fault)]);
        }
        Self::in_turn(seed, &moods)
    }

    /// The period that it begins with.
    pub fn first(&self) -> Period {
        self.periods[0]
    }

    /// The period that follows; the last one follows itself.
    pub fn after(&self, period: &Period) -> Period {
        self.periods[(period.index + 1).min(self.periods.len() - 1)]
    }

    /// The period at a time from the start on.
    pub fn at(&self, since_start: Duration) -> Period {
        let index = self.periods.partition_point(|period| period.until <= since_start);
        self.periods[index.min(self.periods.len() - 1)]
    }

    /// What becomes of a connection in a period: always the same.
    pub fn fate(&self, period: &Period, connection: u64) -> Fate {
        // The numbers are spread over all bits, so that neighbours have nothing in common.
        let spread = |number: u64, odd: u64| number.wrapping_add(1).wrapping_mul(odd);
        let mixed = self.seed
            ^ spread(period.index as u64, 0x9e37_79b9_7f4a_7c15)
            ^ spread(connection, 0xd1b5_4a32_d192_ed03);
        Fate::draw(period.mood, &mut Rng::with_seed(mixed))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for period in self.periods.iter().filter(|period| period.mood != Mood::Clear) {
            let (from, until) = (period.from.as_secs_f64(), period.until.as_secs_f64());
            write!(formatter, "{} {from:.1}-{until:.1} s; ", period.mood)?;
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
    fn the_same_seed_is_the_same_plan_and_the_same_fates() {
        let (one, same, other) = (Plan::draw(1, LENGTH), Plan::draw(1, LENGTH), Plan::draw(2, LENGTH));
        assert_eq!(one, same);
        assert_ne!(one.periods, other.periods);
        let fates = |plan: &Plan| {
            let all = plan.periods.iter().flat_map(|period| (0..10).map(|number| plan.fate(period, number)));
            all.collect::<Vec<_>>()
        };
        assert_eq!(fates(&one), fates(&same));
        assert_ne!(fates(&one), fates(&other));
    }

    #[test]
    fn periods_have_no_gap_and_the_last_one_is_clear() {
        for (seed, seconds) in (0..200).zip((0..600).step_by(3)) {
            let length = Duration::from_secs(seconds);
            let plan = Plan::draw(seed, length);
            let mut period = plan.first();
            assert_eq!((period.from, period.mood), (Duration::ZERO, Mood::Clear));
            while !period.is_last() {
                let next = plan.after(&period);
                assert_eq!((next.from, next.index), (period.until, period.index + 1));
                assert!(next.mood == Mood::Clear || next.until <= length, "{next:?} of {length:?}");
                assert_eq!(plan.at(period.until), next);
                assert_eq!(plan.at(next.from.saturating_sub(Duration::from_millis(1))), period);
                period = next;
            }
            assert_eq!(period.mood, Mood::Clear);
            assert_eq!(plan.after(&period), period);
        }
    }

    #[test]
    fn every_fault_occurs_before_one_repeats() {
        let plan = Plan::draw(7, LENGTH);
        let faults: Vec<Mood> =
            plan.periods.iter().map(|period| period.mood).filter(|mood| *mood != Mood::Clear).collect();
        assert!(faults.len() > 2 * Mood::FAULTS.len(), "{faults:?}");
        for round in faults.chunks_exact(Mood::FAULTS.len()) {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), Mood::FAULTS.len(), "{round:?}");
        }
    }
}
