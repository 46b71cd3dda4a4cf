//! Measures the CPU time and allocations of reading in each format, and of a loop over the AWS SDK alone.
//!
//! `taskset -c 0 cargo run --release -p kinesis-asl --example get_records_cost`
//!
//! The server is a separate process, on another core if `taskset` is available; only the reading thread is counted. All shards
//! are read concurrently, each five times a second, as AWS allows. Rounds are interleaved, and a figure is the minimum of its
//! rounds. Compare the ratios within a run, not the figures of different runs. Linux only.

#[path = "../tests/rendered_server/mod.rs"]
mod rendered_server;

use std::io::{BufRead, BufReader, Error};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};
use kinesis_asl::{GetRecordsFormat, KinesisStream};
use lease_store::ShardId;
use rendered_server::{Shape, serve};
use shard_worker::{BoxError, ReadFrom, StreamSource};
use tokio::task::JoinSet;
use tokio::time::sleep;

const ROUNDS: usize = 5;

/// AWS allows five reads a second.
const READ_INTERVAL: Duration = Duration::from_millis(200);

/// The name, the records of an answer, the bytes of a payload, the shards, and the reads of each shard.
const SHAPES: [(&str, usize, usize, u64, u64); 4] = [
    ("1,000 x 1 KB", 1000, 1000, 16, 8),
    ("10,000 x 100 B", 10_000, 100, 8, 8),
    ("100 x 50 KB", 100, 50_000, 8, 5),
    ("empty", 0, 0, 256, 10),
];

/// How the shards are read.
#[derive(Debug, Clone, Copy)]
enum Way {
    SdkLoop,
    Ours(GetRecordsFormat),
}

const WAYS: [(&str, Way); 4] = [
    ("SDK loop", Way::SdkLoop),
    ("Sdk", Way::Ours(GetRecordsFormat::Sdk)),
    ("Json", Way::Ours(GetRecordsFormat::Json)),
    ("Cbor", Way::Ours(GetRecordsFormat::Cbor)),
];

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("serve") {
        let mut number =
            || arguments.next().and_then(|number| number.parse().ok()).ok_or("a number is missing");
        let shape = Shape { records: number()?, payload_bytes: number()? };
        let rendered = shape.render();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        println!("http://{}", listener.local_addr()?);
        serve(&listener, rendered);
        return Ok(());
    }
    println!(
        "| answer | way | CPU s/GB | CPU s/million records | CPU us/call | to the SDK loop | allocations/call | a record |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, records, payload_bytes, shards, reads) in SHAPES {
        let (mut server, url) = start_server(records, payload_bytes)?;
        let mut least = [(f64::INFINITY, u64::MAX); WAYS.len()];
        for _ in 0..ROUNDS {
            for ((_, way), least) in WAYS.iter().zip(&mut least) {
                let (seconds, allocations) = measure(*way, &url, shards, reads)?;
                *least = (least.0.min(seconds), least.1.min(allocations));
            }
        }
        server.kill()?;
        let calls = as_f64(shards * reads);
        let (records, bytes) =
            (as_f64(records as u64) * calls, as_f64((records * payload_bytes) as u64) * calls);
        for ((way, _), (seconds, allocations)) in WAYS.iter().zip(least) {
            let allocations = as_f64(allocations);
            println!(
                "| {name} | {way} | {:.3} | {:.4} | {:.1} | {:.2} | {:.1} | {:.4} |",
                seconds / bytes * 1e9,
                seconds / records * 1e6,
                seconds / calls * 1e6,
                seconds / least[0].0,
                allocations / calls,
                allocations / records,
            );
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // printed figures need no more precision
fn as_f64(number: u64) -> f64 {
    number as f64
}

fn start_server(records: usize, payload_bytes: usize) -> Result<(Child, String), BoxError> {
    let program = std::env::current_exe()?;
    let arguments = ["serve".to_owned(), records.to_string(), payload_bytes.to_string()];
    let start = |command: &mut Command| command.args(&arguments).stdout(Stdio::piped()).spawn();
    let pinned = start(Command::new("taskset").args(["-c", "1"]).arg(&program));
    let mut server = pinned.or_else(|_| start(&mut Command::new(&program)))?;
    let mut url = String::new();
    BufReader::new(server.stdout.take().ok_or("the server printed no URL")?).read_line(&mut url)?;
    Ok((server, url.trim_end().to_owned()))
}

/// The CPU seconds and allocations of `reads` reads of each shard, after one uncounted read of each.
fn measure(way: Way, url: &str, shards: u64, reads: u64) -> Result<(f64, u64), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "local server"))
        .endpoint_url(url)
        .build();
    let client = Client::from_conf(config);
    let format = match way {
        Way::SdkLoop => GetRecordsFormat::Sdk,
        Way::Ours(format) => format,
    };
    let stream = KinesisStream::from_client(client.clone(), "words")
        .with_idle_time_between_reads(Duration::ZERO)
        .with_get_records_format(format);
    let mut tasks = JoinSet::new();
    // Each shard waits here after its uncounted read until all have finished theirs.
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(usize::try_from(shards)? + 1));
    for shard in 0..shards {
        let (client, barrier) = (client.clone(), barrier.clone());
        match way {
            Way::SdkLoop => tasks.spawn_on(
                async move {
                    let mut iterator = "first".to_owned();
                    for read in 0..=reads {
                        let answer = client.get_records().shard_iterator(iterator).send().await?;
                        iterator = answer.next_shard_iterator.ok_or("the shard has ended")?;
                        if read == 0 {
                            barrier.wait().await;
                        }
                        sleep(READ_INTERVAL).await;
                    }
                    Ok::<(), BoxError>(())
                },
                runtime.handle(),
            ),
            Way::Ours(_) => {
                let stream = stream.clone();
                tasks.spawn_on(
                    async move {
                        let from = ReadFrom::TrimHorizon;
                        let mut reader = stream.open(&ShardId::numbered(shard), &from).await?;
                        for read in 0..=reads {
                            reader.next_batch().await?;
                            if read == 0 {
                                barrier.wait().await;
                            }
                        }
                        Ok(())
                    },
                    runtime.handle(),
                )
            }
        };
    }
    runtime.block_on(barrier.wait());
    let begun = cpu_seconds()?;
    let mut outcome: Result<(), BoxError> = Ok(());
    let counted = allocation_counter::measure(|| {
        outcome = runtime.block_on(async {
            while let Some(task) = tasks.join_next().await {
                task??;
            }
            Ok(())
        });
    });
    outcome?;
    Ok((cpu_seconds()? - begun, counted.count_total))
}

/// The CPU time of this thread, in seconds.
fn cpu_seconds() -> Result<f64, BoxError> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = statistics.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
    let nanos = nanos.ok_or_else(|| Error::other("no CPU time in schedstat"))?;
    Ok(Duration::from_nanos(nanos).as_secs_f64())
}
