//! Settings from environment variables, for programs without a configuration of their own.

use crate::error::{AslError, AslErrorKind};
use crate::fan_out::settings::{FanOutSettings, RetrievalMode};
use crate::settings::AwsSettings;

/// The stream: its name or its ARN.
const STREAM: &str = "KINESIS_STREAM";

/// The fan-out consumer: its name or its ARN.
const CONSUMER: &str = "KINESIS_CONSUMER";

impl AwsSettings {
    /// Settings from the environment: the stream from `KINESIS_STREAM`, by name or ARN. With `KINESIS_CONSUMER`, by name or ARN,
    /// the stream is read by fan-out. All other settings have their defaults, which are the SDK's own variables.
    ///
    /// # Errors
    /// `InvalidSettings` when `KINESIS_STREAM` is not set, or a value is not valid.
    pub fn from_environment() -> Result<Self, AslError> {
        from_variables(|name| std::env::var(name).ok())
    }
}

fn from_variables(value_of: impl Fn(&str) -> Option<String>) -> Result<AwsSettings, AslError> {
    let value_of = |name| value_of(name).filter(|value| !value.is_empty());
    let Some(stream) = value_of(STREAM) else {
        let message =
            format!("no stream is set: set {STREAM} in the environment to the name or the ARN of the stream");
        return Err(AslError::new(AslErrorKind::InvalidSettings, message));
    };
    let mut settings = AwsSettings::new(stream);
    if let Some(consumer) = value_of(CONSUMER) {
        settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer(consumer));
    }
    settings.validate().map_err(|error| {
        let message = format!("{error}\n(from {STREAM} and {CONSUMER} of the environment)");
        AslError::new(error.kind(), message)
    })?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/words";

    fn read(stream: &str, consumer: &str) -> Result<AwsSettings, AslError> {
        from_variables(|name| match name {
            STREAM => Some(stream.to_owned()),
            CONSUMER => Some(consumer.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_take_names_and_arns() {
        let consumer_arn = format!("{ARN}/consumer/count:17");
        for stream in ["words", ARN] {
            assert_eq!(read(stream, "").unwrap(), AwsSettings::new(stream));
            for (consumer, settings) in [
                ("count", FanOutSettings::with_consumer_name("count")),
                (&*consumer_arn, FanOutSettings::with_consumer_arn(&consumer_arn)),
            ] {
                let retrieval = RetrievalMode::FanOut(settings);
                let expected = AwsSettings { retrieval, ..AwsSettings::new(stream) };
                assert_eq!(read(stream, consumer).unwrap(), expected);
            }
        }
    }

    #[test]
    fn missing_and_faulty_variables_are_named() {
        for (stream, consumer, part) in [
            ("", "", "no stream is set"),
            ("two words", "", "two words"),
            ("arn:aws:s3:::words", "", "\"s3\""),
            ("words", "two words", "two words"),
            (ARN, "arn:aws:kinesis:eu-west-1:111122223333:stream/lines/consumer/count:17", "stream/lines"),
        ] {
            let error = read(stream, consumer).unwrap_err();
            assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
            let message = error.to_string();
            assert!(message.contains(part) && message.contains(STREAM), "{message}");
        }
    }
}
