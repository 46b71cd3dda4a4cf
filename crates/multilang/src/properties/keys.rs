//! The table of all keys: kind, default of the KCL, and whether the key has an effect here.

use self::DefaultValue::{Text as Is, Unset};
use self::Kind::{
    BoxedFlag, BoxedInteger, BoxedLong, Choice, Credentials, Decimal, Duration, Flag, Integer, List, Long,
    Tags, Text, Uri,
};

/// The kind of a value: how Java converts its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Text as it is.
    Text,
    /// A 32-bit integer of a primitive field: Java never applies 0.
    Integer,
    /// A 64-bit integer of a primitive field: Java never applies 0.
    Long,
    /// A 32-bit integer that may be 0.
    BoxedInteger,
    /// A 64-bit integer that may be 0.
    BoxedLong,
    /// A number with a fraction of a primitive field.
    Decimal,
    /// A boolean of a primitive field: Java never applies `false`.
    Flag,
    /// A boolean that may be `false`.
    BoxedFlag,
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// An ISO-8601 duration, such as `PT12H`.
    Duration,
    /// `key=value` pairs, separated by commas.
    Tags,
    /// Texts, separated by commas.
    List,
    /// A URI with a scheme.
    Uri,
    /// Credential providers, separated by commas.
    Credentials,
}

/// The value of a key that the file does not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// There is none.
    Unset,
    /// This text.
    Text(&'static str),
    /// The value of another key, with this text after it.
    Of(&'static str, &'static str),
}

/// Whether a key has an effect here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// As in Java.
    Honoured,
    /// A key of this daemon, which Java does not have.
    Own,
    /// Accepted without an effect, for this reason.
    Ignored(&'static str),
    /// The file cannot be used with it, for this reason.
    Refused(&'static str),
}

/// A key of the properties file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// Its name, as Java spells it.
    pub name: &'static str,
    /// How its text is converted.
    pub kind: Kind,
    /// Its value when the file does not set it.
    pub default: DefaultValue,
    /// Whether it has an effect.
    pub effect: Effect,
}

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default: Is(default), effect: Effect::Honoured }
}

const fn unset(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, default: Unset, effect: Effect::Honoured }
}

const fn derived(name: &'static str, kind: Kind, of: &'static str, suffix: &'static str) -> Key {
    Key { name, kind, default: DefaultValue::Of(of, suffix), effect: Effect::Honoured }
}

const fn own(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default: Is(default), effect: Effect::Own }
}

const fn ignored(name: &'static str, kind: Kind, default: DefaultValue, reason: &'static str) -> Key {
    Key { name, kind, default, effect: Effect::Ignored(reason) }
}

const BILLING_MODES: Kind = Choice(&["PAY_PER_REQUEST", "PROVISIONED"]);

const THREADS: &str = "this daemon has no thread pools";
const OWN_RETRIES: &str = "this daemon retries with randomised waits of its own";
const OWN_BALANCING: &str =
    "this daemon balances leases by their number, as KCL 2.x does, and writes no worker metrics";
const OWN_STATE: &str = "this daemon keeps no coordinator state of its own";
const OWN_SYNC: &str = "this daemon syncs shards by its own rules";

