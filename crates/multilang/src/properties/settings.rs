//! The configuration as plain types, for the code that maps it to the parts of the daemon.

use std::time::Duration;

use super::credentials::{CredentialSource, parse_credentials};
use super::effective::{EffectiveConfiguration, Origin, Severity};
use super::resolve::{POLLING_KEYS, integer, stream_of_arn, text};
use super::values::Value;
use crate::child::command::ChildCommand;
use crate::child::output::StdoutMode;
use crate::error::{MultilangError, MultilangErrorKind};

/// Where a shard without a checkpoint starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPosition {
    /// At the newest record.
    Latest,
    /// At the oldest record.
    TrimHorizon,
    /// At this many seconds after 1970.
    AtSeconds(i64),
}

/// How records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetrievalMode {
    /// Enhanced fan-out, the default.
    FanOut,
    /// Polling.
    Polling,
}

/// What happens when a child fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildFailurePolicy {
    /// The daemon exits with 1, as in Java.
    Exit,
    /// The child is started anew, at most this many times without progress.
    Restart {
        /// The most starts in a row without an answered batch.
        limit: u32,
    },
}

/// The configuration as plain types.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonSettings {
    /// The command of each child.
    pub command: ChildCommand,
    /// How long a child may take for each message (`timeoutInSeconds`). `None`: without an end.
    pub answer_time: Option<Duration>,
    /// How long a stop may take (`shutdownGraceMillis`).
    pub shutdown_grace: Duration,
    /// How long a child may take to exit after its input was closed (`childExitMillis`).
    pub child_exit_time: Duration,
    /// What happens when a child fails (`childFailure`, `childRestartLimit`).
    pub child_failure: ChildFailurePolicy,
    /// What happens to output of children that is no message (`childStdout`).
    pub child_stdout: StdoutMode,
    /// The name of the application.
    pub application: String,
    /// The name of the stream.
    pub stream: String,
    /// The name of the lease table.
    pub lease_table: String,
    /// The name of this worker. `None`: a new one at each start.
    pub worker_id: Option<String>,
    /// The region. `None`: that of the environment.
    pub region: Option<String>,
    /// The endpoint of Kinesis.
    pub kinesis_endpoint: Option<String>,
    /// The endpoint of DynamoDB.
    pub dynamodb_endpoint: Option<String>,
    /// The endpoint of CloudWatch.
    pub cloudwatch_endpoint: Option<String>,
    /// The credentials for Kinesis, in the order in which they are tried.
    pub kinesis_credentials: Vec<CredentialSource>,
    /// The credentials for DynamoDB.
    pub dynamodb_credentials: Vec<CredentialSource>,
    /// The credentials for CloudWatch.
    pub cloudwatch_credentials: Vec<CredentialSource>,
    /// Where a shard without a checkpoint starts.
    pub start: StartPosition,
    /// How records are read.
    pub retrieval: RetrievalMode,
    /// The most records of a read.
    pub max_records: u32,
    /// Whether children get an empty batch after a read that found no records.
    pub calls_for_empty_reads: bool,
    /// The wait between two reads that found no record.
    pub idle_time: Duration,
    /// The ARN of the fan-out consumer. `None`: the one with the name is registered.
    pub consumer_arn: Option<String>,
    /// The name of the fan-out consumer.
    pub consumer_name: String,
    /// How long a lease may stay without a renewal.
    pub failover_time: Duration,
    /// The most leases of this worker.
    pub max_leases: usize,
    /// The most leases that this worker requests at a time.
    pub max_lease_moves: usize,
    /// The time between two shard syncs.
    pub shard_sync_interval: Duration,
    /// How long the owner of a lease may take to hand it over. `None`: it is not asked.
    pub hand_over_time: Option<Duration>,
    /// Whether a new lease table is protected from deletion.
    pub protects_lease_table: bool,
    /// Whether a new lease table has point-in-time recovery.
    pub lease_table_recovery: bool,
    /// `NONE`, `SUMMARY` or `DETAILED`.
    pub metrics_level: String,
    /// The dimensions of metrics, `ALL` for all.
    pub metrics_dimensions: Vec<String>,
    /// The time between two writes of metrics.
    pub metrics_interval: Duration,
}

