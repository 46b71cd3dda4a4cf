//! The reading side of a shard: serves blocks in order, and backfills gaps from the stream.

use std::sync::Arc;

use async_trait::async_trait;
use lease_store::Position;
use shard_worker::{FetchedBatch, Record, RecordSource, ShardEnd, SourceError, SourceErrorKind};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_util::sync::DropGuard;

use crate::backfill::{Backfill, BackfillStep};
use crate::block::{Block, BlockError, Content};
use crate::block_edge::Edge;
use crate::block_name::BlockName;
use crate::block_queue::{Gap, Next};
use crate::block_stores::Fetched;
use crate::capacity::StoreReservation;
use crate::shard_buffer::{InMemory, READ_TIME_LIMIT, ShardBuffer, State};
use crate::unshared::Unshared as _;

/// How long a read waits for records before it returns an empty batch, so that the lag stays current.
const IDLE_ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// Upper bound of the memory of a record in addition to its bytes in a stored block.
const RECORD_BYTES: u64 = size_of::<Record>() as u64 + 96;

/// Reads one shard through the buffer.
#[derive(Debug)]
pub(crate) struct BufferedReader {
    shard: Arc<ShardBuffer>,
    /// The backfill of a gap in progress, and its reader of the stream once that is open.
    backfill: Option<(Backfill, Option<Box<dyn RecordSource>>)>,
    /// The announcement for the next batch, made by `ready`.
    announced: Option<Announced>,
    /// Stops the writer when the reader is dropped.
    _closing: DropGuard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    /// The next batch is empty. Records received since then wait for the batch after it, which reserves memory for them.
    Nothing,
    /// The next batch takes at most this many bytes.
    Bytes(u64),
}

/// The result of reading a stored block.
enum Loaded {
    Block {
        block: Block,
        is_local: bool,
    },
    /// No store has an intact copy. `has_unreachable_copy`: a store that should have one did not answer.
    Unreadable {
        has_unreachable_copy: bool,
    },
}

#[async_trait]
impl RecordSource for BufferedReader {
    async fn ready(&mut self) -> u64 {
        if self.announced.is_none() {
            let announced = match &mut self.backfill {
                Some((_, Some(reader))) => Announced::Bytes(reader.ready().await),
                Some((_, None)) => Announced::Bytes(0),
                None => wait_for_answer(&self.shard).await,
            };
            self.announced = Some(announced);
        }
        match self.announced {
            Some(Announced::Bytes(bytes)) => bytes,
            _ => 0,
        }
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        self.ready().await;
        let answer = match self.announced {
            Some(Announced::Nothing) => self.idle_batch(),
            _ if self.backfill.is_some() => self.backfill_step().await,
            _ => self.next_block().await,
        };
        self.announced = None;
        answer
    }

    fn checkpointed(&mut self, position: &Position) {
        self.shard.change(|state| state.queue.checkpointed(position, StoreReservation::release_overflow));
    }
}

impl BufferedReader {
    pub(crate) fn new(shard: Arc<ShardBuffer>, closing: DropGuard) -> Self {
        Self { shard, backfill: None, announced: None, _closing: closing }
    }

    /// An empty batch with the lag of the stream; or the error that receiving is halted by.
    fn idle_batch(&self) -> Result<FetchedBatch, SourceError> {
        let state = self.shard.state();
        match &state.halted {
            Some((kind, message)) => Err(SourceError::new(*kind, message.clone())),
            None => Ok(FetchedBatch::new(Vec::new(), state.lag)),
        }
    }

    /// An empty batch between two steps: it reports not even a lag.
    fn intermediate_batch() -> FetchedBatch {
        FetchedBatch::new(Vec::new(), None)
    }

    /// One step with the next block. It waits only for the read of a stored block.
    async fn next_block(&mut self) -> Result<FetchedBatch, SourceError> {
        let next = self.shard.state().queue.next();
        match next {
            Next::Wait => {
                let unreported = self.shard.change(|state| state.unreported.take());
                unreported.map_or_else(|| self.idle_batch(), Err)
            }
            Next::Load(name) => self.load(&name).await,
            Next::Backfill(gap) => {
                tracing::warn!(
                    from = %gap.from, until = ?gap.until,
                    "blocks of the storage buffer are missing, reading their range again from the stream"
                );
                self.start_backfill(gap, false);
                Ok(Self::intermediate_batch())
            }
            Next::Serve => {
                self.shard.counts.add(|usage| usage.from_memory += 1);
                Ok(self.serve())
            }
            Next::End => Ok(self.end()),
        }
    }

