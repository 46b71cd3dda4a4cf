//! `kinesis-streaming tail` and `cat`: a stream in a terminal, without leases and within a share of the read budget.

pub(crate) mod lineage;
pub(crate) mod output_format;
pub(crate) mod shard_reader;
pub(crate) mod start;
pub(crate) mod stream_clock;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use kinesis_asl::KinesisStream;
use lease_store::ShardId;
use shard_worker::{ReadFrom, ShardFilter, StreamSource as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use self::lineage::ReadOrder;
use self::output_format::OutputFormat;
use self::shard_reader::{Bounds, Happening, ShardReader};
use self::start::Start;
use self::stream_clock::now_for;
use crate::connection::ConnectionArguments;
use crate::exit_code::{CommandError, CommandErrorKind, stream_error, usage};
use crate::terminal::print;
use crate::time_argument::parse_instant;
use crate::wall_clock::{now_millis, time_of};

/// The batches that wait to be written. A reader waits when there are more.
const MAX_WAITING_BATCHES: usize = 16;

/// The most reads under way at a time. An answer has at most 10 MB.
const MAX_READS_AT_ONCE: usize = 8;

/// The arguments that `tail` and `cat` share.
#[derive(Debug, Args)]
pub(crate) struct ReadArguments {
    /// The stream: its name or its ARN
    stream: String,

    /// Reads these shards alone [default: all]
    #[arg(long = "shard", value_name = "SHARD")]
    shards: Vec<String>,

    /// Shows records with these partition keys alone
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,

    /// Ends after this many records
    #[arg(long, value_name = "COUNT")]
    max_records: Option<u64>,

    /// The share of a shard's five reads a second; the rest is left to the applications
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    read_share: u32,

    #[command(flatten)]
    format: OutputFormat,

    #[command(flatten)]
    connection: ConnectionArguments,
}

/// The arguments of `kinesis-streaming tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    /// Where to start: tip, trim-horizon, a time such as 5m or 2026-11-30T07:00:00Z, or a position with --shard
    #[arg(long, default_value = "tip")]
    from: String,

    #[command(flatten)]
    read: ReadArguments,
}

/// The arguments of `kinesis-streaming cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArguments {
    /// Where to start: trim-horizon, a time such as 5m or 2026-11-30T07:00:00Z, or a position with --shard
    #[arg(long, default_value = "trim-horizon")]
    from: String,

    /// Ends before the records that arrived at this time or later [default: at the tip]
    #[arg(long)]
    until: Option<String>,

    #[command(flatten)]
    read: ReadArguments,
}

/// Follows a stream.
pub(crate) async fn tail(arguments: TailArguments) -> Result<(), CommandError> {
    let TailArguments { from, read: arguments } = arguments;
    parse_start(&from, now_millis())?;
    let stream = arguments.connection.stream(&arguments.stream).await?;
    let start = parse_start(&from, now_for(&stream, [from.as_str()].into_iter()).await?)?;
    read(arguments, stream, start, None, false).await
}

/// Reads a stream up to its tip, or to a time.
pub(crate) async fn cat(arguments: CatArguments) -> Result<(), CommandError> {
    let CatArguments { from, until, read: arguments } = arguments;
    parse_start(&from, now_millis())?;
    parse_end(until.as_deref(), now_millis())?;
    let stream = arguments.connection.stream(&arguments.stream).await?;
    let now = now_for(&stream, until.as_deref().into_iter().chain([from.as_str()])).await?;
    let (start, until_millis) = (parse_start(&from, now)?, parse_end(until.as_deref(), now)?);
    if until_millis.is_some_and(|until| until > now) {
        return Err(usage(format!("--until {:?} is in the future; use tail", until.unwrap_or_default())));
    }
    read(arguments, stream, start, until_millis.and_then(time_of), true).await
}

fn parse_start(text: &str, now_millis: u64) -> Result<Start, CommandError> {
    Start::parse(text, now_millis).map_err(|fault| usage(format!("--from {fault}")))
}

