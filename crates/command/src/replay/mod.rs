//! `kinesis-streaming replay`: a range of shards, or dead letters, into a file, a stream or a program.
//!
//! Each batch counts as done once its destination has it. A destination that fails ends the command, which names the last position
//! done; a later run continues there, and may repeat the records of the last batch. Nothing is left out without a word.

mod arguments;
mod destination;
mod item;
mod letters_file;
mod progress;
mod range;
mod shards;
mod stream_destination;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kinesis_asl::KinesisStream;
use shard_worker::StreamSource as _;

use self::arguments::ShardsArguments;
use self::destination::{Destination, DestinationArguments};
use self::item::{Decoder, Item};
use self::progress::Progress;
use self::range::Range;
use crate::connection::ConnectionArguments;
use crate::exit_code::{CommandError, CommandErrorKind, usage};
use crate::read::stream_clock::now_for;

/// The most records that a destination gets at once. A position counts as done after them.
const MAX_BATCH_RECORDS: usize = 500;

/// The arguments of `kinesis-streaming replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    #[command(subcommand)]
    source: Source,
}

#[derive(Debug, Subcommand)]
enum Source {
    /// Replays records of a stream, de-aggregated, parents before their children.
    Records(Box<RecordsArguments>),
    /// Replays the records in dead letters: of a file, or of a stream.
    DeadLetters(Box<LettersArguments>),
}

#[derive(Debug, Args)]
struct RecordsArguments {
    /// The stream: its name or its ARN
    stream: String,

    /// Where to start: trim-horizon, a time such as 5m or 2026-11-30T07:00:00Z, or the position of a record with one --shard
    #[arg(long)]
    from: Option<String>,

    #[command(flatten)]
    shards: ShardsArguments,

    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, Args)]
struct LettersArguments {
    /// The file of dead letters, one line of JSON each
    #[arg(long, value_name = "FILE", required_unless_present = "stream", conflicts_with = "stream")]
    file: Option<PathBuf>,

    /// The stream of dead letters
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,

    /// Continues after this line of the file
    #[arg(long, value_name = "LINE", requires = "file", default_value_t = 0)]
    after_line: u64,

    /// Leaves out what is no dead letter, and says so; otherwise it ends the command
    #[arg(long)]
    skip_malformed: bool,

    /// Where to start in the stream: trim-horizon, a time, or the position of a record with one --shard
    #[arg(long, requires = "stream")]
    from: Option<String>,

    #[command(flatten)]
    shards: ShardsArguments,

    #[command(flatten)]
    common: CommonArguments,
}

/// The arguments of both sources.
#[derive(Debug, Args)]
struct CommonArguments {
    /// Ends after this many records
    #[arg(long, value_name = "COUNT")]
    max_records: Option<u64>,

    /// Records in this file what is done, and continues where an earlier run with it ended
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,

    #[command(flatten)]
    connection: ConnectionArguments,

    #[command(flatten)]
    destination: DestinationArguments,
}

/// Runs the command.
pub(crate) async fn run(arguments: ReplayArguments) -> Result<(), CommandError> {
    match arguments.source {
        Source::Records(arguments) => records(*arguments).await,
        Source::DeadLetters(arguments) => letters(*arguments).await,
    }
}

async fn records(arguments: RecordsArguments) -> Result<(), CommandError> {
    let RecordsArguments { stream: name, from, shards, common } = arguments;
    let stream = common.connection.stream(&name).await?;
    if common.destination.is_stream(&name) && !shards.has_end() {
        return Err(usage(format!(
            "{name:?} is the source and the destination, so the replay may read its own records; end the range with --until"
        )));
    }
    let source = format!("stream {}", stream.stream_name());
    let range = range(&stream, from.as_deref(), &shards).await?;
    let mut delivery = Delivery::start(&common, source).await?;
    let replayed = shards::replay(&stream, &shards, &range, &Decoder::Records, &mut delivery).await;
    delivery.end(replayed).await
}

async fn letters(arguments: LettersArguments) -> Result<(), CommandError> {
    let LettersArguments { file, stream, after_line, skip_malformed, from, shards, common } = arguments;
    if let Some(file) = file {
        let mut delivery = Delivery::start(&common, format!("file {}", file.display())).await?;
        let replayed = letters_file::replay(&file, after_line, skip_malformed, &mut delivery).await;
        return delivery.end(replayed).await;
    }
    let name = stream.unwrap_or_default();
    let stream = common.connection.stream(&name).await?;
    let range = range(&stream, Some(from.as_deref().unwrap_or("trim-horizon")), &shards).await?;
    let mut delivery = Delivery::start(&common, format!("letters {}", stream.stream_name())).await?;
    let decoder = Decoder::Letters { skips_malformed: skip_malformed };
    let replayed = shards::replay(&stream, &shards, &range, &decoder, &mut delivery).await;
    delivery.end(replayed).await
}

/// The range of the command line, whose times are those of the stream.
async fn range(
    stream: &KinesisStream,
    from: Option<&str>,
    shards: &ShardsArguments,
) -> Result<Range, CommandError> {
    let now = now_for(stream, from.into_iter().chain(shards.until.as_deref())).await?;
    Range::parse(from, shards, now)
}

/// Why a replay ended before its source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All of the range is delivered.
    Complete,
    /// As many records are delivered as were asked for.
    Enough,
}

/// The destination, and what it has.
struct Delivery {
    destination: Destination,
    progress: Progress,
    left: u64,
}

impl Delivery {
    async fn start(arguments: &CommonArguments, source: String) -> Result<Self, CommandError> {
        let progress = Progress::start(source, arguments.progress.as_deref())?;
        let destination = Destination::open(&arguments.destination, &arguments.connection).await?;
        Ok(Self { destination, progress, left: arguments.max_records.unwrap_or(u64::MAX) })
    }

    /// Delivers items of one place, in order: a shard, or the file.
    async fn deliver(&mut self, place: &str, items: &[Item]) -> Result<Ending, CommandError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(items.len());
        for batch in items.get(..wanted).unwrap_or_default().chunks(MAX_BATCH_RECORDS) {
            self.destination.write(batch).await?;
            self.left = self.left.saturating_sub(batch.len() as u64);
            let Some(last) = batch.last() else { continue };
            self.progress.note(place, &last.position, batch.len(), self.destination.confirms_batches())?;
        }
        Ok(if self.left == 0 { Ending::Enough } else { Ending::Complete })
    }

    /// Ends the destination, and says what is done.
    async fn end(mut self, replayed: Result<Ending, CommandError>) -> Result<(), CommandError> {
        let confirms_batches = self.destination.confirms_batches();
        let ended = match replayed {
            Ok(_) => self.destination.finish().await,
            // The first failure counts.
            Err(error) => {
                self.destination.abandon().await;
                Err(error)
            }
        };
        match ended {
            Ok(()) => {
                self.progress.confirm_all()?;
                eprintln!("kinesis-streaming: {}", self.progress.summary());
                Ok(())
            }
            Err(error) => {
                let state = self.progress.failure_summary(confirms_batches);
                let kind: CommandErrorKind = error.kind();
                Err(CommandError::new(kind, format!("{error}; {state}")).caused_by(error))
            }
        }
    }
}
