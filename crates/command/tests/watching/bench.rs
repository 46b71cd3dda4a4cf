//! A test bed: local servers with a stream and a lease table, and the program as a child process.

use std::process::{Output, Stdio};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use aws_sdk_kinesis::primitives::Blob;
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Lease, LeaseStore as _, LeaseWrite, Position, ShardId, WorkerId};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The longest run of a command, or wait for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The application of the tests, and its table.
pub(crate) const APPLICATION: &str = "word-count";

/// The stream of the tests.
pub(crate) const STREAM: &str = "words";

/// The most rows of one `BatchWriteItem`.
const ROWS_PER_BATCH: usize = 25;

/// Local servers with a stream.
pub(crate) struct TestBed {
    servers: InProcessServers,
}

impl TestBed {
    /// Servers with a stream of this many shards, and an empty lease table.
    pub(crate) async fn start(shards: i32) -> Self {
        Self::over(InProcessServers::start_for_java().await.unwrap(), shards).await
    }

    /// The same over servers that a test has changed.
    pub(crate) async fn over(servers: InProcessServers, shards: i32) -> Self {
        let bed = Self::without_table(servers, shards).await;
        bed.store().prepare().await.unwrap();
        bed
    }

    /// The same without a lease table.
    pub(crate) async fn without_table(servers: InProcessServers, shards: i32) -> Self {
        let bed = Self { servers };
        let kinesis = bed.endpoints().kinesis_client();
        kinesis.create_stream().stream_name(STREAM).shard_count(shards).send().await.unwrap();
        bed
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        self.servers.endpoints()
    }

    /// The lease table.
    pub(crate) fn store(&self) -> DynamoDbLeaseStore {
        DynamoDbLeaseStore::new(self.endpoints().dynamodb_client(), APPLICATION).unwrap()
    }

    /// Creates a lease.
    pub(crate) async fn put_lease(&self, lease: Lease) {
        self.store().write(&LeaseWrite::Create(lease)).await.unwrap();
    }

    /// Puts records with these partition keys.
    pub(crate) async fn put_records(&self, keys: &[&str]) {
        let kinesis = self.endpoints().kinesis_client();
        for key in keys {
            let data = Blob::new(format!("{{\"word\":\"{key}\"}}"));
            kinesis.put_record().stream_name(STREAM).partition_key(*key).data(data).send().await.unwrap();
        }
    }

    /// Puts rows as they are into a table.
    pub(crate) async fn put_rows(&self, table: &str, rows: Vec<Vec<(&str, AttributeValue)>>) {
        let dynamodb = self.endpoints().dynamodb_client();
        let mut rows = rows.into_iter().map(|row| {
            let item = row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let put = PutRequest::builder().set_item(Some(item)).build().unwrap();
            WriteRequest::builder().put_request(put).build()
        });
        loop {
            let batch: Vec<_> = rows.by_ref().take(ROWS_PER_BATCH).collect();
            if batch.is_empty() {
                return;
            }
            dynamodb.batch_write_item().request_items(table, batch).send().await.unwrap();
        }
    }

    /// The program with these arguments, and the endpoints of the servers.
    pub(crate) fn program(&self, arguments: &[&str]) -> Command {
        let endpoints = [
            ["--kinesis-endpoint-url", &self.endpoints().kinesis],
            ["--dynamodb-endpoint-url", &self.endpoints().dynamodb],
        ];
        // What comes after -- is for another program.
        let end = arguments.iter().position(|argument| *argument == "--").unwrap_or(arguments.len());
        let (own, rest) = arguments.split_at(end);
        Self::program_alone(&[own, endpoints.as_flattened(), rest].concat())
    }

    /// The program with these arguments alone.
    fn program_alone(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinesis-streaming"));
        command.args(arguments);
        command.envs(Endpoints::environment()).env_remove("COLUMNS").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.program(arguments)).await
    }

    /// Runs the program with these arguments alone.
    pub(crate) async fn run_alone(&self, arguments: &[&str]) -> Finished {
        finish(Self::program_alone(arguments)).await
    }

    /// Runs the program, which must succeed and print JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let finished = self.run(arguments).await;
        assert_eq!(finished.code, 0, "{finished:?}");
        serde_json::from_str(&finished.output).unwrap()
    }
}

/// Runs a command to its end.
pub(crate) async fn finish(mut command: Command) -> Finished {
    let output = timeout(PATIENCE, command.output()).await.expect("the program ends in time").unwrap();
    Finished::of(output)
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Finished {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A shard by its number.
pub(crate) fn shard(number: u64) -> ShardId {
    ShardId::new(format!("shardId-{number:012}")).unwrap()
}

/// A lease at the oldest record.
pub(crate) fn lease(number: u64, owner: Option<&str>) -> Lease {
    let mut lease = Lease::unowned(shard(number), Position::TrimHorizon);
    lease.owner = owner.map(|owner| WorkerId::new(owner.to_owned()).unwrap());
    lease
}

/// Sends a signal that asks a program to stop.
pub(crate) async fn stop(mut child: Child) -> i32 {
    let pid = child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    assert!(sent.success());
    timeout(PATIENCE, child.wait()).await.expect("the program stops in time").unwrap().code().unwrap_or(-1)
}
