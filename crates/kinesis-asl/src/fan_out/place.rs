//! Where a subscription starts: pure.

use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};

use crate::polling::Place;
use crate::service_time::from_system_time;

impl Place {
    /// The start of a subscription at this place; `None`: the time is out of range.
    pub(crate) fn starting_position(&self) -> Option<StartingPosition> {
        let position = StartingPosition::builder();
        let position = match self {
            Self::Oldest => position.r#type(ShardIteratorType::TrimHorizon),
            Self::Tip { .. } => position.r#type(ShardIteratorType::Latest),
            Self::Since(time) => {
                position.r#type(ShardIteratorType::AtTimestamp).timestamp(from_system_time(*time)?)
            }
            Self::At(number) => {
                position.r#type(ShardIteratorType::AtSequenceNumber).sequence_number(number.as_str())
            }
            Self::After(number) => {
                position.r#type(ShardIteratorType::AfterSequenceNumber).sequence_number(number.as_str())
            }
        };
        // Only the type is mandatory, and it is there.
        position.build().ok()
    }

    /// The same place for another subscription: the tip has moved on since, so it is found again by its time.
    pub(crate) fn again(self) -> Self {
        match self {
            Self::Tip { since: Some(since) } => Self::Since(since),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use lease_store::SequenceNumber;

    use super::*;

    #[test]
    fn a_place_is_given_as_the_api_wants_it() {
        let number = SequenceNumber::new("4711".to_owned()).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        for (place, kind, sequence_number, millis) in [
            (Place::Oldest, ShardIteratorType::TrimHorizon, None, None),
            (Place::Tip { since: None }, ShardIteratorType::Latest, None, None),
            (Place::Tip { since: Some(time) }, ShardIteratorType::Latest, None, None),
            (Place::Since(time), ShardIteratorType::AtTimestamp, None, Some(1500)),
            (Place::At(number.clone()), ShardIteratorType::AtSequenceNumber, Some("4711"), None),
            (Place::After(number), ShardIteratorType::AfterSequenceNumber, Some("4711"), None),
        ] {
            let position = place.starting_position().unwrap();
            assert_eq!(position.r#type, kind);
            assert_eq!(position.sequence_number.as_deref(), sequence_number);
            assert_eq!(position.timestamp.map(|time| time.to_millis().unwrap()), millis);
        }
    }

    #[test]
    fn the_tip_of_then_is_found_again_by_its_time() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(Place::Tip { since: Some(time) }.again(), Place::Since(time));
        for place in [Place::Oldest, Place::Tip { since: None }, Place::Since(time)] {
            assert_eq!(place.clone().again(), place);
        }
    }
}
