//! The three watermarks of a shard: delivered, acknowledged, checkpointed.

use lease_store::Position;

use crate::error::{CheckpointError, CheckpointErrorKind};

/// The three watermarks of a shard: `delivered` ≥ `acknowledged` ≥ `checkpointed`. None of them ever moves back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermarks {
    delivered: Position,
    acknowledged: Position,
    checkpointed: Position,
}

impl Watermarks {
    /// Watermarks that are all at the position where reading starts.
    pub fn starting_at(position: Position) -> Self {
        Self { delivered: position.clone(), acknowledged: position.clone(), checkpointed: position }
    }

    /// The newest position delivered to the application.
    pub fn delivered(&self) -> &Position {
        &self.delivered
    }

    /// The newest position acknowledged by the application: every record up to it is done. At or behind the delivered position,
    /// at or ahead of the checkpointed one.
    pub fn acknowledged(&self) -> &Position {
        &self.acknowledged
    }

    /// The newest position that is known to be checkpointed.
    pub fn checkpointed(&self) -> &Position {
        &self.checkpointed
    }

    /// The position to checkpoint next; `None` when every acknowledged position is checkpointed.
    pub fn unwritten(&self) -> Option<&Position> {
        (self.acknowledged > self.checkpointed).then_some(&self.acknowledged)
    }

    /// Records that everything up to a position was delivered to the application.
    pub fn deliver(&mut self, position: Position) {
        if position > self.delivered {
            self.delivered = position;
        }
    }

    /// Records that the application acknowledged everything up to a position. An older position changes nothing.
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered: a checkpoint must never pass an undelivered record.
    pub fn acknowledge(&mut self, position: Position) -> Result<(), CheckpointError> {
        if position > self.delivered {
            return Err(CheckpointError::new(
                CheckpointErrorKind::Invalid,
                format!("cannot acknowledge {position}: records are delivered only up to {}", self.delivered),
            ));
        }
        if position > self.acknowledged {
            self.acknowledged = position;
        }
        Ok(())
    }

    /// Checks a position that is to be announced before it is acknowledged.
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered, or is before the acknowledged one.
    pub fn check_prepared(&self, position: &Position) -> Result<(), CheckpointError> {
        let (acknowledged, delivered) = (&self.acknowledged, &self.delivered);
        if position < acknowledged || position > delivered {
            return Err(CheckpointError::new(
                CheckpointErrorKind::Invalid,
                format!(
                    "cannot prepare a checkpoint at {position}: it must be from {acknowledged}, which is acknowledged, to \
                     {delivered}, which is delivered"
                ),
            ));
        }
        Ok(())
    }

    /// Records that a position is checkpointed.
    pub fn checkpoint(&mut self, position: Position) {
        debug_assert!(position <= self.acknowledged, "{position} is checkpointed but not acknowledged");
        if position > self.checkpointed {
            self.checkpointed = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(number: u8) -> Position {
        Position::after(u128::from(number).into(), 0)
    }

    proptest! {
        #[test]
        fn watermarks_stay_ordered_and_never_move_back(steps in prop::collection::vec((0..3u8, any::<u8>()), 0..64)) {
            let mut marks = Watermarks::starting_at(Position::TrimHorizon);
            for (step, number) in steps {
                let before = marks.clone();
                match step {
                    0 => marks.deliver(at(number)),
                    1 => {
                        let refused = marks.acknowledge(at(number)).is_err();
                        prop_assert_eq!(refused, at(number) > before.delivered);
                    }
                    _ => marks.checkpoint(before.unwritten().cloned().unwrap_or(Position::TrimHorizon)),
                }
                prop_assert!(marks.delivered >= marks.acknowledged && marks.acknowledged >= marks.checkpointed);
                prop_assert!(marks.delivered >= before.delivered);
                prop_assert!(marks.acknowledged >= before.acknowledged);
                prop_assert!(marks.checkpointed >= before.checkpointed);
            }
        }
    }

    #[test]
    fn an_unchanged_position_is_not_written_again() {
        let mut marks = Watermarks::starting_at(at(1));
        assert_eq!(marks.unwritten(), None);
        marks.deliver(at(5));
        marks.acknowledge(at(3)).unwrap();
        assert_eq!(marks.unwritten(), Some(&at(3)));
        marks.checkpoint(at(3));
        marks.acknowledge(at(2)).unwrap();
        assert_eq!(marks.unwritten(), None);
    }
}
