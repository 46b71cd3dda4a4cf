//! The settings for AWS, as an application reads them from flags or a file. They cause no panic, every fault names
//! its setting, no fault shows a password in a URL, and the SDK's client can call every accepted endpoint.
//!
//! An input is lines of `name=value`.

use std::time::Duration;

use kinesis_asl::{AslErrorKind, AwsSettings, FanOutSettings, RetrievalMode};

use crate::target::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "aws_settings",
    check,
    tokens: &[
        b"http://",
        b"https://",
        b":",
        b"@",
        b"/",
        b"?",
        b"#",
        b"[::1]",
        b"[",
        b"]",
        b":80",
        b":65536",
        b"0",
        b"=",
        b"\n",
        b"localhost",
        b"eu-west-1",
        b"stream_name=",
        b"region=",
        b"kinesis_endpoint_url=",
        b"lease_table=",
        b"consumer=",
        b"arn:aws:kinesis:",
        b"arn:aws:kinesis:eu-west-1:111122223333:stream/words",
        b"/consumer/count:17",
        b"consumer_arn=",
        b"idle_time_between_reads=",
        b"attempt_timeout=",
        b"18446744073709551615",
        b" ",
        b"%",
        b"\xc3\xbc",
    ],
};

/// The first words of faults: the setting, or the term for a setting of fan-out.
const NAMES: [&str; 18] = [
    "stream_name",
    "region",
    "dynamodb_region",
    "cloudwatch_region",
    "kinesis_endpoint_url",
    "dynamodb_endpoint_url",
    "cloudwatch_endpoint_url",
    "lease_table",
    "connect_timeout",
    "attempt_timeout",
    "operation_timeout",
    "idle_time_between_reads",
    "max_idle_time_between_reads",
    "read_share_percent",
    "consumer name",
    "consumer ARN",
    "inactivity_timeout",
    "retry_fan_out_after",
];

fn check(input: &[u8]) -> Reading {
    let Ok(text) = std::str::from_utf8(input) else { return Reading::Ignored };
    let settings = settings(text);
    let faults = settings.faults();
    for fault in &faults {
        assert!(NAMES.iter().any(|name| fault.starts_with(name)), "{fault:?} names no setting");
    }
    let urls = [
        ("kinesis_endpoint_url", &settings.kinesis_endpoint_url),
        ("dynamodb_endpoint_url", &settings.dynamodb_endpoint_url),
        ("cloudwatch_endpoint_url", &settings.cloudwatch_endpoint_url),
    ];
    // The text before an @ may be a password, so a fault must show no part of such a URL.
    for (name, _) in urls.iter().filter(|(_, url)| url.as_ref().is_some_and(|url| url.contains('@'))) {
        let mut of_the_url = faults.iter().filter(|fault| fault.starts_with(name));
        assert!(of_the_url.all(|fault| !fault.contains('@') && !fault.contains('"')), "{faults:?}");
    }
    match settings.validate() {
        Ok(()) => {
            assert_eq!(faults, Vec::<String>::new());
            for url in urls.into_iter().filter_map(|(_, url)| url.as_ref()) {
                assert!(request_to(url).uri().starts_with("http"));
            }
            Reading::Accepted
        }
        Err(error) => {
            assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
            assert_eq!(error.to_string().matches("\n- ").count(), faults.len(), "{error}");
            Reading::Refused
        }
    }
}

/// Creates a request to the endpoint, as the SDK's client does.
fn request_to(url: &str) -> aws_smithy_runtime_api::http::Request<()> {
    let mut request = aws_smithy_runtime_api::http::Request::new(());
    request.set_uri(url).unwrap_or_else(|error| panic!("{url:?} was accepted and is not a URL: {error}"));
    request
}

fn settings(text: &str) -> AwsSettings {
    let mut settings = AwsSettings::new("words");
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let text = || Some(value.to_owned());
        let time = || value.parse().map_or(Duration::ZERO, Duration::from_millis);
        match name {
            "stream_name" => value.clone_into(&mut settings.stream_name),
            "region" => settings.region = text(),
            "kinesis_endpoint_url" => settings.kinesis_endpoint_url = text(),
            "dynamodb_endpoint_url" => settings.dynamodb_endpoint_url = text(),
            "cloudwatch_endpoint_url" => settings.cloudwatch_endpoint_url = text(),
            "dynamodb_region" => settings.dynamodb_region = text(),
            "cloudwatch_region" => settings.cloudwatch_region = text(),
            "lease_table" => settings.lease_table = text(),
            "connect_timeout" => settings.connect_timeout = time(),
            "attempt_timeout" => settings.attempt_timeout = time(),
            "operation_timeout" => settings.operation_timeout = time(),
            "idle_time_between_reads" => settings.idle_time_between_reads = time(),
            "max_idle_time_between_reads" => settings.max_idle_time_between_reads = Some(time()),
            "read_share_percent" => settings.read_share_percent = value.parse().unwrap_or_default(),
            "consumer" => {
                settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_name(value));
            }
            "consumer_arn" => {
                settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_arn(value));
            }
            "inactivity_timeout" | "retry_fan_out_after" => {
                if let RetrievalMode::FanOut(fan_out) = &mut settings.retrieval {
                    let set = if name == "inactivity_timeout" {
                        &mut fan_out.inactivity_timeout
                    } else {
                        &mut fan_out.retry_fan_out_after
                    };
                    *set = time();
                }
            }
            _ => {}
        }
    }
    settings
}
