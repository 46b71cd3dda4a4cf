//! How close the lag of a shard is to the retention period of the stream; pure.

use tokio::time::Duration;

/// The alarm ends when the lag is below this percentage of its threshold, so that a lag that hovers around the threshold is
/// reported once.
const CLEARED_AT_PERCENT: u32 = 90;

/// How much of the stream's retention period the lag of a shard has used up. Records older than the retention period are
/// gone.
///
/// ```
/// use std::time::Duration;
/// use shard_worker::RetentionAlarm;
///
/// let (lag, retention) = (Duration::from_secs(13 * 3600), Duration::from_secs(24 * 3600));
/// assert_eq!(RetentionAlarm::None.next(lag, retention), RetentionAlarm::Half);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RetentionAlarm {
    /// Less than half, or not known.
    #[default]
    None,
    /// Half of it, or more.
    Half,
    /// Four fifths of it, or more: records are about to be lost.
    FourFifths,
}

impl RetentionAlarm {
    /// The alarm at this lag, following the alarm `self`. It rises when the lag reaches a threshold, and falls when the lag
    /// is a tenth below it.
    #[must_use]
    pub fn next(self, lag: Duration, retention: Duration) -> Self {
        let raised = Self::at(lag, retention);
        let kept = self.threshold(retention).is_some_and(|threshold| {
            lag.as_nanos() * 100 >= threshold.as_nanos() * u128::from(CLEARED_AT_PERCENT)
        });
        match self {
            _ if raised >= self || kept => raised.max(self),
            // The lower alarm ends by the same rule, so the alarm may fall to half instead of to none.
            Self::FourFifths => Self::Half.next(lag, retention),
            Self::None | Self::Half => raised,
        }
    }

    fn at(lag: Duration, retention: Duration) -> Self {
        let reached = |alarm: &Self| alarm.threshold(retention).is_some_and(|threshold| lag >= threshold);
        [Self::FourFifths, Self::Half].into_iter().find(reached).unwrap_or_default()
    }

    /// The lag that raises it; `None`: no lag does, or the retention period is not known.
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
    fn an_alarm_rises_at_its_threshold_and_falls_a_tenth_below() {
        use RetentionAlarm::{FourFifths, Half, None};
        let course = [
            // The lag in tenths of an hour; the retention period is 24 hours.
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
    fn a_retention_period_of_zero_raises_no_alarm() {
        assert_eq!(RetentionAlarm::None.next(DAY, Duration::ZERO), RetentionAlarm::None);
        assert_eq!(RetentionAlarm::FourFifths.next(DAY, Duration::ZERO), RetentionAlarm::None);
    }

    proptest! {
        /// The alarm never understates the lag, and a lag that hovers within a tenth of a threshold changes it at most once.
        #[test]
        fn an_alarm_never_understates_the_lag_and_does_not_flutter(
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
