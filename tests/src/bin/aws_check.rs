//! Checks the assumptions of this library about the real services, and writes a report without payloads: `cargo xtask aws-check`.
//!
//! ```text
//! cargo xtask aws-check --stream words --region eu-west-1 --report aws.md
//! ```
//!
//! It only reads, takes less than ten minutes, and fails if an assumption is broken. `--register` and `--table` let it create a
//! consumer and a table, which it removes.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use aws_config::{BehaviorVersion, Region};
use clap::Parser;
use end_to_end_tests::aws_check::assumption::Verdict;
use end_to_end_tests::aws_check::report::Report;
use end_to_end_tests::aws_check::run::{Clients, Options, run};
use kinesis_streaming::kinesis_asl::KinesisStream;
use kinesis_streaming::prelude::BoxError;
use kinesis_streaming::shard_worker::StreamSource as _;

/// Check the assumptions of this library about the real services.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask aws-check", bin_name = "cargo xtask aws-check")]
struct Arguments {
    /// The stream to read: its name or its ARN. Choose one with records and, if possible, with a closed shard.
    #[arg(long)]
    stream: String,
    /// The region; by default that of the ARN, or else of the environment or the profile.
    #[arg(long)]
    region: Option<String>,
    /// The profile of the credentials.
    #[arg(long)]
    profile: Option<String>,
    /// Another endpoint for Kinesis.
    #[arg(long)]
    endpoint_url: Option<String>,
    /// Another endpoint for DynamoDB.
    #[arg(long)]
    dynamodb_endpoint_url: Option<String>,
    /// Write the report to this file instead of the standard output.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Check enhanced fan-out with this registered consumer. Another reader with it loses its subscriptions for a moment.
    #[arg(long)]
    consumer: Option<String>,
    /// Register the consumer if it is missing, and deregister it at the end. A consumer costs money for each hour and shard.
    #[arg(long, requires = "consumer")]
    register: bool,
    /// Check the conditions of DynamoDB on a new table of this name, which is deleted at the end. It must not exist.
    #[arg(long)]
    table: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match check(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("aws_check: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the report. `false`: an assumption is broken, the stream cannot be described, or something could not be removed.
async fn check(arguments: Arguments) -> Result<bool, BoxError> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    let region = arguments.region.or_else(|| region_of(&arguments.stream));
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(profile) = arguments.profile {
        loader = loader.profile_name(profile);
    }
    // Boxed because the future is large.
    let config = Box::pin(loader.load()).await;
    let region = config.region().map(ToString::to_string);
    let region = region.ok_or("no region; give --region, the ARN of the stream, or AWS_REGION")?;
    let mut kinesis = aws_sdk_kinesis::config::Builder::from(&config);
    kinesis.set_endpoint_url(arguments.endpoint_url.or_else(|| config.endpoint_url().map(str::to_owned)));
    let mut dynamodb = aws_sdk_dynamodb::config::Builder::from(&config);
    let own = arguments.dynamodb_endpoint_url;
    dynamodb.set_endpoint_url(own.or_else(|| config.endpoint_url().map(str::to_owned)));
    let clients = Clients {
        kinesis: aws_sdk_kinesis::Client::from_conf(kinesis.build()),
        dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
    };
    // The library's own error says what to do about credentials, region and endpoint; the report has codes only.
    let stream = KinesisStream::from_client(clients.kinesis.clone(), &arguments.stream);
    let described = stream.describe().await;
    if let Err(error) = &described {
        eprintln!("aws_check: the stream cannot be described: {error}");
    }

    let mut options = Options::of_stream(&arguments.stream);
    options.consumer = arguments.consumer;
    options.may_register = arguments.register;
    options.table = arguments.table;
    let outcome = run(&clients, &options).await;
    let report = Report { stream: &options.stream, region: &region, findings: &outcome.findings }.to_string();
    match &arguments.report {
        Some(path) => {
            fs::write(path, &report).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("{}", report.lines().nth(2).unwrap_or_default());
        }
        None => print!("{report}"),
    }
    for left in &outcome.left_behind {
        eprintln!("aws_check: not removed: {left}");
    }
    let is_sound = outcome.findings.count(Verdict::Broken) == 0 && outcome.left_behind.is_empty();
    Ok(is_sound && described.is_ok())
}

/// The region in the ARN of a stream.
fn region_of(stream: &str) -> Option<String> {
    stream.starts_with("arn:").then(|| stream.split(':').nth(3).map(str::to_owned))?
}
