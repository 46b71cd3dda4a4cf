//! Counts the words of a Kinesis stream, with several receivers in one process, next to other processes of the application.
//!
//! ```text
//! kinesis_word_count --stream words --application word-count --region eu-west-1
//! kinesis_word_count --stream words --application word-count --retrieval fan-out
//! kinesis_word_count --stream arn:aws:kinesis:eu-west-1:111122223333:stream/words --application word-count
//! ```
//!
//! SIGTERM and Ctrl-C stop it gracefully. Exit status: 0 if all delivered records are checkpointed, 3 if not, 1 after an error.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use clap::{Parser, ValueEnum};
use examples::{DeliveryLog, Journal, log_to_stderr};
use futures::StreamExt as _;
use kinesis_streaming::FleetMetrics;
use kinesis_streaming::kinesis_asl::METRICS_INTERVAL;
use kinesis_streaming::prelude::*;
use tracing_subscriber::filter::LevelFilter;

/// The exit status after a stop that left delivered records without a checkpoint.
const NOT_DRAINED: u8 = 3;

/// How many batches wait between the receivers and the counter.
const UNITED_BUFFER: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

/// Count the words of a Kinesis stream.
#[derive(Debug, Parser)]
struct Arguments {
    /// The stream to read: its name or its ARN.
    #[arg(long)]
    stream: String,
    /// The application: all processes with this name share the stream. Also the name of the lease table.
    #[arg(long)]
    application: String,
    /// The region of the stream; by default that of its ARN, or else of the environment.
    #[arg(long)]
    region: Option<String>,
    /// Another endpoint for Kinesis, and for DynamoDB unless that has its own.
    #[arg(long)]
    endpoint_url: Option<String>,
    /// Another endpoint for DynamoDB.
    #[arg(long)]
    dynamodb_endpoint_url: Option<String>,
    /// Where a shard without a checkpoint starts: TRIM_HORIZON, LATEST, or seconds since 1970.
    #[arg(long, default_value = "TRIM_HORIZON", value_parser = initial_position)]
    initial_position: InitialPosition,
    /// How many receivers to run here; by default as many as the stream has open shards.
    #[arg(long)]
    receivers: Option<NonZeroUsize>,
    /// The name of this process in the fleet, the same after a restart; by default new each time.
    #[arg(long)]
    worker_id: Option<String>,
    /// After how many milliseconds without renewal the leases of a worker expire.
    #[arg(long, default_value_t = 10_000)]
    failover_time_ms: u64,
    /// How often the most frequent words are printed, in seconds.
    #[arg(long, default_value_t = 10)]
    print_seconds: u64,
    /// Publish metrics to CloudWatch every 10 seconds, in a namespace named after the application.
    #[arg(long)]
    cloudwatch: bool,
    /// Another endpoint for CloudWatch.
    #[arg(long, requires = "cloudwatch")]
    cloudwatch_endpoint_url: Option<String>,
    /// How records are fetched: by polling, or by enhanced fan-out, which AWS charges for.
    #[arg(long, value_enum, default_value_t = Retrieval::Polling)]
    retrieval: Retrieval,
    /// The fan-out consumer to subscribe as: its name, which is registered if it is absent, or its ARN. By default it has the name
    /// of the application.
    #[arg(long)]
    consumer_name: Option<String>,
    /// A tag of the consumer when it is registered; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    consumer_tag: Vec<(String, String)>,
    /// Deregister the consumer at the end, if this process registered it. Others that still use it are interrupted.
    #[arg(long)]
    deregister_at_end: bool,
    /// A file that each delivered record is appended to before it is acknowledged.
    #[arg(long)]
    journal: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Retrieval {
    Polling,
    FanOut,
}

impl Arguments {
    fn retrieval_mode(&self) -> Result<RetrievalMode, BoxError> {
        if self.retrieval == Retrieval::Polling {
            return match (&self.consumer_name, self.deregister_at_end, self.consumer_tag.as_slice()) {
                (None, false, []) => Ok(RetrievalMode::Polling),
                _ => {
                    Err("--consumer-name, --consumer-tag and --deregister-at-end need --retrieval fan-out"
                        .into())
                }
            };
        }
        let name = self.consumer_name.as_ref().unwrap_or(&self.application);
        let mut settings = FanOutSettings::with_consumer(name);
        settings.consumer_tags = self.consumer_tag.iter().cloned().collect();
        settings.deregister_at_end = self.deregister_at_end;
        Ok(RetrievalMode::FanOut(settings))
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn initial_position(text: &str) -> Result<InitialPosition, String> {
    match text {
        "TRIM_HORIZON" => Ok(InitialPosition::TrimHorizon),
        "LATEST" => Ok(InitialPosition::Latest),
        seconds => {
            let seconds =
                seconds.parse().map_err(|_| "must be TRIM_HORIZON, LATEST or seconds since 1970")?;
            Ok(InitialPosition::AtTimestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr(LevelFilter::INFO);
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_DRAINED),
        Err(error) => {
            eprintln!("kinesis_word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool, BoxError> {
    let mut settings = AwsSettings::new(&arguments.stream);
    settings.region = arguments.region.clone();
    settings.kinesis_endpoint_url = arguments.endpoint_url.clone();
    settings.dynamodb_endpoint_url =
        arguments.dynamodb_endpoint_url.clone().or(arguments.endpoint_url.clone());
    settings.cloudwatch_endpoint_url = arguments.cloudwatch_endpoint_url.clone();
    settings.retrieval = arguments.retrieval_mode()?;
    let aws = KinesisAsl::connect(settings).await?;
    let stream = aws.stream();
    println!("retrieval: {}", stream.retrieval());
    if let Some(consumer) = stream.ensure_consumer().await? {
        println!("consumer: {}", consumer.arn);
    }

    let shards = stream.list_shards(&ShardFilter::All).await?;
    let open = shards.iter().filter(|shard| !shard.is_closed).count();
    let receivers = arguments.receivers.map_or(open.max(1), NonZeroUsize::get);
    println!("plan: {} open shards of {} listed, {receivers} receivers in this process", open, shards.len());

    let (processors, mut batches) = united_stream(UNITED_BUFFER);
    let mut builder = Consumer::builder()
        .application(&arguments.application)
        .source(stream.clone())
        .lease_store(aws.lease_store(&arguments.application)?)
        .initial_position(arguments.initial_position)
        .failover_time(Duration::from_millis(arguments.failover_time_ms))
        .processors(processors);
    if let Some(worker_id) = &arguments.worker_id {
        builder = builder.worker_id(worker_id);
    }
    let group = ConsumerGroup::new(&builder, receivers)?;
    drop(builder); // it holds a sender of the united stream, which ends with its last sender
    let handle = group.handle();
    let metrics = if arguments.cloudwatch {
        let mut metrics = FleetMetrics::new(handle.clone());
        let publisher = aws.cloudwatch(&arguments.application)?;
        Some(publisher.publish_every(METRICS_INTERVAL, move || metrics.sample()))
    } else {
        None
    };
    let running = tokio::spawn(group.run());

    stop_on_signal(move || {
        println!("SIGTERM or Ctrl-C: stopping");
        handle.stop();
    });

    let log = Arc::new(Mutex::new(DeliveryLog::default()));
    let printer =
        tokio::spawn(print_top_words(log.clone(), Duration::from_secs(arguments.print_seconds.max(1))));
    let mut journal = arguments.journal.as_deref().map(Journal::append_to).transpose()?;
    while let Some(delivery) = batches.next().await {
        if let Some(journal) = &mut journal {
            journal.append(delivery.shard(), delivery.batch())?;
        }
        lock(&log).record(&delivery.shard().shard_id, delivery.batch());
        delivery.acknowledge();
    }
    printer.abort();
    if let Some(metrics) = metrics {
        metrics.stop().await;
    }
    let reports = running.await??;
    if stream.end_retrieval().await? {
        println!("deregistered the consumer");
    }
    print_totals(&lock(&log));
    let is_drained = reports.iter().all(StopReport::is_drained);
    println!(
        "stopped, {}",
        if is_drained { "drained" } else { "NOT drained: some records will be delivered again" }
    );
    let unread: Vec<_> = reports.iter().flat_map(|report| &report.unread).collect();
    if !unread.is_empty() {
        println!("NOT read, records may be missing: {unread:?}");
    }
    Ok(is_drained && unread.is_empty())
}

fn lock(log: &Mutex<DeliveryLog>) -> MutexGuard<'_, DeliveryLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn print_top_words(log: Arc<Mutex<DeliveryLog>>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        print_totals(&lock(&log));
    }
}

fn print_totals(log: &DeliveryLog) {
    let totals = log.totals();
    let top: Vec<String> =
        log.words().top(10).into_iter().map(|(word, count)| format!("{word}={count}")).collect();
    println!(
        "{} records, {} again, {} words; most frequent: {}",
        totals.records,
        totals.again,
        log.words().words(),
        top.join(" ")
    );
    // A closed pipe is no reason to stop counting.
    let _ = std::io::stdout().flush();
}