/// All keys.
pub const KEYS: &[Key] = &[
    // The child.
    unset("executableName", Text),
    ignored("processingLanguage", Text, Unset, "it only names the language in a log message of Java"),
    ignored("maxActiveThreads", Integer, Is("0"), THREADS),
    unset("timeoutInSeconds", BoxedInteger),
    key("shutdownGraceMillis", BoxedLong, "30000"),
    ignored(
        "validateSequenceNumberBeforeCheckpointing",
        Flag,
        Unset,
        "sequence numbers of checkpoints are always checked",
    ),
    own("childFailure", Choice(&["EXIT", "RESTART"]), "EXIT"),
    own("childRestartLimit", BoxedInteger, "10"),
    own("childExitMillis", BoxedLong, "30000"),
    own("childStdout", Choice(&["PASSTHROUGH", "LOG", "DROP"]), "PASSTHROUGH"),
    own("coordination", Choice(&["KCL"]), "KCL"),
    // Identity and AWS.
    unset("applicationName", Text),
    unset("streamName", Text),
    unset("streamArn", Text),
    derived("tableName", Text, "applicationName", ""),
    unset("workerId", Text),
    unset("regionName", Text),
    unset("kinesisEndpoint", Uri),
    unset("dynamoDBEndpoint", Uri),
    Key { name: "cloudWatchEndpoint", kind: Uri, default: Unset, effect: Effect::Own },
    unset("AwsCredentialsProvider", Credentials),
    derived("AwsCredentialsProviderDynamoDB", Credentials, "AwsCredentialsProvider", ""),
    derived("AwsCredentialsProviderCloudWatch", Credentials, "AwsCredentialsProvider", ""),
    // Retrieval.
    key("initialPositionInStream", Choice(&["LATEST", "TRIM_HORIZON"]), "LATEST"),
    unset("initialPositionInStreamExtended", Long),
    key("retrievalMode", Choice(&["DEFAULT", "FANOUT", "POLLING"]), "DEFAULT"),
    key("maxRecords", Integer, "10000"),
    key("idleTimeBetweenReadsInMillis", Long, "1500"),
    ignored(
        "millisBehindLatestThresholdForReducedTps",
        Long,
        Is("0"),
        "this daemon adapts its reads to the lag",
    ),
    ignored("retryGetRecordsInSeconds", BoxedInteger, Unset, OWN_RETRIES),
    ignored("maxGetRecordsThreadPool", BoxedInteger, Unset, THREADS),
    unset("fanoutConfig.consumerArn", Text),
    derived("fanoutConfig.consumerName", Text, "applicationName", ""),
    ignored("fanoutConfig.maxDescribeStreamSummaryRetries", Integer, Is("10"), OWN_RETRIES),
    ignored("fanoutConfig.maxDescribeStreamConsumerRetries", Integer, Is("10"), OWN_RETRIES),
    ignored("fanoutConfig.registerStreamConsumerRetries", Integer, Is("10"), OWN_RETRIES),
    ignored("fanoutConfig.retryBackoffMillis", Long, Is("1000"), OWN_RETRIES),
    key("callProcessRecordsEvenForEmptyRecordList", Flag, "false"),
    ignored("listShardsBackoffTimeInMillis", Long, Is("1500"), OWN_RETRIES),
    ignored("maxListShardsRetryAttempts", Integer, Is("50"), OWN_RETRIES),
    // Leases and coordination.
    key("failoverTimeMillis", Long, "10000"),
    ignored("leaseAssignmentIntervalMillis", Long, Unset, OWN_BALANCING),
    ignored("enablePriorityLeaseAssignment", BoxedFlag, Is("true"), OWN_BALANCING),
    key("leaseTableDeletionProtectionEnabled", BoxedFlag, "false"),
    key("leaseTablePitrEnabled", BoxedFlag, "false"),
    key("shardSyncIntervalMillis", Long, "60000"),
    ignored("cleanupLeasesUponShardCompletion", Flag, Is("true"), OWN_SYNC),
    ignored("ignoreUnexpectedChildShards", Flag, Is("false"), OWN_SYNC),
    key("maxLeasesForWorker", Integer, "2147483647"),
    key("maxLeasesToStealAtOneTime", Integer, "1"),
    ignored(
        "initialLeaseTableReadCapacity",
        Integer,
        Is("10"),
        "the lease table is created with on-demand capacity",
    ),
    ignored(
        "initialLeaseTableWriteCapacity",
        Integer,
        Is("10"),
        "the lease table is created with on-demand capacity",
    ),
    ignored("maxLeaseRenewalThreads", Integer, Is("20"), THREADS),
    ignored("leaseTableScanTotalSegments", Integer, Is("0"), "the lease table is scanned in one segment"),
    ignored("parentShardPollIntervalMillis", Long, Is("10000"), OWN_SYNC),
    ignored("skipShardSyncAtWorkerInitializationIfLeasesExist", Flag, Is("false"), OWN_SYNC),
    ignored("schedulerInitializationBackoffTimeMillis", Long, Is("1000"), OWN_RETRIES),
    Key {
        name: "shardPrioritization",
        kind: Text,
        default: Unset,
        effect: Effect::Refused("it names a Java object, and Java refuses each text too"),
    },
    ignored("taskBackoffTimeMillis", Long, Is("500"), OWN_RETRIES),
    ignored(
        "logWarningForTaskAfterMillis",
        BoxedLong,
        Unset,
        "use timeoutInSeconds to limit how long a child takes",
    ),
    ignored(
        "clientVersionConfig",
        Choice(&[
            "CLIENT_VERSION_CONFIG_3X",
            "CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X",
            "CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X_PHASE1",
        ]),
        Is("CLIENT_VERSION_CONFIG_3X"),
        "this daemon follows the mode that the tables of the application say",
    ),
    ignored("migrateAllEntitiesToLeaseTable", Flag, Is("false"), OWN_STATE),
    ignored("tableMigrationCompleteBakeTimeSeconds", Long, Is("86400"), OWN_STATE),
    key("gracefulLeaseHandoffTimeoutMillis", BoxedLong, "30000"),
    key("isGracefulLeaseHandoffEnabled", BoxedFlag, "true"),
    // Worker metrics and assignment of KCL 3.
    ignored("inMemoryWorkerMetricsCaptureFrequencyMillis", Long, Is("1000"), OWN_BALANCING),
    ignored("workerMetricsReporterFreqInMillis", Long, Is("30000"), OWN_BALANCING),
    ignored("noOfPersistedMetricsPerWorkerMetrics", Integer, Is("10"), OWN_BALANCING),
    ignored("disableWorkerMetrics", BoxedFlag, Is("false"), OWN_BALANCING),
    ignored("maxThroughputPerHostKBps", Decimal, Unset, OWN_BALANCING),
    ignored("dampeningPercentage", Integer, Is("60"), OWN_BALANCING),
    ignored("reBalanceThresholdPercentage", Integer, Is("10"), OWN_BALANCING),
    ignored("allowThroughputOvershoot", BoxedFlag, Is("true"), OWN_BALANCING),
    ignored("varianceBalancingFrequency", Integer, Is("3"), OWN_BALANCING),
    ignored("workerMetricsEMAAlpha", Decimal, Is("0.5"), OWN_BALANCING),
    ignored("staleWorkerMetricsEntryCleanupDuration", Duration, Is("P1D"), OWN_BALANCING),
    ignored(
        "workerMetricsTableName",
        Text,
        DefaultValue::Of("applicationName", "-WorkerMetricStats"),
        OWN_BALANCING,
    ),
    ignored(
        "coordinatorStateTableName",
        Text,
        DefaultValue::Of("applicationName", "-CoordinatorState"),
        OWN_STATE,
    ),
    ignored("workerMetricsBillingMode", BILLING_MODES, Is("PAY_PER_REQUEST"), OWN_BALANCING),
    ignored("workerMetricsReadCapacity", Long, Is("0"), OWN_BALANCING),
    ignored("workerMetricsWriteCapacity", Long, Is("0"), OWN_BALANCING),
    ignored("workerMetricsPointInTimeRecoveryEnabled", BoxedFlag, Is("false"), OWN_BALANCING),
    ignored("workerMetricsDeletionProtectionEnabled", BoxedFlag, Is("false"), OWN_BALANCING),
    ignored("workerMetricsTags", Tags, Unset, OWN_BALANCING),
    ignored("coordinatorStateBillingMode", BILLING_MODES, Is("PAY_PER_REQUEST"), OWN_STATE),
    ignored("coordinatorStateReadCapacity", Long, Is("0"), OWN_STATE),
    ignored("coordinatorStateWriteCapacity", Long, Is("0"), OWN_STATE),
    ignored("coordinatorStatePointInTimeRecoveryEnabled", BoxedFlag, Is("false"), OWN_STATE),
    ignored("coordinatorStateDeletionProtectionEnabled", BoxedFlag, Is("false"), OWN_STATE),
    ignored("coordinatorStateTags", Tags, Unset, OWN_STATE),
    // Metrics.
    key("metricsLevel", Choice(&["NONE", "SUMMARY", "DETAILED"]), "DETAILED"),
    key("metricsEnabledDimensions", List, "ALL"),
    key("metricsBufferTimeMillis", Long, "10000"),
    ignored("metricsMaxQueueSize", Integer, Is("10000"), "metrics are samples, no queue holds them"),
    // Found in files of others, dead in Java too.
    ignored("kinesisClientConfig", Text, Unset, "KCL 2.x and later ignore it"),
    ignored("recordsFetcherFactory", Text, Unset, "KCL 2.x and later ignore it"),
    ignored("useragent", Text, Unset, "KCL 2.x and later ignore it"),
];

