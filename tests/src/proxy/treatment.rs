//! The treatment of one connection in a fault mode: pure.

use std::time::Duration;

use fastrand::Rng;

use super::fault_mode::FaultMode;

/// The share of the connections that a cutting mode hits; the others are untouched.
const CUT_SHARE: f64 = 0.6;

/// The bytes after which a request is cut: within its head or its body.
const REQUEST_BYTES: std::ops::RangeInclusive<u64> = 1..=1500;

/// The bytes after which an answer is cut; most answers are no longer.
const ANSWER_BYTES: std::ops::RangeInclusive<u64> = 1..=3000;

/// The fixed part of a delay and the largest random part, in milliseconds.
const DELAY_MILLIS: std::ops::RangeInclusive<u64> = 0..=250;

/// The bytes per second of a throttled connection.
const THROTTLED_BYTES: std::ops::RangeInclusive<u64> = 500..=20_000;

/// The bytes per second of answers over a slow link.
const SLOW_LINK_BYTES: std::ops::RangeInclusive<u64> = 4_000..=40_000;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    Up,
    /// From the server to the client: answers.
    Down,
}

/// The pace of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// The fixed delay of each piece.
    pub delay: Duration,
    /// The largest additional random delay of each piece.
    pub jitter: Duration,
    /// The most bytes in a second. `None`: no limit.
    pub bytes_per_second: Option<u64>,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see a reset, and may lose bytes that they have not read yet.
    Reset,
    /// Both ends see an orderly close.
    Close,
}

/// The point at which a treatment takes effect: after this many bytes in one direction since the mode began. With 0 bytes it
/// takes effect instead of the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// The direction whose bytes count.
    pub direction: Direction,
    /// The bytes that pass before.
    pub after_bytes: u64,
}

/// The treatment of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Bytes pass at these paces.
    Forward {
        /// The direction of requests.
        up: Pace,
        /// The direction of answers.
        down: Pace,
    },
    /// The connection is cut.
    Cut {
        /// The way in which it is cut.
        how: Cut,
        /// The event that cuts it; `None`: its start.
        trigger: Option<Trigger>,
    },
    /// After the trigger no bytes pass in its direction, and the receiver sees the end of the stream.
    HalfClose(Trigger),
    /// Answers are discarded, even after the mode has ended, and the connection stays open.
    SwallowAnswers,
    /// No bytes pass until the mode ends.
    Hold,
    /// No bytes pass any more, even after the mode has ended, and the connection stays open. A connection that begins in the mode
    /// is untouched.
    BlackHole,
}

impl Treatment {
    /// Bytes pass without delay.
    pub const UNTOUCHED: Self = Self::Forward {
        up: Pace { delay: Duration::ZERO, jitter: Duration::ZERO, bytes_per_second: None },
        down: Pace { delay: Duration::ZERO, jitter: Duration::ZERO, bytes_per_second: None },
    };

