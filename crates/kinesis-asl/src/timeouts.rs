//! The time-outs of the AWS clients, from the settings.

use aws_sdk_kinesis::config::timeout::TimeoutConfig;

use crate::settings::AwsSettings;

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
