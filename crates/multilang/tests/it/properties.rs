//! Properties files: the effective configuration, its messages, and the settings.

use std::num::NonZeroUsize;
use std::time::{Duration, UNIX_EPOCH};

use multilang::MultilangErrorKind;
use multilang::properties::{
    ChildFailurePolicy, CredentialSource, DaemonSettings, EffectiveConfiguration, Origin, RetrievalMode,
    Severity, StartPosition, Strictness, interpret, parse_properties,
};
use receiver::InitialPosition;

const REQUIRED: &str = "executableName = sample.py\napplicationName = app\nstreamName = words\n\
                        AwsCredentialsProvider = DefaultCredentialsProvider\n";

fn of(text: &str, strictness: Strictness) -> EffectiveConfiguration {
    interpret(&parse_properties(text.as_bytes()).unwrap(), strictness)
}

fn with(lines: &str) -> EffectiveConfiguration {
    of(&format!("{REQUIRED}{lines}"), Strictness::Compatible)
}

fn settings(lines: &str) -> DaemonSettings {
    DaemonSettings::new(&with(lines)).unwrap()
}

/// The one message about these lines, after a check of its severity.
fn message(lines: &str, severity: Severity) -> String {
    let configuration = with(lines);
    let messages = configuration.messages();
    assert_eq!(messages.len(), 1, "{lines}: {messages:?}");
    assert_eq!(messages[0].severity, severity, "{messages:?}");
    assert_eq!(configuration.exit_code(), u8::from(severity == Severity::Error));
    messages[0].to_string()
}

#[test]
fn required_keys_suffice_and_have_the_defaults_of_the_kcl() {
    let configuration = with("");
    assert_eq!(configuration.messages(), []);
    assert_eq!(configuration.exit_code(), 0);
    let settings = DaemonSettings::new(&configuration).unwrap();
    assert_eq!(settings.retrieval, RetrievalMode::FanOut);
    assert_eq!(settings.start, StartPosition::Latest);
    assert_eq!(settings.failover_time, Duration::from_secs(10));
    assert_eq!(settings.max_records, 10_000);
    assert_eq!(settings.idle_time, Duration::from_millis(1500));
    assert_eq!((settings.lease_table.as_str(), settings.consumer_name.as_str()), ("app", "app"));
    assert_eq!(settings.answer_time, None);
    assert_eq!(settings.child_failure, ChildFailurePolicy::Exit);
    assert_eq!(settings.metrics_level, "DETAILED");
    assert_eq!(settings.dynamodb_credentials, [CredentialSource::DefaultChain]);
    assert_eq!(settings.hand_over_time, Some(Duration::from_secs(30)));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(30), "Java: 0");
}

#[test]
fn empty_batches_are_sent_on_request() {
    for (line, expected) in [("", false), ("callProcessRecordsEvenForEmptyRecordList = true", true)] {
        let settings = settings(line);
        assert_eq!(settings.calls_for_empty_reads, expected);
        assert_eq!(settings.receiver_settings().calls_for_empty_reads, expected);
    }
}

#[test]
fn missing_keys_are_refused_in_the_words_of_java() {
    let error = DaemonSettings::new(&of("", Strictness::Compatible)).unwrap_err();
    assert_eq!(error.kind(), MultilangErrorKind::InvalidProperties);
    assert_eq!(
        error.to_string(),
        "error: Must provide an executable name in the properties file, e.g. executableName = sampleapp.py\n\
         error: Application name is required\n\
         error: Stream name or Stream Arn is required. Stream Arn takes precedence if both are passed in.\n\
         error: A basic set of AWS credentials must be provided"
    );
}

