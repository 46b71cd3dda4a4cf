//! Contenders in Rust: each reads all shards of the server in this process, on one thread, and prints what it took.
//!
//! Every one reads a shard five times in a second at the most, as Kinesis allows: with enough shards the thread is never idle.

mod limit;
mod pipeline;
mod sdk_loop;
mod tally;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};
use kinesis_streaming::kinesis_asl::GetRecordsFormat;
use kinesis_streaming::prelude::BoxError;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::http;
use crate::measure::{cpu_time, memory_bytes};
use crate::shape::Shape;
use tally::Tally;

/// The least time between two reads of a shard (AWS: five in a second).
pub(crate) const READ_INTERVAL: Duration = Duration::from_millis(200);

/// How long a run may take.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// How long idle shards are left to themselves before they are looked at.
const SETTLING_TIME: Duration = Duration::from_millis(2500);

/// How often the server is asked whether all shards are read.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// All of this workspace: leases, checkpoints, pacing, memory, delivery to a trivial handler.
    Pipeline(GetRecordsFormat),
    /// The loop that a user writes with the SDK alone.
    SdkLoop,
    /// Our decoder and signer on a bare connection, and nothing else.
    Limit { is_cbor: bool },
}

impl Contender {
    pub(crate) const ALL: [Self; 6] = [
        Self::SdkLoop,
        Self::Pipeline(GetRecordsFormat::Cbor),
        Self::Pipeline(GetRecordsFormat::Json),
        Self::Pipeline(GetRecordsFormat::Sdk),
        Self::Limit { is_cbor: true },
        Self::Limit { is_cbor: false },
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pipeline(GetRecordsFormat::Cbor) => "pipeline-cbor",
            Self::Pipeline(GetRecordsFormat::Json) => "pipeline-json",
            Self::Pipeline(_) => "pipeline-sdk",
            Self::SdkLoop => "sdk-loop",
            Self::Limit { is_cbor: true } => "limit-cbor",
            Self::Limit { is_cbor: false } => "limit-json",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contender| contender.name() == name)
    }

    fn start(self, job: &Job, tally: &Arc<Tally>) -> Result<(), BoxError> {
        match self {
            Self::Pipeline(format) => pipeline::start(format, job, tally),
            Self::SdkLoop => sdk_loop::start(job, tally),
            Self::Limit { is_cbor } => limit::start(is_cbor, job, tally),
        }
    }
}

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) url: String,
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    pub(crate) answers: u64,
    /// How long idle or paced shards are looked at.
    pub(crate) seconds: u64,
    /// Whether allocations are counted, which costs time.
    pub(crate) counts: bool,
}

impl Job {
    fn client(&self) -> Client {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "local server"))
            .endpoint_url(&self.url);
        Client::from_conf(config.build())
    }

    fn expected_records(&self) -> u64 {
        self.shape.records() * self.answers * self.shards
    }

    fn is_timed(&self) -> bool {
        self.shape.records() == 0
    }
}

/// Where a figure was taken.
#[derive(Debug, Clone, Copy)]
struct Mark {
    cpu: Duration,
    reads: u64,
    records: u64,
    bytes: u64,
}

impl Mark {
    fn now(job: &Job, tally: &Tally) -> Result<Self, BoxError> {
        let reads = http::stats(&job.url)?.get("reads").copied().unwrap_or(0);
        let cpu = cpu_time().ok_or("the system does not say how long this process has run")?;
        Ok(Self { cpu, reads, records: tally.records(), bytes: tally.bytes() })
    }
}

/// Reads everything and gives the figures.
pub(crate) fn run(contender: Contender, job: &Job) -> Result<Value, BoxError> {
    let mut figures = None;
    let mut outcome = Ok(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut measured = || match read_all(&runtime, contender, job) {
        Ok(found) => figures = Some(found),
        Err(error) => outcome = Err(error),
    };
    // What is still allocated when the closure ends is the heap in steady state: the tasks live on in the runtime.
    let heap = if job.counts {
        Some(allocation_counter::measure(measured))
    } else {
        measured();
        None
    };
    outcome?;
    let mut figures = figures.ok_or("nothing was measured")?;
    if let (Some(heap), Some(figures)) = (heap, figures.as_object_mut()) {
        figures.insert("heap_bytes".to_owned(), heap.bytes_current.into());
        figures.insert("heap_max_bytes".to_owned(), heap.bytes_max.into());
    }
    Ok(figures)
}

fn read_all(runtime: &tokio::runtime::Runtime, contender: Contender, job: &Job) -> Result<Value, BoxError> {
    let tally = Arc::new(Tally::new(job.shards, job.expected_records()));
    let memory_before = memory_bytes(None, "VmRSS").unwrap_or(0);
    let first = Mark::now(job, &tally)?;
    runtime.block_on(async { contender.start(job, &tally) })?;
    let limited = |future: Pin<Box<dyn Future<Output = Result<(), BoxError>>>>| {
        runtime.block_on(async { timeout(TIME_LIMIT, future).await })
    };
    let too_slow =
        |_| format!("{} of {} records after {TIME_LIMIT:?}", tally.records(), job.expected_records());

    limited(Box::pin(warm(job, &tally))).map_err(too_slow)??;
    let warm = Mark::now(job, &tally)?;
    if job.shape == Shape::Paced {
        tally.begin_latencies();
    }
    let mut allocations = None;
    let rest = || {
        limited(Box::pin(async {
            if job.is_timed() {
                sleep(Duration::from_secs(job.seconds)).await;
            } else {
                tally.done().await;
            }
            Ok(())
        }))
    };
    let mut outcome = Ok(Ok(()));
    if job.counts {
        allocations = Some(allocation_counter::measure(|| outcome = rest()));
    } else {
        outcome = rest();
    }
    outcome.map_err(too_slow)??;
    let end = Mark::now(job, &tally)?;

    // Records: from the beginning, with all it takes to get there. Reads of idle shards: once they are at rest.
    let from = if job.is_timed() { warm } else { first };
    let mut figures = json!({
        "contender": contender.name(),
        "cpu_nanos": u64::try_from((end.cpu - from.cpu).as_nanos())?,
        "reads": end.reads - from.reads,
        "records": end.records - from.records,
        "bytes": end.bytes - from.bytes,
        "rss_before": memory_before,
        "rss": memory_bytes(None, "VmRSS"),
        "rss_max": memory_bytes(None, "VmHWM"),
        "latency_millis": tally.latencies(),
    });
    if let (Some(allocations), Some(figures)) = (allocations, figures.as_object_mut()) {
        figures.insert("allocations".to_owned(), allocations.count_total.into());
        figures.insert("allocated_bytes".to_owned(), allocations.bytes_total.into());
        figures.insert("counted_records".to_owned(), (end.records - warm.records).into());
        figures.insert("counted_bytes".to_owned(), (end.bytes - warm.bytes).into());
        figures.insert("counted_reads".to_owned(), (end.reads - warm.reads).into());
    }
    Ok(figures)
}

/// Until every shard has been read, and is at rest where nothing comes.
async fn warm(job: &Job, tally: &Tally) -> Result<(), BoxError> {
    if !job.is_timed() {
        tally.warm().await;
        return Ok(());
    }
    while http::stats(&job.url)?.get("shards").copied() != Some(job.shards) {
        sleep(LOOK_INTERVAL).await;
    }
    sleep(SETTLING_TIME).await;
    Ok(())
}
