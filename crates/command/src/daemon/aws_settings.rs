//! The settings of the daemon as those of the AWS side.

use std::collections::BTreeMap;
use std::time::Duration;

use kinesis_streaming::kinesis_asl::{AwsSettings, FanOutSettings, RetrievalMode};
use multilang::properties::{DaemonSettings, RetrievalMode as DaemonRetrievalMode};

/// The longest wait between two reads: a read must return within a minute.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// The property of `java` that names the region.
const REGION_PROPERTY: &str = "aws.region";

/// The settings of the AWS side. A `regionName` has priority over `-Daws.region`, and that over the environment.
pub(super) fn aws_settings(
    settings: &DaemonSettings,
    system_properties: &BTreeMap<String, String>,
) -> AwsSettings {
    let mut aws = AwsSettings::new(&settings.stream);
    aws.region = settings.region.clone().or_else(|| system_properties.get(REGION_PROPERTY).cloned());
    aws.kinesis_endpoint_url.clone_from(&settings.kinesis_endpoint);
    aws.dynamodb_endpoint_url.clone_from(&settings.dynamodb_endpoint);
    aws.cloudwatch_endpoint_url.clone_from(&settings.cloudwatch_endpoint);
    aws.lease_table = Some(settings.lease_table.clone());
    aws.idle_time_between_reads = settings.idle_time.min(MAX_IDLE_TIME);
    aws.retrieval = match settings.retrieval {
        DaemonRetrievalMode::FanOut => RetrievalMode::FanOut(match &settings.consumer_arn {
            Some(arn) => FanOutSettings::with_consumer_arn(arn),
            None => FanOutSettings::with_consumer_name(&settings.consumer_name),
        }),
        // Polling, the only other mode.
        _ => RetrievalMode::Polling,
    };
    aws.table.deletion_protection = settings.protects_lease_table;
    aws.table.point_in_time_recovery = settings.lease_table_recovery;
    aws
}

#[cfg(test)]
mod tests {
    use multilang::properties::{Strictness, interpret, parse_properties};

    use super::*;

    fn of(lines: &str, system_properties: &[(&str, &str)]) -> AwsSettings {
        let text = format!(
            "executableName = a.py\napplicationName = app\nstreamName = words\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\n{lines}"
        );
        let file = parse_properties(text.as_bytes()).unwrap();
        let settings = DaemonSettings::new(&interpret(&file, Strictness::Compatible)).unwrap();
        let pairs = system_properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        aws_settings(&settings, &pairs.collect())
    }

    #[test]
    fn keys_lead_to_their_settings() {
        let aws = of(
            "regionName = eu-west-1\nkinesisEndpoint = http://127.0.0.1:1\ndynamoDBEndpoint = http://127.0.0.1:2\n\
             cloudWatchEndpoint = http://127.0.0.1:3\ntableName = leases\nidleTimeBetweenReadsInMillis = 250\n\
             leaseTablePitrEnabled = true\nleaseTableDeletionProtectionEnabled = true",
            &[("aws.region", "us-west-2")],
        );
        assert_eq!(aws.faults(), Vec::<String>::new());
        assert_eq!((aws.stream_name.as_str(), aws.region.as_deref()), ("words", Some("eu-west-1")));
        assert_eq!(aws.kinesis_endpoint_url.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(aws.dynamodb_endpoint_url.as_deref(), Some("http://127.0.0.1:2"));
        assert_eq!(aws.cloudwatch_endpoint_url.as_deref(), Some("http://127.0.0.1:3"));
        assert_eq!(aws.lease_table.as_deref(), Some("leases"));
        assert_eq!(aws.idle_time_between_reads, Duration::from_millis(250));
        assert_eq!(aws.retrieval, RetrievalMode::Polling, "a polling key is set");
        assert!(aws.table.deletion_protection && aws.table.point_in_time_recovery);
    }

    #[test]
    fn fan_out_is_the_default_as_in_the_kcl() {
        let aws = of("", &[("aws.region", "us-west-2")]);
        assert_eq!(aws.retrieval, RetrievalMode::FanOut(FanOutSettings::with_consumer_name("app")));
        assert_eq!(aws.region.as_deref(), Some("us-west-2"));
        let arn = "arn:aws:kinesis:us-east-1:123456789012:stream/words/consumer/c:1";
        let aws = of(&format!("retrievalMode = fanout\nfanoutConfig.consumerArn = {arn}"), &[]);
        assert_eq!(aws.retrieval, RetrievalMode::FanOut(FanOutSettings::with_consumer_arn(arn)));
    }

    #[test]
    fn long_idle_time_is_cut_to_a_minute() {
        let aws = of("idleTimeBetweenReadsInMillis = 90000", &[]);
        assert_eq!(aws.idle_time_between_reads, Duration::from_secs(60));
        assert_eq!(aws.faults(), Vec::<String>::new());
    }
}