#[test]
fn odd_values_keep_the_default_and_are_named() {
    for (lines, words) in [
        ("maxRecords = abc", "line 5: maxRecords = abc cannot be read and is not applied"),
        ("maxRecords = 1,500", "1,500"),
        ("maxRecords = 1e3", "1e3"),
        ("cleanupLeasesUponShardCompletion = false", "has no effect"),
        ("failoverTimeMillis = 0", "10000 is used"),
        ("maxActiveThreads = 4", "no thread pools"),
        ("faioverTimeMillis = 1", "did you mean failoverTimeMillis?"),
        ("somethingElse = 1", "not a known key; remove it"),
        ("leaseTablePitrEnabled = maybe", "Java reads as false"),
        ("tableName = leases  ", "blanks after the value of tableName"),
        ("applicationName = other", "replaces line 2"),
        ("tableName = \u{e9}t\u{e9}", "read as UTF-8"),
        ("useragent = x", "ignore it"),
    ] {
        let found = message(lines, Severity::Warning);
        assert!(found.contains(words), "{lines}: {found}");
    }
    let settings = settings("maxRecords = abc\nfailoverTimeMillis = 0\ntableName = leases  ");
    assert_eq!((settings.max_records, settings.failover_time), (10_000, Duration::from_secs(10)));
    assert_eq!(settings.lease_table, "leases");
    assert_eq!(settings.retrieval, RetrievalMode::FanOut, "a value that is not applied does not poll");
}

#[test]
fn values_that_java_refuses_are_errors() {
    for (lines, words) in [
        ("maxRecords = 10001", "at most 10000"),
        ("metricsLevel = loud", "NONE, SUMMARY, DETAILED"),
        ("retrievalMode =", "DEFAULT, FANOUT, POLLING"),
        ("initialPositionInStream = AT_TIMESTAMP", "LATEST, TRIM_HORIZON"),
        ("kinesisEndpoint = localhost:4567", "scheme"),
        ("streamArn = arn:aws:dynamodb:us-east-1:123456789012:table/x", "streamArn"),
        ("shardPrioritization = x", "Java object"),
        ("fanoutConfig.color = red", "not a known key"),
        ("AwsCredentialsProviderDynamoDB = com.example.Own", "no credential provider"),
        ("regionName =", "regionName is empty"),
        ("timeoutInSeconds = 0", "at least 1"),
    ] {
        let configuration = with(lines);
        let errors = configuration.messages().iter().filter(|message| message.severity == Severity::Error);
        let errors: Vec<String> = errors.map(ToString::to_string).collect();
        assert_eq!(errors.len(), 1, "{lines}: {errors:?}");
        assert!(errors[0].contains(words) && errors[0].contains("line 5"), "{lines}: {errors:?}");
        assert_eq!(configuration.exit_code(), 1, "{lines}");
    }
}

#[test]
fn strict_reading_refuses_odd_values_and_applies_zero() {
    let strict = |lines: &str| of(&format!("{REQUIRED}{lines}"), Strictness::Strict);
    for lines in ["maxRecords = abc", "faioverTimeMillis = 1", "isGracefulLeaseHandoffEnabled = maybe"] {
        assert_eq!(strict(lines).exit_code(), 1, "{lines}");
    }
    let configuration = strict("idleTimeBetweenReadsInMillis = 0");
    assert_eq!(configuration.get("idleTimeBetweenReadsInMillis").unwrap().shown, "200");
    assert_eq!(configuration.exit_code(), 0);
}

#[test]
fn retrieval_mode_is_that_of_java() {
    for (lines, expected) in [
        ("", RetrievalMode::FanOut),
        ("retrievalMode = polling", RetrievalMode::Polling),
        ("retrievalMode = FANOUT\nmaxRecords = 5", RetrievalMode::FanOut),
        ("RetrievalMode = POLLING", RetrievalMode::Polling),
        ("maxRecords = 5", RetrievalMode::Polling),
        ("pollingConfig.maxRecords = 5", RetrievalMode::Polling),
        ("retryGetRecordsInSeconds = 5", RetrievalMode::Polling),
        ("idleTimeBetweenReadsInMillis = 0", RetrievalMode::FanOut),
        ("retrievalMode = DEFAULT\nmaxGetRecordsThreadPool = 3", RetrievalMode::Polling),
    ] {
        assert_eq!(settings(lines).retrieval, expected, "{lines}");
    }
    let found = message("RetrievalMode = POLLING", Severity::Warning);
    assert!(found.contains("read as retrievalMode"), "{found}");
    assert_eq!(settings("retrievalMode = FANOUT\nRetrievalMode = POLLING").retrieval, RetrievalMode::FanOut);
}

