//! What becomes of one connection while a mood lasts: pure.

use std::time::Duration;

use fastrand::Rng;

use super::plan::Mood;

/// In a mood that cuts, this part of the connections is cut; the others go on.
const CUT_SHARE: f64 = 0.6;

/// After how many bytes a request is cut: within its head, or within its body.
const REQUEST_BYTES: std::ops::RangeInclusive<u64> = 1..=1500;

/// After how many bytes an answer is cut; most are no longer than that.
const ANSWER_BYTES: std::ops::RangeInclusive<u64> = 1..=3000;

/// The fixed part of a delay, and the most of the random part, in milliseconds.
const DELAY_MILLIS: std::ops::RangeInclusive<u64> = 0..=250;

/// What a throttled connection carries in a second.
const THROTTLED_BYTES: std::ops::RangeInclusive<u64> = 500..=20_000;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    Up,
    /// From the server to the client: answers.
    Down,
}

/// How fast bytes go in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// How late each piece is.
    pub delay: Duration,
    /// How much later still it may be, at random.
    pub jitter: Duration,
    /// The most in a second; `None`: as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see a reset: what they have not read yet may be gone.
    Reset,
    /// Both ends see an orderly close.
    Close,
}

/// When something happens to a connection: after so many bytes in one direction have passed since the mood began. With 0
/// it happens in the place of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fuse {
    /// The bytes of this direction count.
    pub direction: Direction,
    /// So many pass.
    pub after_bytes: u64,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Bytes pass.
    Forward {
        /// Requests.
        up: Pace,
        /// Answers.
        down: Pace,
    },
    /// It is cut.
    Cut {
        /// How.
        how: Cut,
        /// When; `None`: at once.
        fuse: Option<Fuse>,
    },
    /// From then on nothing passes in the direction of the fuse, whose receiver is told that nothing will.
    HalfClose(Fuse),
    /// From now on answers are thrown away, also when the mood is over, and the connection stays open.
    SwallowAnswers,
    /// Nothing passes until the mood is over.
    Hold,
}

impl Fate {
    /// Bytes pass as fast as they come.
    pub const UNTOUCHED: Self = Self::Forward {
        up: Pace { delay: Duration::ZERO, jitter: Duration::ZERO, bytes_per_second: None },
        down: Pace { delay: Duration::ZERO, jitter: Duration::ZERO, bytes_per_second: None },
    };

    /// One that fits the mood.
    pub fn draw(mood: Mood, rng: &mut Rng) -> Self {
        let is_hit = rng.f64() < CUT_SHARE;
        let how = if rng.bool() { Cut::Reset } else { Cut::Close };
        let fuse = |direction, after_bytes| Fuse { direction, after_bytes };
        match mood {
            Mood::Slow => Self::Forward { up: late(rng), down: late(rng) },
            Mood::Throttled => Self::Forward { up: narrow(rng), down: narrow(rng) },
            Mood::Silent => Self::Hold,
            Mood::Refused => Self::Cut { how: Cut::Reset, fuse: None },
            Mood::CutAtOnce if is_hit => Self::Cut { how, fuse: None },
            Mood::CutInRequests if is_hit => {
                Self::Cut { how, fuse: Some(fuse(Direction::Up, rng.u64(REQUEST_BYTES))) }
            }
            Mood::CutInAnswers if is_hit => {
                Self::Cut { how, fuse: Some(fuse(Direction::Down, rng.u64(ANSWER_BYTES))) }
            }
            Mood::LostAnswers if is_hit => Self::Cut { how, fuse: Some(fuse(Direction::Down, 0)) },
            Mood::SwallowedAnswers if is_hit => Self::SwallowAnswers,
            Mood::HalfClosedUp if is_hit => Self::HalfClose(fuse(Direction::Up, rng.u64(0..=1500))),
            Mood::HalfClosedDown if is_hit => Self::HalfClose(fuse(Direction::Down, rng.u64(0..=1500))),
            Mood::Clear
            | Mood::CutAtOnce
            | Mood::CutInRequests
            | Mood::CutInAnswers
            | Mood::LostAnswers
            | Mood::SwallowedAnswers
            | Mood::HalfClosedUp
            | Mood::HalfClosedDown => Self::UNTOUCHED,
        }
    }

    /// How fast bytes go in a direction.
    pub fn pace(&self, direction: Direction) -> Pace {
        match (self, direction) {
            (Self::Forward { up, .. }, Direction::Up) => *up,
            (Self::Forward { down, .. }, Direction::Down) => *down,
            _ => Pace::default(),
        }
    }

    /// How many bytes still pass in a direction before something happens.
    pub fn fuse_bytes(&self, direction: Direction) -> Option<u64> {
        match self {
            Self::Cut { fuse: Some(fuse), .. } | Self::HalfClose(fuse) if fuse.direction == direction => {
                Some(fuse.after_bytes)
            }
            _ => None,
        }
    }
}

fn late(rng: &mut Rng) -> Pace {
    let mut millis = || Duration::from_millis(rng.u64(DELAY_MILLIS));
    Pace { delay: millis(), jitter: millis(), bytes_per_second: None }
}

fn narrow(rng: &mut Rng) -> Pace {
    Pace { bytes_per_second: Some(rng.u64(THROTTLED_BYTES)), ..Pace::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(mood: Mood) -> Vec<Fate> {
        (0..1000).map(|seed| Fate::draw(mood, &mut Rng::with_seed(seed))).collect()
    }

    #[test]
    fn clear_mood_touches_nothing() {
        assert!(fates(Mood::Clear).iter().all(|fate| *fate == Fate::UNTOUCHED));
    }

    #[test]
    fn cutting_mood_hits_more_than_half_and_not_all() {
        for mood in Mood::FAULTS {
            let fates = fates(mood);
            let hit = fates.iter().filter(|fate| **fate != Fate::UNTOUCHED).count();
            let hits_all = [Mood::Slow, Mood::Throttled, Mood::Silent, Mood::Refused].contains(&mood);
            assert!(if hits_all { hit >= 999 } else { (500..=700).contains(&hit) }, "{mood}: {hit}");
        }
    }

    #[test]
    fn lost_answer_has_no_bytes_and_a_cut_one_has_some() {
        for fate in fates(Mood::LostAnswers).iter().filter(|fate| **fate != Fate::UNTOUCHED) {
            assert_eq!((fate.fuse_bytes(Direction::Up), fate.fuse_bytes(Direction::Down)), (None, Some(0)));
        }
        for fate in fates(Mood::CutInAnswers).iter().filter(|fate| **fate != Fate::UNTOUCHED) {
            assert!(fate.fuse_bytes(Direction::Down).is_some_and(|bytes| bytes > 0), "{fate:?}");
        }
    }
}
