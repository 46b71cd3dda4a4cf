//! Puts the words of files into a Kinesis stream at an even rate, and reports the totals.
//!
//! ```text
//! word_producer --stream words --region eu-west-1 --input some/folder --records-per-second 200
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::operation::create_stream::CreateStreamError;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, StreamStatus};
use clap::Parser;
use examples::{PackedRecord, Packer, TextInput, WordTotals};
use fastrand::Rng;
use kinesis_streaming::checkpointer::RetryPolicy;
use kinesis_streaming::prelude::BoxError;
use tokio::time::{Instant, sleep, sleep_until};

/// The most entries of one `PutRecords` call (AWS limit).
const MAX_ENTRIES: usize = 500;

/// The most payload bytes of one call, below the AWS limit of 5 MiB with its keys.
const MAX_CALL_BYTES: usize = 4 * 1024 * 1024;

/// The most records of one aggregate. The aggregator bounds its bytes.
const MAX_AGGREGATE_RECORDS: i64 = 10_000;

/// How long a new stream may take to become active.
const ACTIVE_LIMIT: Duration = Duration::from_secs(60);

/// Put the words of files into a Kinesis stream.
#[derive(Debug, Parser)]
struct Arguments {
    /// The stream to write to: its name or its ARN.
    #[arg(long)]
    stream: String,
    /// The region of the stream; by default that of its ARN, or else of the environment.
    #[arg(long)]
    region: Option<String>,
    /// Another endpoint for Kinesis.
    #[arg(long)]
    endpoint_url: Option<String>,
    /// Create the stream with this many shards if it does not exist.
    #[arg(long)]
    create_with_shards: Option<i32>,
    /// Files or folders to read; by default this repository's own text.
    #[arg(long)]
    input: Vec<PathBuf>,
    /// Generate this many records of random words instead of reading files.
    #[arg(long, conflicts_with = "input")]
    make_records: Option<usize>,
    /// How many words a generated record has.
    #[arg(long, default_value_t = 10, requires = "make_records")]
    words_per_record: usize,
    /// The seed of the generated words.
    #[arg(long, default_value_t = 1, requires = "make_records")]
    seed: u64,
    /// About how many bytes of text make a record; 0 makes a record of each line.
    #[arg(long, default_value_t = 0)]
    record_bytes: usize,
    /// How many records are put in a second; 0 for no limit.
    #[arg(long, default_value_t = 100)]
    records_per_second: u32,
    /// Aggregate this many records into one, in the format of the Kinesis Producer Library; 0 for no aggregation. All records of an
    /// aggregate get one explicit hash key, so that they belong to one shard after any reshard.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=MAX_AGGREGATE_RECORDS))]
    aggregate: u32,
    /// Write the totals to this file: `{"records": n, "words": {"word": count}}`.
    #[arg(long)]
    totals: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("word_producer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    let pieces = match arguments.make_records {
        Some(records) => made_words(records, arguments.words_per_record, arguments.seed),
        None => TextInput::new(&arguments.input)?.pieces(arguments.record_bytes)?,
    };
    let mut config = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = arguments.region.or_else(|| region_of(&arguments.stream)) {
        config = config.region(Region::new(region));
    }
    if let Some(endpoint_url) = arguments.endpoint_url {
        config = config.endpoint_url(endpoint_url);
    }
    let client = Client::new(&config.load().await);
    if let Some(shard_count) = arguments.create_with_shards {
        if is_arn(&arguments.stream) {
            return Err("--create-with-shards needs the name of the stream, not its ARN".into());
        }
        create_stream(&client, &arguments.stream, shard_count).await?;
    }

    let started_at = Instant::now();
    let mut producer = Producer {
        client,
        stream: arguments.stream,
        rng: Rng::with_seed(u64::from(std::process::id())),
        totals: WordTotals::default(),
        records: 0,
        entries: 0,
        retried: 0,
    };
    let aggregate = usize::try_from(arguments.aggregate)?;
    let mut packer = Packer::new((aggregate > 0).then_some(aggregate));
    let mut waiting: Vec<PackedRecord<'_>> = Vec::new();
    let mut waiting_bytes = 0;
    for (index, piece) in pieces.iter().enumerate() {
        if arguments.records_per_second > 0 {
            let due_at =
                started_at + Duration::from_secs_f64(index as f64 / f64::from(arguments.records_per_second));
            if Instant::now() < due_at {
                // Put complete records before the wait, so that the rate is even and not in bursts.
                producer.put(&mut waiting).await?;
                waiting_bytes = 0;
                sleep_until(due_at).await;
            }
        }
        let complete = packer.add(piece)?;
        let is_last = index + 1 == pieces.len();
        for record in complete.into_iter().chain(if is_last { packer.finish() } else { None }) {
            if waiting.len() == MAX_ENTRIES || waiting_bytes + record.data.len() > MAX_CALL_BYTES {
                producer.put(&mut waiting).await?;
                waiting_bytes = 0;
            }
            waiting_bytes += record.data.len();
            waiting.push(record);
        }
    }
    producer.put(&mut waiting).await?;

