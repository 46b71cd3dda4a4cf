//! A registered consumer of a stream, and what follows from its state: pure.

use std::fmt;
use std::time::SystemTime;

use aws_sdk_kinesis::types;

use super::settings::ConsumerChoice;
use crate::service_time::to_system_time;

/// The state of a registered consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerStatus {
    /// It is being registered and cannot read yet.
    Creating,
    /// It can read.
    Active,
    /// It is being removed.
    Deleting,
    /// The service says something that this version does not know.
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
    /// Its name, unique among the consumers of the stream.
    pub name: String,
    /// Its ARN, which holds the time it was registered: another one with the same name has another ARN.
    pub arn: String,
    /// Its state.
    pub status: ConsumerStatus,
    /// When it was registered, by the service's clock.
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

/// What to do next on the way to a consumer that can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It can read.
    Use(StreamConsumer),
    /// There is none: register it.
    Register,
    /// It is being registered or removed: look again.
    Wait(ConsumerStatus),
    /// There is none, and it is not ours to register.
    Missing,
}

/// What follows from what was found.
pub(crate) fn next_step(choice: &ConsumerChoice, found: Option<StreamConsumer>) -> Step {
    match (choice, found) {
        (ConsumerChoice::Name(_), None) => Step::Register,
        (ConsumerChoice::Arn(_), None) => Step::Missing,
        (_, Some(found)) if found.status == ConsumerStatus::Active => Step::Use(found),
        // An ARN never comes back.
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
    fn only_what_is_absent_and_ours_is_registered() {
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