/// Other names of keys, which Java accepts too.
const ALIASES: &[(&str, &str)] = &[
    ("workerIdentifier", "workerId"),
    ("pollingConfig.maxRecords", "maxRecords"),
    ("pollingConfig.idleTimeBetweenReadsInMillis", "idleTimeBetweenReadsInMillis"),
    ("pollingConfig.retryGetRecordsInSeconds", "retryGetRecordsInSeconds"),
    ("pollingConfig.maxGetRecordsThreadPool", "maxGetRecordsThreadPool"),
    ("kinesisClient.endpointOverride", "kinesisEndpoint"),
    ("dynamoDBClient.endpointOverride", "dynamoDBEndpoint"),
    ("cloudWatchClient.endpointOverride", "cloudWatchEndpoint"),
];

/// The objects whose fields are keys with a dot.
pub(super) const OBJECTS: &[&str] =
    &["fanoutConfig", "pollingConfig", "kinesisClient", "dynamoDBClient", "cloudWatchClient"];

const CREDENTIALS_PREFIX: &str = "AwsCredentialsProvider";

/// How a name in the file leads to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Java finds it too.
    Exact(&'static Key),
    /// Only the case differs; Java ignores the line.
    OtherCase(&'static Key),
    /// There is no such key; this one is similar.
    Unknown(Option<&'static Key>),
}

/// The key of a name in the file.
pub(super) fn find(name: &str) -> Found {
    let exact = |name: &str| KEYS.iter().find(|key| key.name == name);
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name).and_then(|(_, name)| exact(name));
    if let Some(key) = exact(name).or(alias).or_else(|| credentials(name).and_then(|name| exact(&name))) {
        return Found::Exact(key);
    }
    let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
    let other_case = alias.map_or(name, |(_, name)| name);
    if let Some(key) = KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(other_case)) {
        return Found::OtherCase(key);
    }
    let nearest =
        KEYS.iter().map(|key| (distance(name, key.name), key)).min_by_key(|(distance, _)| *distance);
    Found::Unknown(nearest.filter(|(distance, _)| *distance <= MAX_SUGGESTED_DISTANCE).map(|(_, key)| key))
}