    let seconds = started_at.elapsed().as_secs_f64();
    let totals = &producer.totals;
    println!(
        "put {} records in {} entries with {} words ({} different) in {seconds:.1} s; {} entries were put again after \
         a throttle",
        producer.records,
        producer.entries,
        totals.words(),
        totals.distinct(),
        producer.retried
    );
    for (word, count) in totals.top(10) {
        println!("{word} {count}");
    }
    if let Some(path) = arguments.totals {
        let json = serde_json::json!({ "records": producer.records, "words": totals });
        fs::write(&path, serde_json::to_vec(&json)?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Records of random words: digits, as in the producer of Spark's example.
fn made_words(records: usize, words_per_record: usize, seed: u64) -> Vec<String> {
    let mut rng = Rng::with_seed(seed);
    let mut record =
        || (0..words_per_record).map(|_| rng.u32(0..10).to_string()).collect::<Vec<_>>().join(" ");
    (0..records).map(|_| record()).collect()
}

fn is_arn(stream: &str) -> bool {
    stream.starts_with("arn:")
}

/// The region in the ARN of a stream.
fn region_of(stream: &str) -> Option<String> {
    stream.split(':').nth(3).filter(|_| is_arn(stream)).map(str::to_owned)
}

async fn create_stream(client: &Client, stream: &str, shard_count: i32) -> Result<(), BoxError> {
    let created = client.create_stream().stream_name(stream).shard_count(shard_count).send().await;
    if let Err(error) = created
        && !error.as_service_error().is_some_and(CreateStreamError::is_resource_in_use_exception)
    {
        return Err(format!("creating {stream}: {}", DisplayErrorContext(&error)).into());
    }
    let deadline = Instant::now() + ACTIVE_LIMIT;
    loop {
        let summary = client.describe_stream_summary().stream_name(stream).send().await;
        let summary =
            summary.map_err(|error| format!("describing {stream}: {}", DisplayErrorContext(&error)))?;
        let status = summary.stream_description_summary.map(|summary| summary.stream_status);
        if status == Some(StreamStatus::Active) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{stream} is not active after {ACTIVE_LIMIT:?}: {status:?}").into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

struct Producer {
    client: Client,
    stream: String,
    rng: Rng,
    totals: WordTotals,
    records: u64,
    /// Entries of `PutRecords`; an aggregate is one entry.
    entries: u64,
    retried: u64,
}

impl Producer {
    /// Puts all of these records. Throttled entries are put again after a randomised wait.
    async fn put(&mut self, waiting: &mut Vec<PackedRecord<'_>>) -> Result<(), BoxError> {
        let mut delays = RetryPolicy::default().delays(self.rng.fork());
        while !waiting.is_empty() {
            let entries = waiting.iter().map(|record| {
                let entry = PutRecordsRequestEntry::builder()
                    .data(Blob::new(record.data.clone()))
                    .partition_key(&record.partition_key)
                    .set_explicit_hash_key(record.explicit_hash_key.map(|hash_key| hash_key.to_string()));
                entry.build()
            });
            let entries = entries.collect::<Result<Vec<_>, _>>()?;
            let put = self.client.put_records().set_records(Some(entries));
            let put = if is_arn(&self.stream) {
                put.stream_arn(&self.stream)
            } else {
                put.stream_name(&self.stream)
            };
            let put = put.send().await;
            let put = put.map_err(|error| format!("PutRecords: {}", DisplayErrorContext(&error)))?;
            let mut throttled = Vec::new();
            for (record, answer) in std::mem::take(waiting).into_iter().zip(put.records) {
                if answer.sequence_number.is_some() {
                    record.pieces.iter().for_each(|piece| self.totals.add_text(piece));
                    self.records += record.pieces.len() as u64;
                    self.entries += 1;
                } else {
                    throttled.push(record);
                }
            }
            self.retried += throttled.len() as u64;
            *waiting = throttled;
            if !waiting.is_empty() {
                let delay =
                    delays.next().ok_or("the stream keeps throttling; put fewer records per second")?;
                sleep(delay).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{made_words, region_of};

    #[test]
    fn an_arn_names_its_region() {
        let arn = "arn:aws:kinesis:eu-west-1:111122223333:stream/words";
        assert_eq!(region_of(arn).as_deref(), Some("eu-west-1"));
        assert_eq!(region_of("words"), None);
    }

    #[test]
    fn generated_words_depend_on_the_seed_alone() {
        let records = made_words(7, 3, 1);
        assert_eq!(records.len(), 7);
        assert!(records.iter().all(|record| record.split_whitespace().count() == 3));
        assert_eq!(records, made_words(7, 3, 1));
        assert_ne!(records, made_words(7, 3, 2));
    }
}
