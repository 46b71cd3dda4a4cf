//! Reads the shards of a replay one after another, parents before their children, so that one position tells what is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use kinesis_asl::KinesisStream;
use lease_store::{RecordPosition, ShardId};
use shard_worker::{ReadFrom, Shard, ShardFilter, SourceErrorKind, StreamSource as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::arguments::ShardsArguments;
use super::item::{Decoder, Item};
use super::range::{End, Kept, Range, record};
use super::{Delivery, Ending};
use crate::exit_code::{CommandError, CommandErrorKind, stream_error};
use crate::read::lineage::ReadOrder;
use crate::read::shard_reader::{Bounds, Happening, ShardReader};
use crate::read::start::Start;
use crate::wall_clock::{millis_of, now_millis, time_of};

/// The batches that wait for the destination. The reader waits when there are more. An answer has at most 10 MB.
const MAX_WAITING_BATCHES: usize = 2;

/// How often a shard is read to find the record at which a replay starts. A range without records is passed by further reads.
const MAX_START_READS: u32 = 100;

/// Replays the range of each shard.
pub(super) async fn replay(
    stream: &KinesisStream,
    arguments: &ShardsArguments,
    range: &Range,
    decoder: &Decoder,
    delivery: &mut Delivery,
) -> Result<Ending, CommandError> {
    let stream = stream.clone().with_read_share_percent(arguments.read_share.max(1));
    let kept = kept(&stream).await?;
    let listed = stream.list_shards(&ShardFilter::All).await.map_err(stream_error)?;
    let roots = chosen(&listed, &arguments.shards, stream.stream_name())?;
    if !arguments.even_with_gap {
        if let Some(kept) = kept {
            kept.check(&range.start, |number| stream.arrived_at(number))?;
        }
        if let (Start::Record(record), [shard]) = (&range.start, roots.as_slice()) {
            check_start(&stream, &shard.shard_id, record).await?;
        }
    }
    let now = kept.and_then(Kept::end).or_else(|| time_of(now_millis()));
    let bounds = Bounds {
        keys: arguments.keys.iter().cloned().collect(),
        ends_at_tip: true,
        until: match &range.end {
            None => now,
            Some(End::Before(time)) => Some(*time),
            Some(End::At(_)) => None,
        },
        until_record: match &range.end {
            Some(End::At(record)) => Some(record.clone()),
            _ => None,
        },
        unpacks: decoder.unpacks(),
        start: range.start.clone(),
    };
    let mut replay = Replay { stream, bounds, decoder, delivery };
    let mut order = ReadOrder::default();
    let mut waiting: VecDeque<ShardId> = order.add(&roots).into();
    let closed: BTreeMap<&ShardId, &Shard> =
        listed.iter().filter(|shard| shard.is_closed).map(|shard| (&shard.shard_id, shard)).collect();
    let mut left: BTreeSet<&ShardId> = roots.iter().map(|shard| &shard.shard_id).collect();
    while let Some(shard_id) = waiting.pop_front() {
        left.remove(&shard_id);
        replay.delivery.progress.set_rest(left.iter().map(ToString::to_string).collect());
        let is_closed = closed.contains_key(&shard_id);
        if replay.shard(&shard_id, is_closed).await? == Ending::Enough {
            return Ok(Ending::Enough);
        }
        if is_closed && !arguments.shards.is_empty() {
            name_children(&shard_id, &listed, &roots);
        }
        waiting.extend(order.end(&shard_id));
    }
    Ok(Ending::Complete)
}

/// A replay under way.
struct Replay<'a> {
    stream: KinesisStream,
    bounds: Bounds,
    decoder: &'a Decoder,
    delivery: &'a mut Delivery,
}