/// A name that starts with `awscredentialsprovider` in any case, with the prefix as Java spells it.
fn credentials(name: &str) -> Option<String> {
    let (prefix, suffix) = name.split_at_checked(CREDENTIALS_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(CREDENTIALS_PREFIX).then(|| format!("{CREDENTIALS_PREFIX}{suffix}"))
}

/// A key with at most this many other characters is suggested for an unknown one.
const MAX_SUGGESTED_DISTANCE: usize = 3;

/// The longest name for which a similar key is searched, in characters.
const MAX_COMPARED_CHARACTERS: usize = 80;

/// The number of characters to insert, delete or replace, without regard to case.
fn distance(left: &str, right: &str) -> usize {
    let lower = |text: &str| -> Vec<char> {
        text.chars().take(MAX_COMPARED_CHARACTERS).map(|character| character.to_ascii_lowercase()).collect()
    };
    let (left, right) = (lower(left), lower(right));
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, character) in left.iter().enumerate() {
        let mut diagonal = index;
        row[0] = index + 1;
        for column in 0..right.len() {
            let replaced = diagonal + usize::from(right[column] != *character);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_references_exist() {
        for key in KEYS {
            let same = KEYS.iter().filter(|other| other.name.eq_ignore_ascii_case(key.name));
            assert_eq!(same.count(), 1, "{}", key.name);
            if let DefaultValue::Of(of, _) = key.default {
                assert!(matches!(find(of), Found::Exact(_)), "{}", key.name);
            }
        }
        for (alias, name) in ALIASES {
            assert!(matches!(find(alias), Found::Exact(key) if key.name == *name), "{alias}");
        }
    }

    #[test]
    fn names_are_found_as_java_finds_them_and_in_other_cases() {
        let name = |found| match found {
            Found::Exact(key) => format!("exact {}", key.name),
            Found::OtherCase(key) => format!("case {}", key.name),
            Found::Unknown(key) => format!("unknown {}", key.map_or("-", |key| key.name)),
        };
        for (written, expected) in [
            ("retrievalMode", "exact retrievalMode"),
            ("RetrievalMode", "case retrievalMode"),
            ("AWSCredentialsProvider", "exact AwsCredentialsProvider"),
            ("AWSCredentialsProviderDynamoDB", "exact AwsCredentialsProviderDynamoDB"),
            ("AWSCredentialsProviderDynamodb", "case AwsCredentialsProviderDynamoDB"),
            ("workerIdentifier", "exact workerId"),
            ("faioverTimeMilis", "unknown failoverTimeMillis"),
            ("somethingElse", "unknown -"),
            ("é", "unknown -"),
        ] {
            assert_eq!(name(find(written)), expected, "{written}");
        }
    }
}
