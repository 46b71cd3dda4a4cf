//! Every settings type survives a round trip through TOML, JSON and YAML, and is read as people write it.

#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use kinesis_streaming::kinesis_asl::{GetRecordsFormat, RoleSettings};
use kinesis_streaming::lease_store::{BillingMode, TableSettings};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{FailureSettings, LastResortSetting};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes and reads a value in each format.
fn assert_round_trip<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: &T) {
    let toml = toml::to_string(value).unwrap();
    assert_eq!(&toml::from_str::<T>(&toml).unwrap(), value, "{toml}");
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
    let yaml = serde_norway::to_string(value).unwrap();
    assert_eq!(&serde_norway::from_str::<T>(&yaml).unwrap(), value, "{yaml}");
}

fn units(units: u32) -> NonZeroU32 {
    NonZeroU32::new(units).unwrap()
}

#[test]
fn defaults_survive_every_format() {
    assert_round_trip(&ConsumerSettings::default());
    assert_round_trip(&AwsSettings::new("orders"));
    assert_round_trip(&FanOutSettings::with_consumer("count"));
    assert_round_trip(&StateSettings::default());
    assert_round_trip(&StorageSettings::default());
    assert_round_trip(&FailureSettings::default());
    assert_round_trip(&TableSettings::default());
}

#[test]
fn changed_settings_survive_every_format() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_796_000_461_500);
    let mut consumer = ConsumerSettings::default();
    consumer.application = "orders".to_owned();
    consumer.worker_id = Some("a".to_owned());
    consumer.initial_position = InitialPosition::AtTimestamp(at);
    consumer.initial_positions = BTreeMap::from([
        (ShardId::numbered(1), ShardPosition::AtTimestamp(at)),
        (ShardId::numbered(2), ShardPosition::Latest),
        (
            ShardId::numbered(3),
            ShardPosition::After { sequence_number: 495u128.into(), sub_sequence_number: 3 },
        ),
    ]);
    consumer.run_until = Some(RunUntil::Timestamp(at));
    consumer.start_timeout = Some(Duration::from_micros(1_500_001));
    consumer.max_leases = 7;
    consumer.failure.last_resort = LastResortSetting::DeadLetterFile("rejected.jsonl".into());
    consumer.failure.time_limit = Some(Duration::from_secs(60));
    consumer.failure.divides = Some(false);
    consumer.processing_retry = RetryPolicy::spark();
    consumer.checkpoint_retry = RetryPolicy::exponential(Duration::from_secs(1), Duration::from_secs(9));
    assert_round_trip(&consumer);

    let mut aws = AwsSettings::new("orders");
    aws.region = Some("eu-west-1".to_owned());
    aws.max_idle_time_between_reads = Some(Duration::from_secs(5));
    aws.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer("count"));
    aws.get_records_format = GetRecordsFormat::Sdk;
    aws.table.billing_mode =
        BillingMode::Provisioned { read_capacity_units: units(3), write_capacity_units: units(4) };
    aws.table.tags.insert("team".to_owned(), "orders".to_owned());
    aws.stream_role = Some(RoleSettings::new("arn:aws:iam::111122223333:role/r").with_external_id("id"));
    assert_round_trip(&aws);
    for consumer in ["count", "arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count:1525898737"]
    {
        assert_round_trip(&FanOutSettings::with_consumer(consumer));
    }
}