impl Replay<'_> {
    /// Replays one shard, from where an earlier run ended.
    async fn shard(&mut self, shard_id: &ShardId, is_closed: bool) -> Result<Ending, CommandError> {
        let place = shard_id.as_str();
        if self.delivery.progress.is_ended(place) {
            return Ok(Ending::Complete);
        }
        let mut bounds = self.bounds.clone();
        if let Some(done) = self.delivery.progress.position(place) {
            let fault = |fault: String| {
                CommandError::new(CommandErrorKind::Invalid, format!("the progress: {fault}"))
            };
            bounds.start = Start::After(record(done).map_err(fault)?);
        }
        let end = bounds.until_record.clone();
        let (happened, mut happenings) = mpsc::channel(MAX_WAITING_BATCHES);
        let from = bounds.start.of_roots();
        let reader = ShardReader {
            stream: self.stream.clone(),
            shard_id: shard_id.clone(),
            is_closed,
            bounds,
            permits: Arc::new(Semaphore::new(1)),
            happened,
        };
        // The reader ends with this function.
        let mut reading = JoinSet::new();
        reading.spawn(reader.run(from));
        let stopped = async {
            if kinesis_streaming::shutdown_signal().await.is_err() {
                // No handler: the signals end the process by themselves.
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(stopped);
        let mut last = None;
        loop {
            let happening = tokio::select! {
                biased;
                () = &mut stopped => {
                    return Err(CommandError::new(CommandErrorKind::Unavailable, "the replay was stopped"));
                }
                happening = happenings.recv() => happening,
            };
            match happening {
                Some(Happening::Records { records, .. }) => {
                    last = records.last().map(|record| RecordPosition {
                        sequence_number: record.sequence_number.clone(),
                        sub_sequence_number: record.sub_sequence_number,
                    });
                    let items = self.items(shard_id, &records)?;
                    if self.delivery.deliver(place, &items).await? == Ending::Enough {
                        return Ok(Ending::Enough);
                    }
                }
                Some(Happening::Ended { is_at_bound, .. }) => {
                    if let Some(end) = end.filter(|end| !is_at_bound && last.as_ref() != Some(end)) {
                        let message = format!(
                            "the shard {shard_id} ends before the record at {}; correct --until, or name a child of the shard",
                            text_of(&end)
                        );
                        return Err(CommandError::new(CommandErrorKind::BadAnswer, message));
                    }
                    // An open shard may have more records for a later run.
                    if is_closed && !is_at_bound {
                        let confirms = self.delivery.destination.confirms_batches();
                        self.delivery.progress.note_end(place, confirms)?;
                    }
                    return Ok(Ending::Complete);
                }
                Some(Happening::Delayed { error, .. }) => {
                    eprintln!("kinesis-streaming: {shard_id}: {error}; trying again");
                }
                Some(Happening::Failed(error)) => return Err(stream_error(error)),
                None => {
                    let message = format!("the reader of {shard_id} has ended; run the command again");
                    return Err(CommandError::new(CommandErrorKind::Unavailable, message));
                }
            }
        }
    }

    /// The items of records.
    fn items(
        &mut self,
        shard_id: &ShardId,
        records: &[shard_worker::Record],
    ) -> Result<Vec<Item>, CommandError> {
        let mut items = Vec::with_capacity(records.len());
        for record in records {
            match self.decoder.decode(shard_id, record) {
                Ok(item) => items.push(item),
                Err(why) if *self.decoder == (Decoder::Letters { skips_malformed: true }) => {
                    self.delivery.progress.skip(shard_id.as_str(), &record.position().to_string(), &why);
                }
                Err(why) => {
                    let message = format!(
                        "the record at {} of {shard_id}: {why}; leave such records out with --skip-malformed",
                        record.position()
                    );
                    return Err(CommandError::new(CommandErrorKind::Invalid, message));
                }
            }
        }
        Ok(items)
    }
}

fn text_of(record: &RecordPosition) -> String {
    lease_store::Position::After(record.clone()).to_string()
}

/// What the stream keeps; `None`: it does not tell.
async fn kept(stream: &KinesisStream) -> Result<Option<Kept>, CommandError> {
    match stream.describe().await {
        Ok(description) => Ok(description.retention.map(|retention| Kept {
            now_millis: description.now.map_or_else(now_millis, millis_of),
            retention_millis: u64::try_from(retention.as_millis()).unwrap_or(u64::MAX),
        })),
        Err(error) if error.kind() == SourceErrorKind::Denied => {
            eprintln!(
                "kinesis-streaming: not known how long records are kept; allow kinesis:DescribeStreamSummary ({error})"
            );
            Ok(None)
        }
        Err(error) => Err(stream_error(error)),
    }
}

/// The shards to read.
fn chosen(listed: &[Shard], asked: &[String], stream: &str) -> Result<Vec<Shard>, CommandError> {
    let asked: BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    if let Some(missing) = asked.iter().find(|id| !listed.iter().any(|shard| shard.shard_id.as_str() == **id))
    {
        let message =
            format!("the stream {stream:?} does not list the shard {missing:?}; its records are gone");
        return Err(CommandError::new(CommandErrorKind::NotFound, message));
    }
    let is_chosen = |shard: &&Shard| asked.is_empty() || asked.contains(shard.shard_id.as_str());
    Ok(listed.iter().filter(is_chosen).cloned().collect())
}

/// Refuses a start at a record that the shard no longer has: the records in between may be gone, too.
async fn check_start(
    stream: &KinesisStream,
    shard_id: &ShardId,
    start: &RecordPosition,
) -> Result<(), CommandError> {
    let missing = |found: &str| {
        CommandError::new(
            CommandErrorKind::BadAnswer,
            format!(
                "{shard_id} has no record at {}: {found}; correct --from, or add --even-with-gap to start behind it",
                text_of(start)
            ),
        )
    };
    let from = ReadFrom::At(start.sequence_number.clone());
    let mut source = stream.open(shard_id, &from).await.map_err(stream_error)?;
    for _ in 0..MAX_START_READS {
        source.ready().await;
        let batch = source.next_batch().await.map_err(stream_error)?;
        if let Some(first) = batch.records.first() {
            if first.sequence_number == start.sequence_number {
                return Ok(());
            }
            return Err(missing(&format!("the next one is at {}", first.position())));
        }
        if batch.shard_end.is_some() || batch.millis_behind_latest == Some(0) {
            return Err(missing("there is none behind it either"));
        }
    }
    Err(missing("none was found behind it"))
}

/// Says where the records after the end of a shard are, unless they are replayed too.
fn name_children(shard_id: &ShardId, listed: &[Shard], roots: &[Shard]) {
    let is_root = |shard: &Shard| roots.iter().any(|root| root.shard_id == shard.shard_id);
    let children: Vec<&str> = listed
        .iter()
        .filter(|shard| shard.parents.contains(shard_id) && !is_root(shard))
        .map(|shard| shard.shard_id.as_str())
        .collect();
    if !children.is_empty() {
        eprintln!(
            "kinesis-streaming: {shard_id} was resharded; later records are in {}",
            children.join(", ")
        );
    }
}