    fn serve(&self) -> FetchedBatch {
        let served = self.shard.change(|state| {
            state.is_reader_waiting = false;
            let lag_at = |last: &Record| {
                let behind =
                    state.newest_arrival?.duration_since(last.approximate_arrival?).unwrap_or_default();
                u64::try_from(behind.as_millis()).ok()
            };
            let last_of = |memory: &InMemory| match &memory.content {
                Content::Records(records) => records.last().and_then(lag_at),
                Content::End(_) => None,
            };
            let lag = state.queue.front_memory().and_then(last_of);
            state.queue.serve().map(|served| (served, lag))
        });
        let Some(((memory, before), lag)) = served else { return Self::intermediate_batch() };
        let Content::Records(mut records) = memory.content else { return Self::intermediate_batch() };
        records.retain(|record| !before.is_past(&record.sequence_number));
        // The lag behind the newest known record: the shard has grown since the block was received.
        let millis_behind_latest = lag.max(memory.millis_behind_latest);
        FetchedBatch::new(records, millis_behind_latest)
    }

    fn end(&self) -> FetchedBatch {
        let state = self.shard.state();
        let children = match state.queue.front_memory().map(|memory| &memory.content) {
            Some(Content::End(children)) => children.clone(),
            _ => Vec::new(),
        };
        FetchedBatch::new(Vec::new(), Some(0)).with_end(Some(ShardEnd::new(children)))
    }

    async fn load(&mut self, name: &BlockName) -> Result<FetchedBatch, SourceError> {
        match fetch(&self.shard, name).await? {
            Loaded::Block { block, is_local } => {
                let memory = InMemory {
                    content: block.content,
                    millis_behind_latest: block.millis_behind_latest,
                    _memory: None,
                    _overflow: None,
                };
                let next = self.shard.change(|state| {
                    if *state.queue.served() == Edge::Latest && block.follows != Edge::Latest {
                        tracing::warn!(
                            %name,
                            "blocks before this one are missing; they cannot be read again, since reading began at LATEST"
                        );
                    }
                    state.queue.loaded(block.follows, memory);
                    let next = state.queue.next();
                    if matches!(next, Next::Backfill(_)) {
                        state.queue.unload();
                    }
                    next
                });
                Ok(match next {
                    Next::Serve => {
                        self.shard.counts.add(|usage| {
                            usage.from_local += u64::from(is_local);
                            usage.from_replica += u64::from(!is_local);
                        });
                        self.serve()
                    }
                    Next::End => self.end(),
                    _ => Self::intermediate_batch(),
                })
            }
            Loaded::Unreadable { has_unreachable_copy } => {
                match self.shard.change(|state| state.queue.unreadable()) {
                    Some(gap) => self.start_backfill(gap, has_unreachable_copy),
                    None => tracing::warn!(
                        "cannot read the stored end of the shard, receiving it again from the stream"
                    ),
                }
                Ok(Self::intermediate_batch())
            }
        }
    }

    fn start_backfill(&mut self, gap: Gap, has_unreachable_copy: bool) {
        self.backfill = Some((Backfill::new(gap, has_unreachable_copy), None));
    }

    /// One read of the stream for the gap that is being backfilled.
    async fn backfill_step(&mut self) -> Result<FetchedBatch, SourceError> {
        let Some((backfill, reader)) = &mut self.backfill else { return Ok(Self::intermediate_batch()) };
        let shard = self.shard.clone();
        let read = match reader {
            None => {
                let from = backfill.gap.from.read_from();
                let opened = timeout(READ_TIME_LIMIT, shard.source.open(&shard.shard_id, &from)).await;
                match opened.unwrap_or_else(|_| Err(shard.too_slow("opening"))) {
                    Ok(opened) => {
                        *reader = Some(opened);
                        return Ok(Self::intermediate_batch());
                    }
                    Err(error) => Err(error),
                }
            }
            Some(reader) => {
                let read = timeout(READ_TIME_LIMIT, reader.next_batch()).await;
                read.unwrap_or_else(|_| Err(shard.too_slow("reading")))
            }
        };
        let (records, lag, is_end) = match read {
            Ok(read) => (read.records, read.millis_behind_latest, read.shard_end.is_some()),
            // The stream no longer has the shard. The stored blocks after the gap can still be served.
            Err(error) if error.kind() == SourceErrorKind::ShardNotFound => (Vec::new(), None, true),
            Err(error) => return Err(error),
        };
        let served = shard.state().queue.served().clone();
        let (records, is_over) = match backfill.accept(&served, records, lag, is_end) {
            BackfillStep::More(records) => (records, false),
            BackfillStep::Last(records) => (records, true),
            BackfillStep::WaitForCopy => {
                let message = format!(
                    "a store of the storage buffer does not answer, and the stream no longer has all records of its \
                     block{}; repair the store: the shard waits for it and skips nothing",
                    backfill
                        .gap
                        .lost
                        .as_ref()
                        .map_or_else(String::new, |range| format!(", {} to {}", range.first, range.last))
                );
                self.backfill = None;
                return Err(SourceError::new(SourceErrorKind::Unavailable, message));
            }
        };
        let last = records.last().map(|last| last.sequence_number.unshared());
        let finished = self.backfill.take_if(|_| is_over).map(|(backfill, _)| backfill);
        shard.change(|state| {
            if let Some(last) = last {
                state.queue.served_to(last);
            }
            if let Some(backfill) = &finished {
                state.queue.close_gap(&backfill.gap);
            }
        });
        if let Some(backfill) = finished {
            self.report_backfill(&backfill);
        }
        Ok(FetchedBatch::new(records, lag))
    }

