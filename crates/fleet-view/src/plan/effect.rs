//! What a new position of a shard means for what is read: again, or not at all. Pure.

use lease_store::{Position, ShardId};
use serde::{Deserialize, Serialize};

/// What a new position of one shard means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The shard.
    pub shard_id: ShardId,
    /// What happens to its records.
    pub kind: EffectKind,
    /// The position before; `None`: it had no row.
    #[serde(with = "crate::text::optional_position_text")]
    pub from: Option<Position>,
    /// The position after; `None`: the row is deleted.
    #[serde(with = "crate::text::optional_position_text")]
    pub to: Option<Position>,
    /// The time span of the records; `None`: not known.
    pub span_millis: Option<u64>,
}

/// What happens to the records of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectKind {
    /// Each record is read as before.
    Nothing,
    /// It had no row, and is read from its beginning.
    Begun,
    /// Records are read again.
    ReadAgain,
    /// Records are not read.
    Skipped,
    /// Records are read again, or are not read: which one is not known.
    Either,
    /// The position is gone. Where reading starts depends on the settings of the workers.
    Forgotten,
}

/// A position together with the instant that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) initial_time_millis: Option<u64>,
}

/// A place that can be compared.
enum Known<'a> {
    Horizon,
    Time(Option<u64>),
    Record(&'a Position),
    End,
}

impl Place {
    pub(crate) fn new(position: Position, initial_time_millis: Option<u64>) -> Self {
        Self { position, initial_time_millis }
    }

    fn known(&self) -> Known<'_> {
        match self.position {
            // The row of a child may carry the instant of its parent.
            Position::TrimHorizon if self.initial_time_millis.is_none() => Known::Horizon,
            Position::TrimHorizon | Position::Latest | Position::AtTimestamp => {
                Known::Time(self.initial_time_millis)
            }
            Position::After(_) => Known::Record(&self.position),
            Position::ShardEnd => Known::End,
        }
    }
}

/// The effect of a move between two places, and the time span of the records. `unread_from_millis` is the arrival of the first
/// unread record, if that is known; `now_millis` the arrival of the next one, if none waits.
pub(crate) fn effect(
    from: &Place,
    to: &Place,
    unread_from_millis: Option<u64>,
    now_millis: u64,
) -> (EffectKind, Option<u64>) {
    if from == to {
        return (EffectKind::Nothing, None);
    }
    let unread = unread_from_millis.map(|from| now_millis.saturating_sub(from));
    match (from.known(), to.known()) {
        (Known::End, Known::End) | (Known::Horizon, Known::Horizon) => (EffectKind::Nothing, None),
        (Known::End, _) | (_, Known::Horizon) => (EffectKind::ReadAgain, None),
        (Known::Horizon, _) | (_, Known::End) => (EffectKind::Skipped, unread),
        (Known::Record(before), Known::Record(after)) if after < before => (EffectKind::ReadAgain, None),
        (Known::Record(_), Known::Record(_)) => (EffectKind::Skipped, None),
        (Known::Time(Some(before)), Known::Time(Some(after))) => by_time(before, after),
        (Known::Record(_), Known::Time(Some(after))) => match unread_from_millis {
            Some(before) => by_time(before, after),
            None if after >= now_millis => (EffectKind::Skipped, None),
            None => (EffectKind::Either, None),
        },
        (Known::Time(_), Known::Record(_) | Known::Time(_)) | (Known::Record(_), Known::Time(None)) => {
            (EffectKind::Either, None)
        }
    }
}

fn by_time(before: u64, after: u64) -> (EffectKind, Option<u64>) {
    let kind = if after > before { EffectKind::Skipped } else { EffectKind::ReadAgain };
    (kind, Some(after.abs_diff(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_follow_the_order_of_places() {
        let horizon = Place::new(Position::TrimHorizon, None);
        let end = Place::new(Position::ShardEnd, None);
        let at = |millis| Place::new(Position::AtTimestamp, Some(millis));
        let child_of = |millis| Place::new(Position::TrimHorizon, Some(millis));
        let after = |number: u128| Place::new(Position::after(number.into(), 0), None);
        let latest = Place::new(Position::Latest, None);
        let effect = |from: &Place, to: &Place| effect(from, to, Some(50), 100);
        assert_eq!(effect(&after(1), &after(1)), (EffectKind::Nothing, None));
        assert_eq!(effect(&after(2), &after(1)), (EffectKind::ReadAgain, None));
        assert_eq!(effect(&after(1), &after(2)), (EffectKind::Skipped, None));
        assert_eq!(effect(&after(1), &horizon), (EffectKind::ReadAgain, None));
        assert_eq!(effect(&after(1), &end), (EffectKind::Skipped, Some(50)));
        assert_eq!(effect(&end, &after(1)), (EffectKind::ReadAgain, None));
        assert_eq!(effect(&after(1), &at(80)), (EffectKind::Skipped, Some(30)));
        assert_eq!(effect(&after(1), &at(20)), (EffectKind::ReadAgain, Some(30)));
        assert_eq!(effect(&child_of(10), &horizon), (EffectKind::ReadAgain, None));
        assert_eq!(effect(&child_of(10), &at(30)), (EffectKind::Skipped, Some(20)));
        assert_eq!(effect(&latest, &after(1)), (EffectKind::Either, None));
        assert_eq!(super::effect(&after(1), &at(100), None, 100), (EffectKind::Skipped, None));
        assert_eq!(super::effect(&after(1), &at(99), None, 100), (EffectKind::Either, None));
    }
}