#[test]
fn files_are_read_as_people_write_them() {
    let read: ConsumerSettings = toml::from_str(
        r#"
        application = "orders"
        failover_time = "10s"
        drain_time = "1m"
        batch_time_ms = 250
        run_until = { TIMESTAMP = 2026-11-30T01:01:01Z }
        initial_position = { AT_TIMESTAMP = "2026-11-30T03:01:01+02:00" }
        processing_retry = { first = "100ms", longest = "30s" }

        [failure]
        last_resort = { DEAD_LETTER_FILE = "rejected.jsonl" }
        attempts = 3
        time_limit = "90s"
        "#,
    )
    .unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_000_461);
    assert_eq!(read.failover_time, Duration::from_secs(10));
    assert_eq!(read.drain_time, Duration::from_secs(60));
    assert_eq!(read.batch_time, Duration::from_millis(250));
    assert_eq!(read.run_until, Some(RunUntil::Timestamp(at)));
    assert_eq!(read.initial_position, InitialPosition::AtTimestamp(at));
    let waits = RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(30));
    assert_eq!(read.processing_retry, waits);
    assert_eq!((read.failure.attempts, read.failure.time_limit), (units(3), Some(Duration::from_secs(90))));

    let json = r#"{"initial_position": {"AT_TIMESTAMP": 1796000461000}}"#;
    let read: ConsumerSettings = serde_json::from_str(json).unwrap();
    assert_eq!(read.initial_position, InitialPosition::AtTimestamp(at));

    let read: AwsSettings = serde_norway::from_str(
        "stream_name: orders\nattempt_timeout: 5s\nretrieval: !FAN_OUT\n  consumer: count\n  inactivity_timeout: 1m\n",
    )
    .unwrap();
    let mut fan_out = FanOutSettings::with_consumer_name("count");
    fan_out.inactivity_timeout = Duration::from_secs(60);
    assert_eq!(read.retrieval, RetrievalMode::FanOut(fan_out));
    assert_eq!(read.attempt_timeout, Duration::from_secs(5));
}