    /// Draws a treatment for a mode.
    pub fn draw(mode: FaultMode, rng: &mut Rng) -> Self {
        let is_hit = rng.f64() < CUT_SHARE;
        let how = if rng.bool() { Cut::Reset } else { Cut::Close };
        let trigger = |direction, after_bytes| Trigger { direction, after_bytes };
        match mode {
            FaultMode::Slow => Self::Forward { up: late(rng), down: late(rng) },
            FaultMode::Throttled => Self::Forward { up: throttled(rng), down: throttled(rng) },
            FaultMode::Silent => Self::Hold,
            FaultMode::BlackHole => Self::BlackHole,
            FaultMode::SlowLink => {
                let down = Pace { bytes_per_second: Some(rng.u64(SLOW_LINK_BYTES)), ..Pace::default() };
                Self::Forward { up: Pace::default(), down }
            }
            FaultMode::Refused => Self::Cut { how: Cut::Reset, trigger: None },
            FaultMode::CutAtOnce if is_hit => Self::Cut { how, trigger: None },
            FaultMode::CutInRequests if is_hit => {
                Self::Cut { how, trigger: Some(trigger(Direction::Up, rng.u64(REQUEST_BYTES))) }
            }
            FaultMode::CutInAnswers if is_hit => {
                Self::Cut { how, trigger: Some(trigger(Direction::Down, rng.u64(ANSWER_BYTES))) }
            }
            FaultMode::LostAnswers if is_hit => Self::Cut { how, trigger: Some(trigger(Direction::Down, 0)) },
            FaultMode::SwallowedAnswers if is_hit => Self::SwallowAnswers,
            FaultMode::HalfClosedUp if is_hit => Self::HalfClose(trigger(Direction::Up, rng.u64(0..=1500))),
            FaultMode::HalfClosedDown if is_hit => {
                Self::HalfClose(trigger(Direction::Down, rng.u64(0..=1500)))
            }
            FaultMode::Clear
            | FaultMode::CutAtOnce
            | FaultMode::CutInRequests
            | FaultMode::CutInAnswers
            | FaultMode::LostAnswers
            | FaultMode::SwallowedAnswers
            | FaultMode::HalfClosedUp
            | FaultMode::HalfClosedDown => Self::UNTOUCHED,
        }
    }

    /// The pace of a direction.
    pub fn pace(&self, direction: Direction) -> Pace {
        match (self, direction) {
            (Self::Forward { up, .. }, Direction::Up) => *up,
            (Self::Forward { down, .. }, Direction::Down) => *down,
            _ => Pace::default(),
        }
    }

    /// The bytes that still pass in a direction before the trigger.
    pub fn bytes_until_trigger(&self, direction: Direction) -> Option<u64> {
        match self {
            Self::Cut { trigger: Some(trigger), .. } | Self::HalfClose(trigger)
                if trigger.direction == direction =>
            {
                Some(trigger.after_bytes)
            }
            _ => None,
        }
    }
}

fn late(rng: &mut Rng) -> Pace {
    let mut millis = || Duration::from_millis(rng.u64(DELAY_MILLIS));
    Pace { delay: millis(), jitter: millis(), bytes_per_second: None }
}

fn throttled(rng: &mut Rng) -> Pace {
    Pace { bytes_per_second: Some(rng.u64(THROTTLED_BYTES)), ..Pace::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn treatments(mode: FaultMode) -> Vec<Treatment> {
        (0..1000).map(|seed| Treatment::draw(mode, &mut Rng::with_seed(seed))).collect()
    }

    #[test]
    fn clear_mode_touches_nothing() {
        assert!(treatments(FaultMode::Clear).iter().all(|treatment| *treatment == Treatment::UNTOUCHED));
    }

    #[test]
    fn cutting_mode_hits_more_than_half_and_not_all() {
        for mode in FaultMode::FAULTS {
            let treatments = treatments(mode);
            let hit = treatments.iter().filter(|treatment| **treatment != Treatment::UNTOUCHED).count();
            let hits_all = matches!(
                mode,
                FaultMode::Slow
                    | FaultMode::Throttled
                    | FaultMode::Silent
                    | FaultMode::Refused
                    | FaultMode::BlackHole
                    | FaultMode::SlowLink
            );
            assert!(if hits_all { hit >= 999 } else { (500..=700).contains(&hit) }, "{mode}: {hit}");
        }
    }

    #[test]
    fn lost_answer_has_no_bytes_and_a_cut_one_has_some() {
        for treatment in
            treatments(FaultMode::LostAnswers).iter().filter(|treatment| **treatment != Treatment::UNTOUCHED)
        {
            assert_eq!(
                (
                    treatment.bytes_until_trigger(Direction::Up),
                    treatment.bytes_until_trigger(Direction::Down)
                ),
                (None, Some(0))
            );
        }
        for treatment in
            treatments(FaultMode::CutInAnswers).iter().filter(|treatment| **treatment != Treatment::UNTOUCHED)
        {
            assert!(
                treatment.bytes_until_trigger(Direction::Down).is_some_and(|bytes| bytes > 0),
                "{treatment:?}"
            );
        }
    }
}
