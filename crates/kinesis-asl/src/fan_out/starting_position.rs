//! The starting position of a subscription: pure.

use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};

use crate::read_position::ReadPosition;
use crate::service_time::from_system_time;

/// The starting position of a subscription that reads from here on; `None`: the time is out of range.
pub(super) fn starting_position(from: &ReadPosition) -> Option<StartingPosition> {
    let start = StartingPosition::builder();
    let start = match from {
        ReadPosition::TrimHorizon => start.r#type(ShardIteratorType::TrimHorizon),
        ReadPosition::Latest { .. } => start.r#type(ShardIteratorType::Latest),
        ReadPosition::AtTimestamp(time) => {
            start.r#type(ShardIteratorType::AtTimestamp).timestamp(from_system_time(*time)?)
        }
        ReadPosition::AtSequenceNumber(number) => {
            start.r#type(ShardIteratorType::AtSequenceNumber).sequence_number(number.as_str())
        }
        ReadPosition::AfterSequenceNumber(number) => {
            start.r#type(ShardIteratorType::AfterSequenceNumber).sequence_number(number.as_str())
        }
    };
    // Cannot fail: the type is the only mandatory member.
    start.build().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use lease_store::SequenceNumber;

    use super::*;

    #[test]
    fn positions_are_converted_to_the_types_of_the_api() {
        let number = SequenceNumber::new("4711".to_owned()).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        for (position, kind, sequence_number, millis) in [
            (ReadPosition::TrimHorizon, ShardIteratorType::TrimHorizon, None, None),
            (ReadPosition::Latest { since: None }, ShardIteratorType::Latest, None, None),
            (ReadPosition::Latest { since: Some(time) }, ShardIteratorType::Latest, None, None),
            (ReadPosition::AtTimestamp(time), ShardIteratorType::AtTimestamp, None, Some(1500)),
            (
                ReadPosition::AtSequenceNumber(number.clone()),
                ShardIteratorType::AtSequenceNumber,
                Some("4711"),
                None,
            ),
            (
                ReadPosition::AfterSequenceNumber(number),
                ShardIteratorType::AfterSequenceNumber,
                Some("4711"),
                None,
            ),
        ] {
            let start = starting_position(&position).unwrap();
            assert_eq!(start.r#type, kind);
            assert_eq!(start.sequence_number.as_deref(), sequence_number);
            assert_eq!(start.timestamp.map(|time| time.to_millis().unwrap()), millis);
        }
    }
}
