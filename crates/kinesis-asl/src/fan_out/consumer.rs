//! A registered consumer of a stream, and the next step for its state: pure.

use std::fmt;
use std::time::SystemTime;

use aws_sdk_kinesis::types;

use super::settings::ConsumerChoice;
use crate::service_time::to_system_time;

/// The state of a registered consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerStatus {
    /// The consumer is being registered and cannot read yet.
    Creating,
    /// The consumer can read.
    Active,
    /// The consumer is being removed.
    Deleting,
    /// The service reported a state that this version does not know.
    Unknown,
}

impl fmt::Display for ConsumerStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Deleting => "DELETING",
            Self::Unknown => "UNKNOWN",
        })
    }
}

impl From<&types::ConsumerStatus> for ConsumerStatus {
    fn from(status: &types::ConsumerStatus) -> Self {
        match status {
            types::ConsumerStatus::Creating => Self::Creating,
            types::ConsumerStatus::Active => Self::Active,
            types::ConsumerStatus::Deleting => Self::Deleting,
            _ => Self::Unknown,
        }
    }
}

/// A registered consumer of a stream. AWS charges for each by the hour and shard, whether or not it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamConsumer {
    /// The name, unique among the consumers of the stream.
    pub name: String,
    /// The ARN, which contains the registration time: a consumer registered again under the same name has another ARN.
    pub arn: String,
    /// The state.
    pub status: ConsumerStatus,
    /// The registration time by the service's clock.
    pub created_at: Option<SystemTime>,
}

impl From<types::ConsumerDescription> for StreamConsumer {
    fn from(found: types::ConsumerDescription) -> Self {
        Self {
            status: (&found.consumer_status).into(),
            created_at: to_system_time(found.consumer_creation_timestamp),
            name: found.consumer_name,
            arn: found.consumer_arn,
        }
    }
}

impl From<types::Consumer> for StreamConsumer {
    fn from(found: types::Consumer) -> Self {
        Self {
            status: (&found.consumer_status).into(),
            created_at: to_system_time(found.consumer_creation_timestamp),
            name: found.consumer_name,
            arn: found.consumer_arn,
        }
    }
}

/// The next step towards a consumer that can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Subscribe as this active consumer.
    Use(StreamConsumer),
    /// The consumer does not exist: register it.
    Register,
    /// The consumer is being registered or removed: check again.
    Wait(ConsumerStatus),
    /// The consumer does not exist, and was given by its ARN, so it cannot be registered.
    Missing,
}

/// The next step for the consumer that `DescribeStreamConsumer` found.
pub(crate) fn next_step(choice: &ConsumerChoice, found: Option<StreamConsumer>) -> Step {
    match (choice, found) {
        (ConsumerChoice::Name(_), None) => Step::Register,
        (ConsumerChoice::Arn(_), None) => Step::Missing,
        (_, Some(found)) if found.status == ConsumerStatus::Active => Step::Use(found),
        // A deregistered ARN is never reused.
        (ConsumerChoice::Arn(_), Some(found)) if found.status == ConsumerStatus::Deleting => Step::Missing,
        (_, Some(found)) => Step::Wait(found.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(status: ConsumerStatus) -> StreamConsumer {
        StreamConsumer { name: "count".to_owned(), arn: "arn".to_owned(), status, created_at: None }
    }

    #[test]
    fn only_a_missing_consumer_chosen_by_name_is_registered() {
        let (name, arn) = (ConsumerChoice::Name("count".to_owned()), ConsumerChoice::Arn("arn".to_owned()));
        assert_eq!(next_step(&name, None), Step::Register);
        assert_eq!(next_step(&arn, None), Step::Missing);
        for choice in [&name, &arn] {
            let active = consumer(ConsumerStatus::Active);
            assert_eq!(next_step(choice, Some(active.clone())), Step::Use(active));
            for status in [ConsumerStatus::Creating, ConsumerStatus::Unknown] {
                assert_eq!(next_step(choice, Some(consumer(status))), Step::Wait(status));
            }
        }
        let deleting = || Some(consumer(ConsumerStatus::Deleting));
        assert_eq!(next_step(&name, deleting()), Step::Wait(ConsumerStatus::Deleting));
        assert_eq!(next_step(&arn, deleting()), Step::Missing);
    }
}
