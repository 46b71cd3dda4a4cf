//! The time-outs of the AWS clients: from the settings, with tighter bounds for lease calls.

use std::time::Duration;

use aws_sdk_kinesis::config::timeout::TimeoutConfig;

use crate::settings::AwsSettings;

/// The longest attempt of a lease call. Rows are small and DynamoDB answers within milliseconds. A write that hangs holds up
/// the renewal of its lease, which must succeed within the fail-over time (10 s by default).
pub(crate) const MAX_LEASE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest lease call, with all its attempts.
pub(crate) const MAX_LEASE_OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The time-outs for a client that the caller configured without any.
pub(crate) fn default_timeouts() -> TimeoutConfig {
    timeouts(&AwsSettings::new(""))
}

pub(crate) fn timeouts(settings: &AwsSettings) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.attempt_timeout)
        .operation_timeout(settings.operation_timeout)
        .build()
}

/// The time-outs of the settings, bounded so that one slow call cannot cost a lease.
pub(crate) fn lease_timeouts(settings: &AwsSettings) -> TimeoutConfig {
    timeouts(settings)
        .to_builder()
        .operation_attempt_timeout(settings.attempt_timeout.min(MAX_LEASE_ATTEMPT_TIMEOUT))
        .operation_timeout(settings.operation_timeout.min(MAX_LEASE_OPERATION_TIMEOUT))
        .build()
}
