//! Faulty input at the start, from the user's view: each is a clear error, and no record is lost.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};
use end_to_end_tests::programs::program;
use tokio::time::{sleep, timeout};

/// The limit for a program to report the error.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the counter, which must fail, and returns its error.
async fn refusal(endpoints: &Endpoints, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let run = program("kinesis_word_count")
        .args(["--endpoint-url", &endpoints.kinesis, "--dynamodb-endpoint-url", &endpoints.dynamodb])
        .args(arguments)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = timeout(LIMIT, run).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    // The last line is the error; the log comes before it.
    let error = said.rfind("kinesis_word_count: ").unwrap_or_else(|| panic!("no error in: {said}"));
    said[error..].to_owned()
}

fn assert_contains(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

async fn create_stream(endpoints: &Endpoints, name: &str, shard_count: i32) {
    endpoints
        .kinesis_client()
        .create_stream()
        .stream_name(name)
        .shard_count(shard_count)
        .send()
        .await
        .unwrap();
}

async fn create_table(endpoints: &Endpoints, name: &str, key: &str) {
    let element = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash).build().unwrap();
    let definition =
        AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
    let request = endpoints.dynamodb_client().create_table().table_name(name).key_schema(element);
    let request = request.attribute_definitions(definition.build().unwrap());
    request.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_stream_is_named_with_its_region_and_endpoint() {
    let servers = InProcessServers::start().await.unwrap();
    let endpoints = servers.endpoints();
    let arguments = ["--stream", "nowhere", "--application", "bad-input", "--region", "eu-central-1"];
    let said = refusal(endpoints, &arguments, &[]).await;
    assert_contains(&said, &["nowhere", "eu-central-1", &endpoints.kinesis]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_are_named_in_the_error() {
    let servers = InProcessServers::start().await.unwrap();
    create_stream(servers.endpoints(), "words", 1).await;
    let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    let said =
        refusal(servers.endpoints(), &["--stream", "words", "--application", "bad-input"], &none).await;
    assert_contains(&said, &["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_stream_name_and_a_bad_region_are_listed_together() {
    let servers = InProcessServers::start().await.unwrap();
    let arguments = ["--stream", "", "--application", "bad-input", "--region", "no region"];
    let said = refusal(servers.endpoints(), &arguments, &[]).await;
    assert_contains(&said, &["stream", "region", "no region"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contradictory_options_of_the_program_are_listed_together() {
    let servers = InProcessServers::start().await.unwrap();
    create_stream(servers.endpoints(), "words", 1).await;
    let arguments =
        ["--stream", "words", "--application", "bad-input", "--failover-time-ms", "1", "--worker-id", ""];
    let said = refusal(servers.endpoints(), &arguments, &[]).await;
    assert_contains(&said, &["failover_time", "worker id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_table_with_another_layout_is_refused_by_name() {
    let servers = InProcessServers::start().await.unwrap();
    create_stream(servers.endpoints(), "words", 1).await;
    create_table(servers.endpoints(), "foreign-table", "id").await;
    let said =
        refusal(servers.endpoints(), &["--stream", "words", "--application", "foreign-table"], &[]).await;
    assert_contains(&said, &["foreign-table", "leaseKey", "id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_row_is_reported_and_the_other_shards_are_read() {
    let servers = InProcessServers::start().await.unwrap();
    let endpoints = servers.endpoints();
    create_stream(endpoints, "words", 4).await;
    create_table(endpoints, "malformed-row", "leaseKey").await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let row = HashMap::from([
        ("leaseKey".to_owned(), text("shardId-000000000002")),
        ("leaseCounter".to_owned(), text("seven")),
        ("checkpoint".to_owned(), text("TRIM_HORIZON")),
    ]);
    let put = endpoints.dynamodb_client().put_item().table_name("malformed-row").set_item(Some(row.clone()));
    put.send().await.unwrap();

    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("malformed-row");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let (journal, log) = (directory.join("journal"), directory.join("log"));
    let mut counter = program("kinesis_word_count")
        .args(["--endpoint-url", &endpoints.kinesis, "--dynamodb-endpoint-url", &endpoints.dynamodb])
        .args(["--stream", "words", "--application", "malformed-row", "--receivers", "1", "--journal"])
        .arg(&journal)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let kinesis = endpoints.kinesis_client();
    for number in 0..40 {
        let data = aws_sdk_kinesis::primitives::Blob::new("word");
        let put = kinesis.put_record().stream_name("words").partition_key(number.to_string()).data(data);
        put.send().await.unwrap();
    }
    let readable = ["shardId-000000000000", "shardId-000000000001", "shardId-000000000003"];
    let all_read = timeout(LIMIT, async {
        loop {
            let read = fs::read_to_string(&journal).unwrap_or_default();
            assert!(!read.contains("shardId-000000000002"), "the shard of the malformed row was read");
            if readable.iter().all(|shard_id| read.contains(shard_id)) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    all_read.await.unwrap();
    counter.kill().await.unwrap();
    assert_contains(&fs::read_to_string(&log).unwrap(), &["shardId-000000000002", "leaseCounter"]);
    let get = endpoints.dynamodb_client().get_item().table_name("malformed-row");
    let stored = get.key("leaseKey", text("shardId-000000000002")).send().await.unwrap().item;
    assert_eq!(stored, Some(row), "the row was not overwritten");
}
