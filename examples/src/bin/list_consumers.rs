//! Lists the registered fan-out consumers of a stream, to find unused ones: AWS charges for each by the hour.
//!
//! ```text
//! list_consumers --stream words --region eu-west-1
//! ```
//!
//! It removes none; `aws kinesis deregister-stream-consumer --consumer-arn ...` removes one.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use kinesis_streaming::prelude::*;

/// List the registered consumers of a Kinesis stream.
#[derive(Debug, Parser)]
struct Arguments {
    /// The stream: its name or its ARN.
    #[arg(long)]
    stream: String,
    /// The region of the stream; by default that of its ARN, or else of the environment.
    #[arg(long)]
    region: Option<String>,
    /// Another endpoint for Kinesis.
    #[arg(long)]
    endpoint_url: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("list_consumers: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    let mut settings = AwsSettings::new(arguments.stream);
    settings.region = arguments.region;
    settings.kinesis_endpoint_url = arguments.endpoint_url;
    let stream = KinesisAsl::connect(settings).await?.stream();
    let mut consumers = stream.list_consumers().await?;
    consumers.sort_by_key(|consumer| consumer.created_at);
    println!(
        "{} consumers, the oldest first: status, registered (seconds since 1970), name, ARN",
        consumers.len()
    );
    for consumer in consumers {
        let created_at = consumer.created_at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let created_at = created_at.map_or_else(|| "unknown".to_owned(), |at| at.as_secs().to_string());
        println!("{:<8}  {created_at:>10}  {}  {}", consumer.status, consumer.name, consumer.arn);
    }
    Ok(())
}
