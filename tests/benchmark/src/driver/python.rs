//! Contenders from PyPI: `kcl-rs` as in its documentation, and a loop over `boto3`.
//!
//! The driver reads their CPU time from outside. `kcl-rs` waits up to 100 s before it reads, so it starts early on an
//! empty stream; the measurement starts when the server has records.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use kinesis_streaming::prelude::BoxError;
use serde_json::json;

use super::comparisons::Kind;
use super::processes::{Server, end, pinned};
use super::progress::Progress;
use super::report::{Report, as_f64};
use crate::http;
use crate::measure::{cpu_time_of, memory_bytes};
use crate::shape::Shape;

const KCL_RS: &str = include_str!("../scripts/kcl_rs_consumer.py");
const BOTO3: &str = include_str!("../scripts/boto3_loop.py");

/// The comparisons of both: shape, shards, answers of each shard.
const COMPARISONS: [(Shape, u64, u64); 3] = [(Shape::A, 16, 8), (Shape::B, 16, 6), (Shape::C, 16, 4)];

/// Number of idle shards for `kcl-rs`.
const IDLE_SHARDS: u64 = 256;

/// Longest time until `kcl-rs` reads all shards.
const START_LIMIT: Duration = Duration::from_secs(240);

/// How long it then settles, and how long idle shards are measured.
const IDLE_TIME: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Interval between two progress lines during a wait.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);

/// DynamoDB, served by a program of this repository.
const DYNAMODB: &str = "127.0.0.1:18433";
const UNUSED_KINESIS: &str = "127.0.0.1:18432";

/// A process that is killed on drop.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

impl Process {
    fn cpu(&self) -> Duration {
        cpu_time_of(self.0.id()).unwrap_or_default()
    }

    fn output(&mut self) -> Result<BufReader<ChildStdout>, BoxError> {
        Ok(BufReader::new(self.0.stdout.take().ok_or("the process has no standard output")?))
    }
}

/// Blocks between two polls: the driver only waits for other processes.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(super) fn run(
    python: &Path,
    local_endpoints: &Path,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), BoxError> {
    progress.note("running the boto3 loop");
    boto3(python, report)?;
    let dynamodb = Command::new(local_endpoints)
        .args([UNUSED_KINESIS, DYNAMODB])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", local_endpoints.display()))?;
    let _dynamodb = Process(dynamodb);
    pause(POLL_INTERVAL);
    progress.note("starting kcl-rs for all shapes at once; it waits more than a minute before it reads");
    let mut started = Vec::new();
    for (shape, shards, answers) in COMPARISONS.into_iter().chain([(Shape::E, IDLE_SHARDS, 0)]) {
        let server = Server::start(shape, shards, answers, true)?;
        let records = shape.records() * answers * shards;
        let mut command = pinned("0", python);
        command
            .args([
                "-c",
                KCL_RS,
                &server.url,
                DYNAMODB,
                &format!("kcl-rs-{}", shape.letter()),
                &records.to_string(),
            ])
            .env("AWS_ENDPOINT_URL_KINESIS", &server.url)
            .env("AWS_ENDPOINT_URL_CLOUDWATCH", &server.url)
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{DYNAMODB}"));
        let child = command.stdout(Stdio::piped()).spawn()?;
        started.push((shape, shards, answers, server, Process(child)));
    }
    for (shape, shards, answers, server, mut process) in started {
        await_all_shards(&server, shards, progress)?;
        pause(IDLE_TIME);
        let before = (process.cpu(), http::stats(&server.url)?);
        if shape == Shape::E {
            pause(IDLE_TIME);
            let reads = http::stats(&server.url)?["reads"] - before.1["reads"];
            let cpu = process.cpu() - before.0;
            let rss = memory_bytes(Some(process.0.id()), "VmRSS").unwrap_or(0);
            let row = json!({
                "cpu_micros_per_read": cpu.as_secs_f64() * 1e6 / as_f64(reads),
                "reads": reads,
                "rss_per_shard": as_f64(rss) / as_f64(shards),
            });
            let row = report.add(Kind::Count, shape, shards, "kcl-rs", row);
            println!("\n{shards} shards, {shape}, one read per second");
            Report::print(&[row]);
            continue;
        }
        let mut output = process.output()?;
        http::open(&server.url)?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        if !line.starts_with("done") {
            return Err(format!("kcl-rs did not report the end of the stream: {line:?}").into());
        }
        add(report, "kcl-rs", (shape, shards, answers), process.cpu() - before.0, &process);
    }
    Ok(())
}

fn await_all_shards(server: &Server, shards: u64, progress: &Progress) -> Result<(), BoxError> {
    let mut waited = Duration::ZERO;
    let mut noted = Duration::ZERO;
    loop {
        let read = http::stats(&server.url)?["shards"];
        if read >= shards {
            return Ok(());
        }
        if waited > START_LIMIT {
            return Err(format!("kcl-rs does not read all {shards} shards within {START_LIMIT:?}").into());
        }
        if waited >= noted + NOTE_INTERVAL {
            noted = waited;
            progress.note(&format!("waiting for kcl-rs: it reads {read} of {shards} shards"));
        }
        pause(POLL_INTERVAL);
        waited += POLL_INTERVAL;
    }
}

fn boto3(python: &Path, report: &mut Report) -> Result<(), BoxError> {
    for (shape, shards, answers) in COMPARISONS {
        let server = Server::start(shape, shards, answers, false)?;
        let mut command = pinned("0", python);
        command.args([
            "-c",
            BOTO3,
            &server.url,
            &shards.to_string(),
            &(shape.records() * answers).to_string(),
        ]);
        let mut process = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let mut output = process.output()?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        let before = process.cpu();
        process.0.stdin.as_mut().ok_or("the process has no standard input")?.write_all(b"\n")?;
        line.clear();
        output.read_line(&mut line)?;
        if !line.starts_with("done") {
            return Err(format!("the boto3 loop did not report the end of the stream: {line:?}").into());
        }
        add(report, "boto3", (shape, shards, answers), process.cpu() - before, &process);
    }
    Ok(())
}

fn add(report: &mut Report, who: &str, comparison: (Shape, u64, u64), cpu: Duration, process: &Process) {
    let (shape, shards, answers) = comparison;
    let read = as_f64(shards * answers);
    let row = json!({
        "cpu_s_per_gb": cpu.as_secs_f64() * 1e9 / (as_f64(shape.user_bytes()) * read),
        "cpu_s_per_million_records": cpu.as_secs_f64() * 1e6 / (as_f64(shape.user_records()) * read),
        "cpu_micros_per_read": cpu.as_secs_f64() * 1e6 / read,
        "rss_max_mb": as_f64(memory_bytes(Some(process.0.id()), "VmHWM").unwrap_or(0)) / 1e6,
    });
    let row = report.add(Kind::Time, shape, shards, who, row);
    println!("\n{shards} shards, {shape}");
    Report::print(&[row]);
}