#[test]
fn stream_and_start_have_their_precedence() {
    let arn = "streamArn = arn:aws:kinesis:us-east-5:000000000000:stream/kclpysample";
    assert_eq!(settings(arn).stream, "kclpysample");
    assert_eq!(settings("streamArn =").stream, "words");
    let (word, time) =
        ("initialPositionInStream = TRIM_HORIZON", "initialPositionInStreamExtended = 1636609142");
    assert_eq!(settings(word).start, StartPosition::TrimHorizon);
    assert_eq!(settings(&format!("{word}\n{time}")).start, StartPosition::AtSeconds(1_636_609_142));
    assert_eq!(settings(&format!("{time}\n{word}")).start, StartPosition::TrimHorizon);
}

#[test]
fn own_keys_and_aliases_are_applied() {
    let settings = settings(
        "childFailure = restart\nchildRestartLimit = 3\nshutdownGraceMillis = 0\nworkerIdentifier = w\n\
         cloudWatchClient.endpointOverride = http://h:1\nmetricsEnabledDimensions = ShardId, Operation\n\
         isGracefulLeaseHandoffEnabled = false\ntimeoutInSeconds = 30",
    );
    assert_eq!(settings.child_failure, ChildFailurePolicy::Restart { limit: 3 });
    assert_eq!(settings.shutdown_grace, Duration::ZERO);
    assert_eq!(settings.worker_id.as_deref(), Some("w"));
    assert_eq!(settings.cloudwatch_endpoint.as_deref(), Some("http://h:1"));
    assert_eq!(settings.metrics_dimensions, ["ShardId", "Operation"]);
    assert_eq!(settings.hand_over_time, None);
    assert_eq!(settings.answer_time, Some(Duration::from_secs(30)));
}

#[test]
fn report_shows_each_value_with_its_origin_and_no_secret() {
    let configuration =
        with("AwsCredentialsProviderCloudWatch = StaticCredentialsProvider|AKIA|hush\nmaxRecords = 7");
    let report = configuration.report();
    for line in [
        "executableName = sample.py  # line 1",
        "maxRecords = 7  # line 6",
        "failoverTimeMillis = 10000  # default",
        "tableName = app  # from applicationName",
    ] {
        assert!(report.lines().any(|found| found == line), "{line}: {report}");
    }
    assert!(!report.contains("hush"), "{report}");
    assert_eq!(configuration.get("tableName").unwrap().origin, Origin::SameAs("applicationName"));
}

#[test]
fn receiver_settings_follow_from_the_file_and_the_protocol() {
    let settings = settings(
        "workerId = w\nfailoverTimeMillis = 2000\nmaxLeasesForWorker = 3\nshutdownGraceMillis = 8000\nmaxRecords = 500\n\
         initialPositionInStreamExtended = 1636609142\ngracefulLeaseHandoffTimeoutMillis = 700",
    );
    let receiver = settings.receiver_settings();
    assert_eq!(receiver.faults(), Vec::<String>::new());
    assert_eq!((receiver.application.as_str(), receiver.worker_id.as_deref()), ("app", Some("w")));
    let time = UNIX_EPOCH + Duration::from_secs(1_636_609_142);
    assert_eq!(receiver.initial_position, InitialPosition::AtTimestamp(time));
    assert_eq!(receiver.failover_time, Duration::from_secs(2));
    assert_eq!((receiver.max_leases, receiver.max_lease_moves), (3, 1));
    assert_eq!(receiver.drain_time, Duration::from_secs(6), "the rest is for the leases");
    assert_eq!(receiver.max_batch_records.map(NonZeroUsize::get), Some(500));
    assert_eq!(receiver.hand_over_time, Duration::from_millis(700));
    assert_eq!(
        receiver.max_unacknowledged_records,
        NonZeroUsize::MAX,
        "a limit would stop the shard for ever"
    );
    assert_eq!(
        receiver.no_progress_time,
        Duration::ZERO,
        "a child that checkpoints rarely makes no progress"
    );
}
