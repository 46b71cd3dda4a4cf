//! The rules between keys: required ones, ranges, precedence.

use super::credentials::parse_credentials;
use super::effective::{EffectiveConfiguration, Severity};
use super::values::Value;

/// The most records of a read that Kinesis allows.
const MAX_RECORDS: i64 = 10_000;

/// The shortest wait between two reads that the KCL allows, in milliseconds.
const MIN_IDLE_MILLIS: i64 = 200;

/// The keys that make `retrievalMode = DEFAULT` poll when they are set and not 0.
pub(super) const POLLING_KEYS: [&str; 5] = [
    "maxRecords",
    "idleTimeBetweenReadsInMillis",
    "retryGetRecordsInSeconds",
    "maxGetRecordsThreadPool",
    "millisBehindLatestThresholdForReducedTps",
];

/// The keys whose value must be above 0.
const POSITIVE: [&str; 6] = [
    "timeoutInSeconds",
    "failoverTimeMillis",
    "maxLeasesForWorker",
    "maxLeasesToStealAtOneTime",
    "shardSyncIntervalMillis",
    "maxRecords",
];

/// The keys whose value must not be negative.
const NOT_NEGATIVE: [&str; 5] = [
    "shutdownGraceMillis",
    "childRestartLimit",
    "childExitMillis",
    "gracefulLeaseHandoffTimeoutMillis",
    "metricsBufferTimeMillis",
];

/// Checks the rules between keys.
pub(super) fn cross_check(configuration: &mut EffectiveConfiguration) {
    check_stream(configuration);
    check_required(configuration);
    check_credentials(configuration);
    check_ranges(configuration);
    check_start(configuration);
}

pub(super) fn text<'a>(configuration: &'a EffectiveConfiguration, name: &str) -> Option<&'a str> {
    match &configuration.get(name)?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

pub(super) fn integer(configuration: &EffectiveConfiguration, name: &str) -> Option<i64> {
    match configuration.get(name)?.value {
        Value::Integer(integer) => Some(integer),
        _ => None,
    }
}

/// `streamArn` wins over `streamName`; only the name in it counts.
fn check_stream(configuration: &mut EffectiveConfiguration) {
    let Some(arn) = text(configuration, "streamArn").map(str::to_owned) else { return };
    let line = configuration.line_of("streamArn");
    if arn.trim().is_empty() {
        configuration.remove("streamArn");
        configuration.say(Severity::Warning, line, "streamArn is empty and ignored; remove it");
    } else if stream_of_arn(&arn).is_none() {
        let text = format!(
            "streamArn = {arn} is not valid; write arn:aws:kinesis:region:account:stream/name, or remove it"
        );
        configuration.say(Severity::Error, line, text);
    } else if configuration.get("streamName").is_some() {
        let text =
            "streamArn wins over streamName; only the name in it is used, its region and account are not";
        configuration.say(Severity::Note, line, text);
    }
}

/// The name of the stream in an ARN.
pub(super) fn stream_of_arn(arn: &str) -> Option<&str> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [prefix, partition, "kinesis", _region, account, resource] = parts[..] else { return None };
    let name = resource.strip_prefix("stream/")?;
    let is_valid = prefix == "arn"
        && partition.starts_with("aws")
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !name.is_empty()
        && !name.contains('/');
    is_valid.then_some(name)
}

/// The messages are those of Java.
fn check_required(configuration: &mut EffectiveConfiguration) {
    let has = |configuration: &EffectiveConfiguration, name| {
        text(configuration, name).is_some_and(|text| !text.trim().is_empty())
    };
    for (names, message) in [
        (
            &["executableName"][..],
            "Must provide an executable name in the properties file, e.g. executableName = sampleapp.py",
        ),
        (&["applicationName"], "Application name is required"),
        (
            &["streamName", "streamArn"],
            "Stream name or Stream Arn is required. Stream Arn takes precedence if both are passed in.",
        ),
        (&["AwsCredentialsProvider"], "A basic set of AWS credentials must be provided"),
    ] {
        if !names.iter().any(|name| has(configuration, name)) {
            configuration.say(Severity::Error, None, message);
        }
    }
    if let Some(region) = text(configuration, "regionName")
        && region.trim().is_empty()
    {
        let line = configuration.line_of("regionName");
        configuration.say(Severity::Error, line, "regionName is empty; name the region, or remove the line");
    }
}

fn check_credentials(configuration: &mut EffectiveConfiguration) {
    for name in
        ["AwsCredentialsProvider", "AwsCredentialsProviderDynamoDB", "AwsCredentialsProviderCloudWatch"]
    {
        let Some(line) = configuration.line_of(name) else { continue };
        let Some(list) = text(configuration, name) else { continue };
        let (sources, messages) = parse_credentials(list);
        let is_empty = list.trim().is_empty();
        for message in messages {
            configuration.say(Severity::Warning, Some(line), format!("{name}: {message}"));
        }
        if sources.is_empty() && !is_empty {
            let text = format!("{name}: no credential provider of the list can be used; name at least one");
            configuration.say(Severity::Error, Some(line), text);
        }
    }
}

fn check_ranges(configuration: &mut EffectiveConfiguration) {
    for (names, min) in [(&POSITIVE[..], 1), (&NOT_NEGATIVE[..], 0)] {
        for name in names {
            if let Some(value) = integer(configuration, name)
                && value < min
            {
                let line = configuration.line_of(name);
                configuration.say(Severity::Error, line, format!("{name} = {value} must be at least {min}"));
            }
        }
    }
    if let Some(value) = integer(configuration, "maxRecords")
        && value > MAX_RECORDS
    {
        let line = configuration.line_of("maxRecords");
        configuration.say(
            Severity::Error,
            line,
            format!("maxRecords = {value} must be at most {MAX_RECORDS}"),
        );
    }
    if let Some(value) = integer(configuration, "idleTimeBetweenReadsInMillis")
        && value < MIN_IDLE_MILLIS
    {
        let line = configuration.line_of("idleTimeBetweenReadsInMillis");
        let text =
            format!("idleTimeBetweenReadsInMillis = {value} is raised to {MIN_IDLE_MILLIS}, as in the KCL");
        configuration.set(
            "idleTimeBetweenReadsInMillis",
            Value::Integer(MIN_IDLE_MILLIS),
            MIN_IDLE_MILLIS.to_string(),
        );
        configuration.say(Severity::Warning, line, text);
    }
}

/// Of the two keys for the start, the later line wins.
fn check_start(configuration: &mut EffectiveConfiguration) {
    let (word, time) = ("initialPositionInStream", "initialPositionInStreamExtended");
    let (Some(word_line), Some(time_line)) = (configuration.line_of(word), configuration.line_of(time))
    else {
        return;
    };
    let (winner, loser) = if word_line > time_line { (word, time) } else { (time, word) };
    let line = configuration.line_of(loser);
    configuration.say(
        Severity::Warning,
        line,
        format!("{loser} is ignored: the later line {winner} wins; remove one"),
    );
    if loser == time {
        configuration.remove(time);
    }
}
