//! What an operator leaves in the row of a lease: a request to its owner, or a pause. Each is one text attribute. Pure.
//!
//! Workers of the KCL keep the attributes and ignore them.

use std::fmt;

use crate::position::Position;
use crate::worker_id::WorkerId;

/// A request of an operator to the owner of a lease. It ends with the ownership: a take, a hand-over and a release remove it,
/// so that it is never carried out long after it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRequest {
    /// Tells two requests apart.
    pub id: u64,
    /// The owner that is asked.
    pub owner: WorkerId,
    /// What the owner is asked to do at the next batch boundary.
    pub action: OwnerAction,
}

/// What the owner of a lease is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerAction {
    /// Store another position, and release the lease: any worker continues from the new position.
    Reset {
        /// The new position.
        position: Position,
        /// Its instant; see [`Lease::initial_time_millis`](crate::Lease::initial_time_millis).
        initial_time_millis: Option<u64>,
    },
    /// Release the lease, and leave it to other workers for a while.
    Release,
}

impl OwnerRequest {
    /// Reads the text of a row. `None` for a text of another version, which no worker of this version can carry out.
    pub fn parse(text: &str) -> Option<Self> {
        let (request, owner) = text.split_once(" to ")?;
        let (action, id) = request.rsplit_once(" #")?;
        let owner = WorkerId::new(owner.to_owned()).ok()?;
        let id = id.parse().ok()?;
        let action = match action.split_once(' ') {
            None if action == "release" => OwnerAction::Release,
            Some(("reset", place)) => {
                let (position, initial_time_millis) = match place.split_once(" @") {
                    Some((position, millis)) => (position, Some(millis.parse().ok()?)),
                    None => (place, None),
                };
                let (checkpoint, sub) = position.split_once('/').unwrap_or((position, "0"));
                let position = Position::from_checkpoint(checkpoint, sub.parse().ok()?).ok()?;
                OwnerAction::Reset { position, initial_time_millis }
            }
            _ => return None,
        };
        Some(Self { id, owner, action })
    }
}

impl fmt::Display for OwnerRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            OwnerAction::Reset { position, initial_time_millis } => {
                write!(formatter, "reset {position}")?;
                if let Some(millis) = initial_time_millis {
                    write!(formatter, " @{millis}")?;
                }
            }
            OwnerAction::Release => formatter.write_str("release")?,
        }
        write!(formatter, " #{} to {}", self.id, self.owner)
    }
}

/// A pause of a shard: no worker of this library takes or reads it. It stays in the row when the owner changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// When reading may resume, in milliseconds since 1970; `None`: when an operator removes the pause.
    pub until_millis: Option<u64>,
    /// The operator, for people.
    pub by: String,
}

impl Pause {
    /// Reads the text of a row. A text of another version is a pause without an end: reading the shard would be worse.
    pub fn parse(text: &str) -> Self {
        let endless = || Self { until_millis: None, by: text.to_owned() };
        if let Some(by) = text.strip_prefix("by ") {
            return Self { until_millis: None, by: by.to_owned() };
        }
        let parts = text.strip_prefix("until ").and_then(|rest| rest.split_once(" by "));
        match parts.map(|(millis, by)| (millis.parse(), by)) {
            Some((Ok(until), by)) => Self { until_millis: Some(until), by: by.to_owned() },
            _ => endless(),
        }
    }

    /// Whether it is in force at a time, in milliseconds since 1970. Without a clock it is.
    pub fn is_in_force(&self, now_millis: Option<u64>) -> bool {
        match (self.until_millis, now_millis) {
            (Some(until), Some(now)) => now < until,
            _ => true,
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until_millis {
            Some(until) => write!(formatter, "until {until} by {}", self.by),
            None => write!(formatter, "by {}", self.by),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_position() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::AtTimestamp),
            Just(Position::TrimHorizon),
            Just(Position::Latest),
            Just(Position::ShardEnd),
            (any::<u128>(), any::<u64>()).prop_map(|(number, sub)| Position::after(number.into(), sub)),
        ]
    }

    proptest! {
        #[test]
        fn requests_survive_their_text(
            id in any::<u64>(),
            owner in ".{1,40}",
            place in proptest::option::of((a_position(), any::<Option<u64>>())),
        ) {
            let action = place.map_or(OwnerAction::Release, |(position, initial_time_millis)| {
                OwnerAction::Reset { position, initial_time_millis }
            });
            let request = OwnerRequest { id, owner: WorkerId::new(owner).unwrap(), action };
            prop_assert_eq!(OwnerRequest::parse(&request.to_string()), Some(request));
        }

        #[test]
        fn pauses_survive_their_text(until_millis in any::<Option<u64>>(), by in ".{0,40}") {
            let pause = Pause { until_millis, by };
            prop_assert_eq!(Pause::parse(&pause.to_string()), pause);
        }

        #[test]
        fn any_text_is_a_request_or_none_and_a_pause(text in ".{0,60}") {
            let _ = OwnerRequest::parse(&text);
            let _ = Pause::parse(&text);
        }
    }

    #[test]
    fn texts_of_other_versions_are_no_request_and_an_endless_pause() {
        for text in ["", "release", "seek 5 #7 to a", "reset #7 to a", "release #x to a", "reset 1/x #7 to a"]
        {
            assert_eq!(OwnerRequest::parse(text), None, "{text}");
        }
        for text in ["", "until tomorrow by me", "until 5", "paused"] {
            assert!(Pause::parse(text).is_in_force(Some(u64::MAX)), "{text}");
        }
    }

    #[test]
    fn pause_ends_at_its_time() {
        let pause = Pause::parse("until 50 by me");
        assert!(pause.is_in_force(Some(49)) && pause.is_in_force(None));
        assert!(!pause.is_in_force(Some(50)));
        assert!(Pause::parse("by me").is_in_force(Some(u64::MAX)));
    }
}
