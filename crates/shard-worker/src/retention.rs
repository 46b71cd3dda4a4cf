//! How close a shard's lag comes to what the stream still keeps: a pure decision.

use tokio::time::Duration;

/// The alarm ends when the lag is below this share, in percent, of what raised it, so that a lag which hovers about a
/// threshold is reported once.
const CLEARED_AT_PERCENT: u32 = 90;

/// How much of the stream's retention period the lag of a shard has used up. What lies further back than the retention
/// period is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RetentionAlarm {
    /// Less than half, or it is not known.
    #[default]
    None,
    /// Half of it, or more.
    Half,
    /// Four fifths of it, or more: records are about to be lost.
    FourFifths,
}

impl RetentionAlarm {
    /// The alarm at this lag, after an alarm before it. It rises as soon as a threshold is reached, and falls when the lag is
    /// a tenth below it.
    #[must_use]
    pub fn next(self, lag: Duration, retention: Duration) -> Self {
        let raised = Self::at(lag, retention);
        let kept = self.threshold(retention).is_some_and(|threshold| {
            lag.as_nanos() * 100 >= threshold.as_nanos() * u128::from(CLEARED_AT_PERCENT)
        });
        match self {
            _ if raised >= self || kept => raised.max(self),
            // What it falls to is kept by the same rule: from four fifths it goes to half, and not below at once.
            Self::FourFifths => Self::Half.next(lag, retention),
            Self::None | Self::Half => raised,
        }
    }

    fn at(lag: Duration, retention: Duration) -> Self {
        let reached = |alarm: &Self| alarm.threshold(retention).is_some_and(|threshold| lag >= threshold);
        [Self::FourFifths, Self::Half].into_iter().find(reached).unwrap_or_default()
    }

    /// The lag that raises it; `None`: nothing has to, or the retention period is not known.
    fn threshold(self, retention: Duration) -> Option<Duration> {
        let threshold = match self {
            Self::None => return None,
            Self::Half => retention / 2,
            Self::FourFifths => retention / 5 * 4,
        };
        Some(threshold).filter(|threshold| !threshold.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn hours(tenths: u64) -> Duration {
        Duration::from_secs(tenths * 360)
    }

    #[test]
    fn each_threshold_is_reported_when_it_is_crossed_and_cleared_below_it() {
        use RetentionAlarm::{FourFifths, Half, None};
        let course = [
            // Tenths of an hour behind, of 24 hours.
            (0, None),
            (119, None),
            (120, Half),
            (119, Half),
            (108, Half),
            (107, None),
            (191, Half),
            (192, FourFifths),
            (180, FourFifths),
            (173, FourFifths),
            (172, Half),
            (240, FourFifths),
            (110, Half),
            (240, FourFifths),
            (5, None),
        ];
        let mut alarm = RetentionAlarm::default();
        for (tenths, expected) in course {
            alarm = alarm.next(hours(tenths), DAY);
            assert_eq!(alarm, expected, "at {tenths} tenths of an hour");
        }
    }

    #[test]
    fn a_retention_of_nothing_raises_nothing() {
        assert_eq!(RetentionAlarm::None.next(DAY, Duration::ZERO), RetentionAlarm::None);
        assert_eq!(RetentionAlarm::FourFifths.next(DAY, Duration::ZERO), RetentionAlarm::None);
    }

    proptest! {
        /// It never understates the lag, and a lag that hovers within a tenth of a threshold changes it once at most.
        #[test]
        fn it_never_understates_and_does_not_flutter(
            lags in prop::collection::vec(0..100_000u64, 1..50),
            hovering in prop::collection::vec(109..=130u64, 1..50),
        ) {
            let mut alarm = RetentionAlarm::default();
            for lag in lags {
                let lag = Duration::from_secs(lag);
                alarm = alarm.next(lag, DAY);
                prop_assert!(alarm >= RetentionAlarm::at(lag, DAY));
            }
            let (mut alarm, mut changes) = (RetentionAlarm::default(), 0);
            for tenths in hovering {
                let next = alarm.next(hours(tenths), DAY);
                changes += usize::from(next != alarm);
                alarm = next;
            }
            prop_assert!(changes <= 1);
        }
    }
}