#[test]
fn faults_of_a_file_are_refused_with_the_expected_form() {
    for (toml, part) in [
        (r#"failover_time = "10 parsecs""#, "a duration like"),
        (r#"failover_tme = "10s""#, "failover_tme"),
        (r#"run_until = { TIMESTAMP = "yesterday" }"#, "a time like"),
        (r#"processing_retry = { first = "1s" }"#, "`first` and `longest`"),
        (r#"processing_retry = { below = "48h" }"#, "longer than a day"),
    ] {
        let error = toml::from_str::<ConsumerSettings>(toml).unwrap_err().to_string();
        assert!(error.contains(part), "{toml}: {error}");
    }
    let missing = toml::from_str::<AwsSettings>("region = \"eu-west-1\"").unwrap();
    assert!(missing.faults()[0].contains("stream_name is empty"), "{:?}", missing.faults());
}

/// The settings of the example service in the manifests are those of the crates.
#[test]
fn settings_in_the_manifests_are_valid() {
    use serde::Deserialize as _;
    let kubernetes = include_str!("../../../deploy/kubernetes/consumer.yaml");
    let documents: Vec<serde_json::Value> = serde_norway::Deserializer::from_str(kubernetes)
        .map(|each| serde_json::Value::deserialize(each).unwrap())
        .collect();
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let file = of_kind("ConfigMap")["data"]["service.toml"].as_str().unwrap();
    let ecs: serde_json::Value =
        serde_json::from_str(include_str!("../../../deploy/ecs/task-definition.json")).unwrap();
    let pod = &of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0];
    for (file, variables) in [(file, &pod["env"]), ("", &ecs["containerDefinitions"][0]["environment"])] {
        let mut settings: toml::Table = file.parse().unwrap();
        for variable in variables.as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let Some(path) = name.strip_prefix("SERVICE__") else { continue };
            let value = variable["value"].as_str().unwrap_or("word-service-0");
            let (table, name) = match path.to_lowercase().split_once("__") {
                Some((table, name)) => {
                    let inner = settings.entry(table).or_insert_with(|| toml::Table::new().into());
                    (inner.as_table_mut().unwrap(), name.to_owned())
                }
                None => (&mut settings, path.to_lowercase()),
            };
            table.insert(name, value.into());
        }
        let consumer: ConsumerSettings = settings["consumer"].clone().try_into().unwrap();
        assert_eq!((consumer.application.as_str(), consumer.drain_time.as_secs()), ("word-service", 30));
        let aws: AwsSettings = settings["stream"].clone().try_into().unwrap();
        assert_eq!(aws.faults(), Vec::<String>::new());
    }
}

/// lightbend/config#117: `1d` was a millisecond. daeuniverse/honk#159: what could not be read was 0.
#[test]
fn durations_are_refused_or_read_as_written() {
    let read = |value: &str| -> Option<Duration> {
        let in_toml = toml::from_str::<ConsumerSettings>(&format!("failover_time = {value}")).ok();
        let in_json =
            serde_json::from_str::<ConsumerSettings>(&format!("{{\"failover_time\": {value}}}")).ok();
        let in_yaml = serde_norway::from_str::<ConsumerSettings>(&format!("failover_time: {value}")).ok();
        let times = [in_toml, in_json, in_yaml].map(|read| read.map(|settings| settings.failover_time));
        assert!(times.iter().all(|time| *time == times[0]), "{value}: {times:?}");
        times[0]
    };
    for (value, millis) in [
        ("\"10s\"", 10_000),
        ("\"10 s\"", 10_000),
        ("\"500ms\"", 500),
        ("\"2m\"", 120_000),
        ("\"1h\"", 3_600_000),
        ("10", 10),
        ("0", 0),
    ] {
        assert_eq!(read(value), Some(Duration::from_millis(millis)), "{value}");
    }
    for value in [
        "\"1d\"",
        "\"1min\"",
        "\"PT5S\"",
        "\"10\"",
        "\"\"",
        "\"s\"",
        "\"-1s\"",
        "\"1.5s\"",
        "\"1m30s\"",
        "\"1e3s\"",
        "\"inf\"",
        "\"10S\"",
        "\"99999999999999999999h\"",
        "\"18446744073709551615h\"",
        "-1",
        "1.5",
        "true",
    ] {
        assert_eq!(read(value), None, "{value}");
    }
}

/// pleaseai/shunt#107, solana-rpc/superbank#46: a key with a typing mistake was dropped, and the default was in force.
#[test]
fn unknown_keys_are_refused_with_their_names() {
    fn refused<T: DeserializeOwned + fmt::Debug>(key: &str, valid: &str) {
        let text = format!("{valid}\n{key} = \"10s\"");
        let fault = toml::from_str::<T>(&text).unwrap_err().to_string();
        assert!(fault.contains(key), "{fault}");
        assert!(valid.is_empty() || toml::from_str::<T>(valid).is_ok(), "{valid}");
    }
    refused::<ConsumerSettings>("failover_tiem", "failover_time = \"10s\"");
    refused::<AwsSettings>("stream_nam", "stream_name = \"orders\"");
    refused::<StateSettings>("snapshot_intervall", "");
    refused::<StorageSettings>("levle", "");
    refused::<FailureSettings>("last_resrt", "");
    refused::<TableSettings>("billing_mod", "");
    refused::<RetryPolicy>("first", "");
    // In a table of a table.
    for (table, key) in [("failure", "max_attemps"), ("processing_retry", "longest_dely")] {
        let fault = toml::from_str::<ConsumerSettings>(&format!("[{table}]\n{key} = 3")).unwrap_err();
        assert!(fault.to_string().contains(key), "{fault}");
    }
    for (table, key) in [("table", "tgas"), ("role", "external-id"), ("retrieval", "fanout")] {
        let text = format!("stream_name = \"orders\"\n[{table}]\n{key} = \"x\"");
        let fault = toml::from_str::<AwsSettings>(&text).unwrap_err();
        assert!(fault.to_string().contains(key), "{fault}");
    }
}

/// openai-api-rs#129, scylladb/scylla-cdc-rust#15: errors and futures that no task and no boxed error can take.
#[test]
fn errors_handles_and_futures_fit_tasks_and_boxes() {
    fn fits<E: std::error::Error + Send + Sync + 'static>() {
        let _: fn(E) -> BoxError = BoxError::from;
    }
    fits::<ConsumerError>();
    fits::<ProcessError>();
    fits::<CheckpointError>();
    fits::<DecodeError>();
    fits::<SourceError>();
    fits::<StoreError>();
    fits::<StateError>();
    fits::<StorageError>();
    fits::<AslError>();
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Consumer>();
    shared::<ConsumerHandle>();
    shared::<ConsumerGroupHandle>();
    shared::<MultiStreamConsumer>();
    shared::<MultiStreamHandle>();
    shared::<Record>();
    shared::<RecordBatch>();
    shared::<ShardContext>();
    fn sent<F: Future + Send + 'static>(_: fn() -> F) {}
    fn run<T>() -> T {
        unreachable!("it is never called")
    }
    sent(|| run::<Consumer>().run());
    sent(|| run::<MultiStreamConsumer>().run());
    sent(|| run::<ConsumerGroup>().run());
}