fn parse_end(text: Option<&str>, now_millis: u64) -> Result<Option<u64>, CommandError> {
    let end = text.map(|text| parse_instant(text, now_millis)).transpose();
    end.map_err(|fault| usage(format!("--until {fault}")))
}

async fn read(
    arguments: ReadArguments,
    stream: KinesisStream,
    start: Start,
    until: Option<SystemTime>,
    ends_at_tip: bool,
) -> Result<(), CommandError> {
    let is_position = matches!(start, Start::Record(_) | Start::After(_));
    if is_position && arguments.shards.len() != 1 {
        return Err(usage("a position is one of a single shard; add --shard with its id"));
    }
    let stream = stream.with_read_share_percent(arguments.read_share);
    let filter = if start == Start::Tip { ShardFilter::Open } else { ShardFilter::All };
    let listed = stream.list_shards(&filter).await.map_err(stream_error)?;
    let asked: BTreeSet<&str> = arguments.shards.iter().map(String::as_str).collect();
    if let Some(missing) = asked.iter().find(|id| !listed.iter().any(|shard| shard.shard_id.as_str() == **id))
    {
        let message = format!("the stream {:?} does not list the shard {missing:?}", arguments.stream);
        return Err(CommandError::new(CommandErrorKind::NotFound, message));
    }
    let roots: Vec<_> = listed
        .iter()
        .filter(|shard| {
            if asked.is_empty() {
                start != Start::Tip || !shard.is_closed
            } else {
                asked.contains(shard.shard_id.as_str())
            }
        })
        .cloned()
        .collect();
    let first: BTreeSet<ShardId> = roots.iter().map(|shard| shard.shard_id.clone()).collect();
    // Shards that were asked for by name are read alone.
    let follows_children = asked.is_empty();
    let mut order = ReadOrder::default();
    let mut reading = Reading {
        stream,
        bounds: Bounds {
            keys: arguments.keys.into_iter().collect(),
            ends_at_tip,
            until,
            until_record: None,
            unpacks: true,
            start: start.clone(),
        },
        closed: listed.iter().filter(|shard| shard.is_closed).map(|shard| shard.shard_id.clone()).collect(),
        permits: Arc::new(Semaphore::new(MAX_READS_AT_ONCE)),
        tasks: JoinSet::new(),
    };
    let (happened, mut happenings) = mpsc::channel(MAX_WAITING_BATCHES);
    for shard_id in order.add(&roots) {
        reading.start(shard_id, start.of_roots(), &happened);
    }
    let mut left = arguments.max_records.unwrap_or(u64::MAX);
    while left > 0 && !order.is_over() {
        let Some(happening) = happenings.recv().await else { break };
        match happening {
            Happening::Records { shard_id, records } => {
                let mut text = Vec::new();
                for record in records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                    arguments.format.write(&shard_id, record, &mut text);
                }
                left = left.saturating_sub(records.len() as u64);
                print(&text)?;
            }
            Happening::Ended { shard_id, children, .. } => {
                let mut startable = order.end(&shard_id);
                if follows_children {
                    startable.extend(order.add(&children));
                }
                for child in startable {
                    let from = if first.contains(&child) { start.of_roots() } else { start.of_children() };
                    reading.start(child, from, &happened);
                }
            }
            Happening::Delayed { shard_id, error } => {
                eprintln!("kinesis-streaming: {shard_id}: {error}; trying again");
            }
            Happening::Failed(error) => return Err(stream_error(error)),
        }
    }
    Ok(())
}

/// The readers of a stream. They end when this is dropped.
struct Reading {
    stream: KinesisStream,
    bounds: Bounds,
    /// The shards that the stream lists as closed.
    closed: BTreeSet<ShardId>,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Reading {
    fn start(&mut self, shard_id: ShardId, from: ReadFrom, happened: &mpsc::Sender<Happening>) {
        let reader = ShardReader {
            stream: self.stream.clone(),
            is_closed: self.closed.contains(&shard_id),
            shard_id,
            bounds: self.bounds.clone(),
            permits: self.permits.clone(),
            happened: happened.clone(),
        };
        self.tasks.spawn(reader.run(from));
    }
}
