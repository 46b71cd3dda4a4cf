//! Local servers with a stream and a lease table, the program, and a worker of this library beside it.

use std::collections::HashMap;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kinesis::primitives::Blob;
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};
use kinesis_asl::KinesisStream;
use kinesis_streaming::prelude::*;
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Lease, LeaseWrite, Position, ShardId, WorkerId};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// The longest run of a command, or wait for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The application of the tests, and its table.
pub(crate) const APPLICATION: &str = "orders";

/// The stream of the tests.
pub(crate) const STREAM: &str = "sales";

/// Local servers with a stream of two shards, and an empty lease table.
pub(crate) struct Bed {
    servers: InProcessServers,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// A running worker, and what it has read.
pub(crate) struct RunningWorker {
    pub(crate) read: Arc<Mutex<HashMap<String, usize>>>,
    handle: ConsumerHandle,
    task: AbortOnDropHandle<()>,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let bed = Self { servers: InProcessServers::start_for_java().await.unwrap() };
        let kinesis = bed.endpoints().kinesis_client();
        kinesis.create_stream().stream_name(STREAM).shard_count(2).send().await.unwrap();
        bed.store(APPLICATION).prepare().await.unwrap();
        bed
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        self.servers.endpoints()
    }

    pub(crate) fn store(&self, application: &str) -> DynamoDbLeaseStore {
        DynamoDbLeaseStore::new(self.endpoints().dynamodb_client(), application).unwrap()
    }

    pub(crate) async fn row(&self, number: u64) -> Lease {
        self.store(APPLICATION).get(&shard(number)).await.unwrap().unwrap()
    }

    pub(crate) async fn put_row(&self, lease: Lease) {
        self.store(APPLICATION).write(&LeaseWrite::Create(lease)).await.unwrap();
    }

    /// Puts a row as another program writes it.
    pub(crate) async fn put_item(&self, item: &[(&str, AttributeValue)]) {
        let item = item.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let dynamodb = self.endpoints().dynamodb_client();
        dynamodb.put_item().table_name(APPLICATION).set_item(Some(item)).send().await.unwrap();
    }

    pub(crate) async fn item(&self, number: u64) -> HashMap<String, AttributeValue> {
        let dynamodb = self.endpoints().dynamodb_client();
        let key = AttributeValue::S(shard(number).as_str().to_owned());
        let found = dynamodb.get_item().table_name(APPLICATION).key("leaseKey", key).consistent_read(true);
        found.send().await.unwrap().item.unwrap()
    }

    pub(crate) async fn put_records(&self, keys: std::ops::Range<usize>) {
        let kinesis = self.endpoints().kinesis_client();
        for key in keys {
            let data = Blob::new(key.to_string());
            let put = kinesis.put_record().stream_name(STREAM).partition_key(format!("key-{key}"));
            put.data(data).send().await.unwrap();
        }
    }

    /// Splits a shard in its middle.
    pub(crate) async fn split(&self, number: u64) {
        let kinesis = self.endpoints().kinesis_client();
        let shards = kinesis.list_shards().stream_name(STREAM).send().await.unwrap();
        let id = shard(number);
        let parent = shards.shards().iter().find(|shard| shard.shard_id() == id.as_str()).unwrap();
        let range = parent.hash_key_range().unwrap();
        let (start, end): (u128, u128) =
            (range.starting_hash_key().parse().unwrap(), range.ending_hash_key().parse().unwrap());
        let middle = (start + (end - start) / 2).to_string();
        let split = kinesis.split_shard().stream_name(STREAM).shard_to_split(id.as_str());
        split.new_starting_hash_key(middle).send().await.unwrap();
        let is_split =
            async || kinesis.list_shards().stream_name(STREAM).send().await.unwrap().shards().len() >= 4;
        while !is_split().await {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs the program on the application, with the stream named.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Finished {
        self.run_at(&self.endpoints().kinesis, arguments).await
    }

    /// The same, with another Kinesis server.
    pub(crate) async fn run_at(&self, kinesis: &str, arguments: &[&str]) -> Finished {
        self.read_at(kinesis, &[arguments, &["--stream", STREAM]].concat()).await
    }

    /// Runs a command that has its stream among its arguments, with another Kinesis endpoint.
    pub(crate) async fn read_at(&self, kinesis: &str, arguments: &[&str]) -> Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinesis-streaming"));
        command.args(arguments).args(["--kinesis-endpoint-url", kinesis]);
        command.args(["--dynamodb-endpoint-url", &self.endpoints().dynamodb]);
        command.envs(Endpoints::environment()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(PATIENCE, command.output()).await.expect("the program ends in time").unwrap();
        Finished::of(output)
    }

    /// Starts a worker that reads the stream.
    pub(crate) fn start_worker(&self, name: &str) -> RunningWorker {
        let read: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let journal = read.clone();
        let consumer = Consumer::builder()
            .application(APPLICATION)
            .worker_id(name)
            .source(KinesisStream::from_client(self.endpoints().kinesis_client(), STREAM))
            .lease_store(self.store(APPLICATION))
            .failover_time(Duration::from_secs(6))
            .processors(batch_handler(move |_: ShardContext, batch: RecordBatch| {
                for record in batch.iter() {
                    let text = String::from_utf8_lossy(&record.data).into_owned();
                    *journal.lock().unwrap().entry(text).or_default() += 1;
                }
                async { Ok(()) }
            }))
            .build()
            .unwrap();
        let handle = consumer.handle();
        let task = tokio::spawn(async move { drop(consumer.run().await) });
        RunningWorker { read, handle, task: AbortOnDropHandle::new(task) }
    }
}

impl RunningWorker {
    /// Stops it as a service manager does.
    pub(crate) async fn stop(self) {
        self.handle.stop();
        timeout(PATIENCE, self.task).await.expect("it stops in time").unwrap();
    }

    /// Waits until this many records were read this many times.
    pub(crate) async fn wait_for(&self, records: usize, times: usize) {
        let waiting = async {
            while self.read.lock().unwrap().values().filter(|read| **read >= times).count() < records {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the records are read in time");
    }
}

impl Finished {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks the exit code, and that the output and the errors together contain a text.
    #[track_caller]
    pub(crate) fn assert(&self, code: i32, text: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let is_shown = self.output.contains(text) || self.errors.contains(text);
        assert!(is_shown, "{text:?} is missing: {self:?}");
    }
}

pub(crate) fn shard(number: u64) -> ShardId {
    ShardId::new(format!("shardId-{number:012}")).unwrap()
}

/// A lease without an owner, after a record.
pub(crate) fn lease_after(number: u64, record: u128) -> Lease {
    Lease::unowned(shard(number), Position::after(record.into(), 0))
}

pub(crate) fn worker(name: &str) -> WorkerId {
    WorkerId::new(name.to_owned()).unwrap()
}
