//! `iam-policy`: what it prints is enough, and no more than is used.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use end_to_end_tests::local_servers::InProcessServers;
use kinesis_asl::{AwsSettings, FanOutSettings, KinesisAsl, RetrievalMode};
use kinesis_streaming::prelude::*;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::bench::{APPLICATION, PATIENCE, STREAM, TestBed, lease};
use crate::policy_gate::{self, Gate};

/// The calls by which the tests prepare the stream.
const OF_THE_TEST: [&str; 3] = ["kinesis:CreateStream", "kinesis:PutRecord", "kinesis:SplitShard"];

/// The printed policy.
async fn policy(rest: &[&str]) -> Value {
    let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}");
    let program = env!("CARGO_BIN_EXE_kinesis-streaming");
    let arguments = ["iam-policy", APPLICATION, "--stream-arn", &arn];
    let mut command = tokio::process::Command::new(program);
    let printed = command.args(arguments).args(rest).output().await.unwrap();
    serde_json::from_slice(&printed.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_policy_is_enough_to_watch() {
    let gate = Gate::new(&policy(&["--for", "watch"]).await, &OF_THE_TEST);
    let servers =
        InProcessServers::start_changed(|app| policy_gate::kinesis(app, gate.clone())).await.unwrap();
    let bed = TestBed::over(servers, 1).await;
    bed.put_records(&["a"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let (dynamodb, _serving) = policy_gate::dynamodb(&bed.endpoints().dynamodb, gate.clone()).await;
    let kinesis = bed.endpoints().kinesis.clone();
    let run = async |arguments: &[&str]| {
        let own = ["--kinesis-endpoint-url", &kinesis, "--dynamodb-endpoint-url", &dynamodb];
        bed.run_alone(&[arguments, &own].concat()).await
    };
    let described =
        run(&["describe", APPLICATION, "--stream", STREAM, "--json", "--probe-time", "10s"]).await;
    let found: Value = serde_json::from_str(&described.output).unwrap();
    assert_eq!(found["gaps"], serde_json::json!([]), "{found}");
    assert!(found["verdict"]["behind_millis"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(bed.run(&["cat", STREAM]).await.output.lines().count(), 1);
    assert_eq!(run(&["verify", APPLICATION, "--stream", STREAM]).await.code, 0);
    // A fleet of KCL 3.0 to 3.4 keeps its mode and the reports of its workers in tables of their own.
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: u64| AttributeValue::N(number.to_string());
    let mode = [("key", text("Migration3.0")), ("cv", text("CLIENT_VERSION_3X")), ("mts", number(7))];
    bed.endpoints().put_into_new_table("word-count-CoordinatorState", "key", &mode).await;
    let report = [("wid", text("idle")), ("lut", number(7))];
    bed.endpoints().put_into_new_table("word-count-WorkerMetricStats", "wid", &report).await;
    let described = run(&["describe", APPLICATION, "--stream", STREAM, "--json"]).await;
    let found: Value = serde_json::from_str(&described.output).unwrap();
    assert_eq!(found["gaps"], serde_json::json!([]), "{found}");
    assert!(described.output.contains("\"idle\""), "{found}");
    assert_eq!(gate.refused(), BTreeSet::new());
}

/// What a worker has read: how often each payload.
type Read = Arc<Mutex<HashMap<String, usize>>>;

/// A worker of the main job over these endpoints.
async fn worker(kinesis: &str, dynamodb: &str, retrieval: RetrievalMode, read: Read) -> Consumer {
    let mut settings = AwsSettings::new(STREAM);
    settings.region = Some("us-east-1".to_owned());
    settings.kinesis_endpoint_url = Some(kinesis.to_owned());
    settings.dynamodb_endpoint_url = Some(dynamodb.to_owned());
    settings.retrieval = retrieval;
    let credentials = aws_credential_types::Credentials::new("0", "local", None, None, "test");
    let aws = KinesisAsl::builder(settings).credentials(credentials).connect().await.unwrap();
    let builder = Consumer::builder();
    let mut settings = builder.current_settings().clone();
    settings.shard_sync_interval = Duration::from_secs(1);
    builder
        .settings(settings)
        .application(APPLICATION)
        .source(aws.stream())
        .lease_store(aws.lease_store(APPLICATION).unwrap())
        .failover_time(Duration::from_secs(6))
        .processors(batch_handler(move |_: ShardContext, batch: RecordBatch| {
            for record in batch.iter() {
                let text = String::from_utf8_lossy(&record.data).into_owned();
                *read.lock().unwrap().entry(text).or_default() += 1;
            }
            async { Ok(()) }
        }))
        .build()
        .unwrap()
}

async fn wait_for(what: &str, is_met: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_met().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}: not in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_policy_is_enough_to_poll() {
    let gate = Gate::new(&policy(&["--create-table"]).await, &OF_THE_TEST);
    let servers =
        InProcessServers::start_changed(|app| policy_gate::kinesis(app, gate.clone())).await.unwrap();
    let bed = TestBed::without_table(servers, 1).await;
    let (dynamodb, _serving) = policy_gate::dynamodb(&bed.endpoints().dynamodb, gate.clone()).await;
    let read = Read::default();
    let consumer = worker(&bed.endpoints().kinesis, &dynamodb, RetrievalMode::Polling, read.clone()).await;
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    bed.put_records(&["a", "b", "c"]).await;
    wait_for("the records are read", async || read.lock().unwrap().len() == 3).await;
    // The leases of ended shards are deleted.
    crate::verify::split(&bed).await;
    bed.put_records(&["d", "e", "f", "g", "h", "i", "j", "k"]).await;
    wait_for("the records of the children are read", async || read.lock().unwrap().len() == 11).await;
    wait_for("the lease of the parent is deleted", async || gate.used().contains("dynamodb:DeleteItem"))
        .await;
    handle.stop();
    running.await.unwrap().unwrap();
    assert_eq!(gate.refused(), BTreeSet::new());
    let used = gate.used();
    let named: BTreeSet<String> = [
        "kinesis:DescribeStreamSummary",
        "kinesis:ListShards",
        "kinesis:GetShardIterator",
        "kinesis:GetRecords",
        "dynamodb:CreateTable",
        "dynamodb:DescribeTable",
        "dynamodb:Scan",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(used, named, "each allowed action is used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_policy_is_enough_for_fan_out() {
    let gate = Gate::new(&policy(&["--create-table", "--fan-out", "desk"]).await, &OF_THE_TEST);
    let servers =
        InProcessServers::start_changed(|app| policy_gate::kinesis(app, gate.clone())).await.unwrap();
    let bed = TestBed::without_table(servers, 1).await;
    let (dynamodb, _serving) = policy_gate::dynamodb(&bed.endpoints().dynamodb, gate.clone()).await;
    let read = Read::default();
    let fan_out = RetrievalMode::FanOut(FanOutSettings::with_consumer_name("desk"));
    let consumer = worker(&bed.endpoints().kinesis, &dynamodb, fan_out, read.clone()).await;
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    bed.put_records(&["a", "b", "c"]).await;
    wait_for("the records are read", async || read.lock().unwrap().len() == 3).await;
    handle.stop();
    running.await.unwrap().unwrap();
    assert_eq!(gate.refused(), BTreeSet::new());
    for action in ["RegisterStreamConsumer", "DescribeStreamConsumer", "SubscribeToShard"] {
        assert!(gate.used().contains(&format!("kinesis:{action}")), "{action}: {:?}", gate.used());
    }
}

/// The gate itself refuses: without an action the worker cannot run, and the error names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_policy_is_not_enough() {
    for action in ["kinesis:ListShards", "dynamodb:Scan"] {
        let mut smaller = policy(&["--create-table"]).await;
        for statement in smaller["Statement"].as_array_mut().unwrap() {
            if let Some(actions) = statement["Action"].as_array_mut() {
                actions.retain(|own| own != action);
            }
        }
        let gate = Gate::new(&smaller, &OF_THE_TEST);
        let servers =
            InProcessServers::start_changed(|app| policy_gate::kinesis(app, gate.clone())).await.unwrap();
        let bed = TestBed::without_table(servers, 1).await;
        let (dynamodb, _serving) = policy_gate::dynamodb(&bed.endpoints().dynamodb, gate.clone()).await;
        let consumer =
            worker(&bed.endpoints().kinesis, &dynamodb, RetrievalMode::Polling, Read::default()).await;
        let ended = timeout(PATIENCE, consumer.run()).await.expect("it ends in time").unwrap_err();
        let call = action.split(':').nth(1).unwrap();
        assert!(ended.to_string().contains(call), "{ended}");
        assert!(gate.refused().iter().any(|refused| refused.starts_with(action)), "{:?}", gate.refused());
    }
}
