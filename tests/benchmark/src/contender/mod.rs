//! Contenders in Rust: each reads all shards of the server in one thread of this process, and prints its figures.
//!
//! Each reads a shard at most five times per second, as Kinesis allows. With enough shards the thread is never idle.

mod job;
mod limit;
mod pipeline;
mod sdk_fan_out;
mod sdk_loop;
mod tally;
mod trust;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kinesis_streaming::kinesis_asl::GetRecordsFormat;
use kinesis_streaming::prelude::BoxError;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::http;
use crate::measure::{cpu_time, memory_bytes};
use crate::shape::Shape;
pub(crate) use job::Job;
use tally::Tally;

/// Longest run.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// How long idle shards settle before they are measured.
const SETTLE_TIME: Duration = Duration::from_millis(2500);

/// Interval between checks whether all shards are read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A consumer that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The whole workspace: leases, checkpoints, pacing, memory limit, and delivery to a trivial handler.
    Pipeline(GetRecordsFormat),
    /// The usual loop over the SDK alone.
    SdkLoop,
    /// Our decoder and signer on a bare connection.
    Limit { is_cbor: bool },
    /// The whole workspace, by enhanced fan-out.
    PipelineFanOut,
    /// The usual loop over `SubscribeToShard` of the SDK.
    SdkFanOut,
}

impl Contender {
    /// Those that poll.
    pub(crate) const POLLING: [Self; 6] = [
        Self::SdkLoop,
        Self::Pipeline(GetRecordsFormat::Cbor),
        Self::Pipeline(GetRecordsFormat::Json),
        Self::Pipeline(GetRecordsFormat::Sdk),
        Self::Limit { is_cbor: true },
        Self::Limit { is_cbor: false },
    ];

    /// Those that subscribe.
    pub(crate) const FAN_OUT: [Self; 2] = [Self::SdkFanOut, Self::PipelineFanOut];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pipeline(GetRecordsFormat::Cbor) => "pipeline-cbor",
            Self::Pipeline(GetRecordsFormat::Json) => "pipeline-json",
            Self::Pipeline(_) => "pipeline-sdk",
            Self::SdkLoop => "sdk-loop",
            Self::Limit { is_cbor: true } => "limit-cbor",
            Self::Limit { is_cbor: false } => "limit-json",
            Self::PipelineFanOut => "pipeline-fan-out",
            Self::SdkFanOut => "sdk-fan-out",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::POLLING.into_iter().chain(Self::FAN_OUT).find(|contender| contender.name() == name)
    }

    fn start(self, job: &Job, tally: &Arc<Tally>) -> Result<(), BoxError> {
        match self {
            Self::Pipeline(format) => pipeline::start(format, job, tally),
            Self::SdkLoop => sdk_loop::start(job, tally),
            Self::Limit { is_cbor } => limit::start(is_cbor, job, tally),
            Self::PipelineFanOut => {
                pipeline::start_fan_out(job, tally);
                Ok(())
            }
            Self::SdkFanOut => sdk_fan_out::start(job, tally),
        }
    }
}

/// The counters at one point in time.
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
        let cpu = cpu_time().ok_or("the kernel does not report the CPU time of this process")?;
        Ok(Self { cpu, reads, records: tally.records(), bytes: tally.bytes() })
    }
}

/// Reads the whole stream and returns the figures.
pub(crate) fn run(contender: Contender, job: &Job) -> Result<Value, BoxError> {
    let mut figures = None;
    let mut outcome = Ok(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut measured = || match read_all(&runtime, contender, job) {
        Ok(found) => figures = Some(found),
        Err(error) => outcome = Err(error),
    };
    // The tasks still live in the runtime, so allocations that remain after the closure are the steady-state heap.
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

    // With records the figures start at the beginning and include the setup. With idle shards they start once these
    // have settled.
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

/// Waits until every shard was read, and until idle shards have settled.
async fn warm(job: &Job, tally: &Tally) -> Result<(), BoxError> {
    if !job.is_timed() {
        tally.warm().await;
        return Ok(());
    }
    while http::stats(&job.url)?.get("shards").copied() != Some(job.shards) {
        sleep(POLL_INTERVAL).await;
    }
    sleep(SETTLE_TIME).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::Client;
    use aws_sdk_kinesis::config::retry::RetryConfig;
    use aws_sdk_kinesis::types::ShardIteratorType;

    use super::*;
    use crate::server::{Plan, Server};

    /// Starts a server, and returns the work over TLS.
    async fn job(shape: Shape) -> Job {
        let (shards, answers) = (2, 2);
        let server = Server::bind(Plan { shape, shards, answers, is_closed: false }).await.unwrap();
        let [url, endpoint] = server.urls().unwrap();
        tokio::spawn(async move { server.run().await.unwrap() });
        Job { url, endpoint, shape, shards, answers, seconds: 0, counts: false }
    }

    #[tokio::test]
    async fn every_record_arrives_over_tls_and_by_fan_out() {
        for contender in [Contender::SdkLoop, Contender::Limit { is_cbor: true }, Contender::SdkFanOut] {
            let job = job(Shape::A).await;
            let tally = Arc::new(Tally::new(job.shards, job.expected_records()));
            contender.start(&job, &tally).unwrap();
            timeout(TIME_LIMIT, tally.done()).await.unwrap();
            let expected = (job.expected_records(), job.expected_records() * Shape::A.payload_bytes());
            assert_eq!((tally.records(), tally.bytes()), expected, "{}", contender.name());
        }
    }

    /// A client closes a connection of HTTP/2 after a hundred empty DATA frames.
    #[tokio::test]
    async fn connection_carries_any_number_of_small_answers() {
        let client = job(Shape::E).await.client().unwrap();
        let without_retries = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let client = Client::from_conf(without_retries);
        for call in 0..150 {
            let iterator = client.get_shard_iterator().stream_name("words").shard_id("shardId-000000000000");
            let answer = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await;
            assert!(answer.is_ok(), "call {call}: {answer:?}");
        }
    }
}