impl DaemonSettings {
    /// The settings of a configuration.
    ///
    /// # Errors
    /// `InvalidProperties` with all errors of the file, one line each.
    pub fn new(configuration: &EffectiveConfiguration) -> Result<Self, MultilangError> {
        let errors: Vec<String> = configuration
            .messages()
            .iter()
            .filter(|message| message.severity == Severity::Error)
            .map(ToString::to_string)
            .collect();
        if !errors.is_empty() {
            return Err(MultilangError::new(MultilangErrorKind::InvalidProperties, errors.join("\n")));
        }
        let read = Reader { configuration };
        let arn = read.text("streamArn");
        let stream =
            arn.as_deref().and_then(stream_of_arn).map(str::to_owned).or_else(|| read.text("streamName"));
        Ok(Self {
            command: ChildCommand::parse(&read.text("executableName").unwrap_or_default())?,
            answer_time: integer(configuration, "timeoutInSeconds")
                .map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
            shutdown_grace: read.millis("shutdownGraceMillis"),
            child_exit_time: read.millis("childExitMillis"),
            child_failure: match text(configuration, "childFailure") {
                Some("RESTART") => ChildFailurePolicy::Restart { limit: read.count("childRestartLimit") },
                _ => ChildFailurePolicy::Exit,
            },
            child_stdout: match text(configuration, "childStdout") {
                Some("LOG") => StdoutMode::Log,
                Some("DROP") => StdoutMode::Drop,
                _ => StdoutMode::PassThrough,
            },
            application: read.text("applicationName").unwrap_or_default(),
            stream: stream.unwrap_or_default(),
            lease_table: read.text("tableName").unwrap_or_default(),
            worker_id: read.text("workerId").filter(|worker_id| !worker_id.is_empty()),
            region: read.text("regionName"),
            kinesis_endpoint: read.text("kinesisEndpoint"),
            dynamodb_endpoint: read.text("dynamoDBEndpoint"),
            cloudwatch_endpoint: read.text("cloudWatchEndpoint"),
            kinesis_credentials: read.credentials("AwsCredentialsProvider"),
            dynamodb_credentials: read.credentials("AwsCredentialsProviderDynamoDB"),
            cloudwatch_credentials: read.credentials("AwsCredentialsProviderCloudWatch"),
            start: read.start(),
            retrieval: read.retrieval(),
            max_records: read.count("maxRecords"),
            calls_for_empty_reads: read.flag("callProcessRecordsEvenForEmptyRecordList"),
            idle_time: read.millis("idleTimeBetweenReadsInMillis"),
            consumer_arn: read.text("fanoutConfig.consumerArn"),
            consumer_name: read.text("fanoutConfig.consumerName").unwrap_or_default(),
            failover_time: read.millis("failoverTimeMillis"),
            max_leases: read.count("maxLeasesForWorker") as usize,
            max_lease_moves: read.count("maxLeasesToStealAtOneTime") as usize,
            shard_sync_interval: read.millis("shardSyncIntervalMillis"),
            hand_over_time: read
                .flag("isGracefulLeaseHandoffEnabled")
                .then(|| read.millis("gracefulLeaseHandoffTimeoutMillis")),
            protects_lease_table: read.flag("leaseTableDeletionProtectionEnabled"),
            lease_table_recovery: read.flag("leaseTablePitrEnabled"),
            metrics_level: read.text("metricsLevel").unwrap_or_default(),
            metrics_dimensions: match configuration.get("metricsEnabledDimensions").map(|found| &found.value)
            {
                Some(Value::List(dimensions)) => dimensions.clone(),
                _ => Vec::new(),
            },
            metrics_interval: read.millis("metricsBufferTimeMillis"),
        })
    }
}

/// Reads values that the check found valid.
struct Reader<'a> {
    configuration: &'a EffectiveConfiguration,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        text(self.configuration, name).map(str::to_owned)
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(u64::try_from(integer(self.configuration, name).unwrap_or(0)).unwrap_or(0))
    }

    fn count(&self, name: &str) -> u32 {
        u32::try_from(integer(self.configuration, name).unwrap_or(0)).unwrap_or(0)
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.configuration.get(name).map(|found| &found.value), Some(Value::Flag(true)))
    }

    fn credentials(&self, name: &str) -> Vec<CredentialSource> {
        parse_credentials(text(self.configuration, name).unwrap_or_default()).0
    }

    fn start(&self) -> StartPosition {
        match (
            integer(self.configuration, "initialPositionInStreamExtended"),
            self.text("initialPositionInStream"),
        ) {
            (Some(seconds), _) => StartPosition::AtSeconds(seconds),
            (None, Some(word)) if word == "TRIM_HORIZON" => StartPosition::TrimHorizon,
            (None, _) => StartPosition::Latest,
        }
    }

    /// `DEFAULT` polls when a polling key is set and not 0.
    fn retrieval(&self) -> RetrievalMode {
        let is_set = |name: &str| {
            self.configuration.get(name).is_some_and(|found| {
                matches!(found.origin, Origin::Line(_)) && !matches!(found.value, Value::Integer(0))
            })
        };
        match text(self.configuration, "retrievalMode") {
            Some("POLLING") => RetrievalMode::Polling,
            Some("FANOUT") => RetrievalMode::FanOut,
            _ if POLLING_KEYS.iter().any(|name| is_set(name)) => RetrievalMode::Polling,
            _ => RetrievalMode::FanOut,
        }
    }
}
