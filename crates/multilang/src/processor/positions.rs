//! What a checkpoint request means: its position, within the range that the child was given.

use lease_store::Position;

use crate::protocol::checkpoint::{CheckpointFault, CheckpointRequest};

/// The positions that a child may checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRange {
    checkpointed: Position,
    delivered: Position,
    is_at_end: bool,
}

impl CheckpointRange {
    /// The range of a child that starts at this position and was given no record.
    pub fn new(start: Position) -> Self {
        Self { checkpointed: start.clone(), delivered: start, is_at_end: false }
    }

    /// The last checkpoint, or the start.
    pub fn checkpointed(&self) -> &Position {
        &self.checkpointed
    }

    /// The child is given records up to this position.
    pub fn deliver(&mut self, position: Position) {
        self.delivered = self.delivered.clone().max(position);
    }

    /// The child is told of the end of the shard, which it may checkpoint from now on.
    pub fn reach_end(&mut self) {
        self.is_at_end = true;
    }

    /// The position of a request.
    ///
    /// Without a sequence number it is the newest one: at the end of the shard the end itself. A sequence number alone means
    /// sub-sequence number 0, so a checkpoint inside an aggregate repeats the rest of it after a restart, as in Java. The
    /// last record at the end of the shard means the end too.
    ///
    /// # Errors
    /// `IllegalArgument` for a malformed request, and for a position before the last checkpoint or beyond the range.
    pub fn resolve(&self, request: &CheckpointRequest) -> Result<Position, CheckpointFault> {
        let newest = if self.is_at_end { Position::ShardEnd } else { self.delivered.clone() };
        let sub_sequence_number = request.sub_sequence_number.unwrap_or(0);
        let sub_sequence_number =
            u64::try_from(sub_sequence_number).map_err(|_| CheckpointFault::IllegalArgument)?;
        let Some(text) = &request.sequence_number else { return Ok(newest) };
        let position = Position::from_checkpoint(text, sub_sequence_number)
            .map_err(|_| CheckpointFault::IllegalArgument)?;
        if self.is_at_end && position == self.delivered {
            return Ok(Position::ShardEnd);
        }
        if position < self.checkpointed || position > newest {
            return Err(CheckpointFault::IllegalArgument);
        }
        Ok(position)
    }

    /// Records a checkpoint.
    pub fn checkpoint(&mut self, position: Position) {
        self.checkpointed = self.checkpointed.clone().max(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(number: u128, sub_sequence_number: u64) -> Position {
        Position::after(number.into(), sub_sequence_number)
    }

    fn request(number: Option<&str>, sub_sequence_number: Option<i64>) -> CheckpointRequest {
        CheckpointRequest { sequence_number: number.map(str::to_owned), sub_sequence_number }
    }

    fn range() -> CheckpointRange {
        let mut range = CheckpointRange::new(Position::TrimHorizon);
        range.deliver(after(20, 3));
        range.checkpoint(after(10, 0));
        range
    }

    #[test]
    fn requests_mean_the_same_as_in_java() {
        let illegal = Err(CheckpointFault::IllegalArgument);
        for (number, sub_sequence_number, expected) in [
            (None, None, Ok(after(20, 3))),
            (None, Some(7), Ok(after(20, 3))),
            (Some("20"), Some(2), Ok(after(20, 2))),
            (Some("20"), None, Ok(after(20, 0))),
            (Some("10"), Some(0), Ok(after(10, 0))),
            (Some("9"), Some(9), illegal.clone()),
            (Some("20"), Some(4), illegal.clone()),
            (Some("21"), None, illegal.clone()),
            (Some("20"), Some(-1), illegal.clone()),
            (None, Some(-1), illegal.clone()),
            (Some("x"), None, illegal.clone()),
            (Some(""), None, illegal.clone()),
            (Some("TRIM_HORIZON"), None, illegal.clone()),
            (Some("SHARD_END"), None, illegal),
        ] {
            let request = request(number, sub_sequence_number);
            assert_eq!(range().resolve(&request), expected, "{request:?}");
        }
        let new = CheckpointRange::new(Position::TrimHorizon);
        assert_eq!(new.resolve(&request(None, None)), Ok(Position::TrimHorizon));
        assert_eq!(new.resolve(&request(Some("TRIM_HORIZON"), None)), Ok(Position::TrimHorizon));
    }

    #[test]
    fn end_of_shard_is_the_newest_position_there() {
        let mut range = range();
        range.reach_end();
        for request in [request(None, None), request(Some("20"), Some(3)), request(Some("SHARD_END"), None)] {
            assert_eq!(range.resolve(&request), Ok(Position::ShardEnd), "{request:?}");
        }
        assert_eq!(range.resolve(&request(Some("20"), Some(1))), Ok(after(20, 1)));
    }
}