    fn report_backfill(&self, backfill: &Backfill) {
        let is_loss = backfill.is_loss();
        self.shard.counts.add(|usage| {
            usage.from_stream += 1;
            usage.losses += u64::from(is_loss);
        });
        let gap = &backfill.gap;
        if is_loss {
            let expected = gap.lost.as_ref().map(|range| range.records);
            let first = gap.lost.as_ref().map(|range| &range.first);
            tracing::error!(
                shard_id = %self.shard.shard_id, from = %gap.from, until = ?gap.until, ?first, expected,
                found = backfill.found(),
                "received records are lost: no store has their block, and the stream's retention period is over"
            );
        } else {
            tracing::info!(
                from = %gap.from, until = ?gap.until, found = backfill.found(), "backfilled a gap from the stream"
            );
        }
    }
}

/// Waits until there is something to return, at most for the idle interval, and announces its size.
async fn wait_for_answer(shard: &ShardBuffer) -> Announced {
    let deadline = Instant::now() + IDLE_ANSWER_INTERVAL;
    shard.change(|state| state.is_reader_waiting = true);
    if timeout_at(deadline, shard.wait_until(State::has_answer)).await.is_err() {
        return Announced::Nothing;
    }
    let mut state = shard.state();
    let bytes = match state.queue.next() {
        Next::Serve => state.queue.front_memory().map_or(0, InMemory::memory_bytes),
        Next::Load(BlockName::Records(range)) => {
            let stored = state
                .queue
                .front_copies()
                .map_or(0, |copies| copies.local.max(copies.replica).unwrap_or_default());
            stored + RECORD_BYTES * u64::from(range.records)
        }
        Next::Load(BlockName::End) | Next::Backfill(_) | Next::End | Next::Wait => 0,
    };
    Announced::Bytes(bytes)
}

/// Reads a stored block from the first store that has an intact copy.
async fn fetch(shard: &ShardBuffer, name: &BlockName) -> Result<Loaded, SourceError> {
    let Some(folder) = &shard.folder else {
        return Ok(Loaded::Unreadable { has_unreachable_copy: false });
    };
    let [local, replica] = {
        let state = shard.state();
        state.queue.front_copies().map_or([None, None], |copies| [copies.local, copies.replica])
    };
    let path = folder.block_path(name);
    let mut has_unreachable_copy = false;
    let stores = &shard.stores;
    for (store, size, is_local) in [(&stores.local, local, true), (&stores.replica, replica, false)] {
        let (Some(store), Some(size)) = (store, size) else { continue };
        let reason = match store.get(&path, size).await {
            Ok(Fetched::Bytes(bytes)) => match check(shard, name, &bytes)? {
                Ok(block) => {
                    return Ok(Loaded::Block { block, is_local });
                }
                Err(damage) => damage,
            },
            Ok(Fetched::Missing(reason)) => reason.to_owned(),
            Err(error) => {
                shard.counts.add(|usage| usage.store_failures += 1);
                has_unreachable_copy = true;
                error.to_string()
            }
        };
        tracing::warn!(
            %path, reason, store = if is_local { "local" } else { "replica" },
            "cannot use a stored copy of a block, trying the next source"
        );
    }
    Ok(Loaded::Unreadable { has_unreachable_copy })
}

/// Decodes a stored block. The inner error describes damage. The outer error refuses a block of another owner or format:
/// the folder is in use by something else, and the user must decide.
fn check(
    shard: &ShardBuffer,
    name: &BlockName,
    bytes: &bytes::Bytes,
) -> Result<Result<Block, String>, SourceError> {
    let Some(folder) = &shard.folder else { return Ok(Err("the buffer has no store".to_owned())) };
    let path = folder.block_path(name);
    match Block::decode(bytes) {
        Ok(block) if block.owner != folder.owner => Err(refused(&format!(
            "{path} holds a block of application {:?}, stream {}, shard {}",
            block.owner.application, block.owner.identity, block.owner.shard_id
        ))),
        Ok(block) if block.name().as_ref() != Some(name) => {
            Ok(Err("the block holds other records than its name states".to_owned()))
        }
        Ok(block) => Ok(Ok(block)),
        Err(BlockError::OtherVersion(version)) => {
            Err(refused(&format!("{path} is a block of format {version}, which this version cannot read")))
        }
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// The error for blocks that this buffer must not touch.
pub(crate) fn refused(reason: &str) -> SourceError {
    let message = format!(
        "{reason}; nothing was read or deleted. Move these blocks away, delete them if they are not needed, or give the \
         storage buffer another store"
    );
    SourceError::new(SourceErrorKind::Invalid, message)
}
