//! The serving side of a shard: hands blocks over in order, and closes gaps from the stream.

use std::sync::Arc;

use async_trait::async_trait;
use lease_store::{Position, SequenceNumber};
use shard_worker::{FetchedBatch, Record, RecordSource, ShardEnd, SourceError, SourceErrorKind};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_util::sync::DropGuard;

use super::block::{BlockError, Content, HandOffBlock, Unshared as _};
use super::edge::Edge;
use super::healing::{Healing, Taken};
use super::ledger::{Gap, Next};
use super::name::BlockName;
use super::receiving::too_slow;
use super::shard::{InMemory, InMemoryContent, OpenShard, READ_TIME_LIMIT, State};
use super::stores::Fetched;

/// Whoever waits for records gets an answer at least this often, so that the lag stays current.
const IDLE_ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// What a record takes in memory beside what it takes in a stored block, in bytes; a little more than that.
const RECORD_BYTES: u64 = size_of::<Record>() as u64 + 96;

/// Reads one shard through the buffer.
#[derive(Debug)]
pub(super) struct BufferedReader {
    pub(super) shard: Arc<OpenShard>,
    /// A gap that is being closed, and the reader of the stream once it is open.
    pub(super) healing: Option<(Healing, Option<Box<dyn RecordSource>>)>,
    /// What the next answer was said to be.
    pub(super) announced: Option<Announced>,
    /// Ends the receiving side when this is dropped.
    pub(super) _closing: DropGuard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    /// There is nothing. What came since then is for the next answer, for which memory is set aside.
    Nothing,
    /// So many bytes.
    Bytes(u64),
}

/// What reading a stored block gave.
enum Loaded {
    /// And whether it came from the first place.
    Block(HandOffBlock, bool),
    /// No place has it. `may_come_back`: one of them did not answer.
    Nowhere { may_come_back: bool },
}

#[async_trait]
impl RecordSource for BufferedReader {
    async fn ready(&mut self) -> u64 {
        if self.announced.is_none() {
            let announced = match &mut self.healing {
                Some((_, Some(reader))) => Announced::Bytes(reader.ready().await),
                Some((_, None)) => Announced::Bytes(0),
                None => wait_for_news(&self.shard).await,
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
            Some(Announced::Nothing) => self.empty(),
            _ if self.healing.is_some() => self.heal().await,
            _ => self.next_block().await,
        };
        self.announced = None;
        answer
    }

    fn checkpointed(&mut self, position: &Position) {
        self.shard.change(|state| state.ledger.checkpointed(position, super::room::Hold::release_spare));
    }
}

impl BufferedReader {
    /// There is nothing; and if nothing is being received, why.
    fn empty(&self) -> Result<FetchedBatch, SourceError> {
        let state = self.shard.state();
        match &state.standstill {
            Some((kind, message)) => Err(SourceError::new(*kind, message.clone())),
            None => {
                Ok(FetchedBatch { records: Vec::new(), millis_behind_latest: state.lag, shard_end: None })
            }
        }
    }

    /// One step with what comes next. Without a wait but for the reading of a stored block.
    async fn next_block(&mut self) -> Result<FetchedBatch, SourceError> {
        let next = self.shard.state().ledger.next();
        match next {
            Next::Wait => {
                let trouble = self.shard.change(|state| state.trouble.take());
                trouble.map_or_else(|| self.empty(), Err)
            }
            Next::Load(name) => self.load(&name).await,
            Next::Heal(gap) => {
                tracing::warn!(
                    from = %gap.from, until = ?gap.until,
                    "blocks of the hand-off buffer are missing; their range is read again from the stream"
                );
                self.start_healing(gap, false);
                Ok(Self::nothing_yet())
            }
            Next::Serve => {
                self.shard.counts.add(|usage| usage.from_memory += 1);
                Ok(self.serve())
            }
            Next::End => Ok(self.end()),
        }
    }

    /// An answer that says nothing, not even about the lag.
    fn nothing_yet() -> FetchedBatch {
        FetchedBatch { records: Vec::new(), millis_behind_latest: None, shard_end: None }
    }

    fn serve(&self) -> FetchedBatch {
        let served = self.shard.change(|state| {
            state.is_asking = false;
            let lag_at = |last: &Record| {
                let behind = state.tip?.duration_since(last.approximate_arrival?).unwrap_or_default();
                u64::try_from(behind.as_millis()).ok()
            };
            let last_of = |memory: &InMemory| match &memory.content {
                InMemoryContent::Records(records) => records.last().and_then(lag_at),
                InMemoryContent::End(_) => None,
            };
            let lag = state.ledger.front_memory().and_then(last_of);
            state.ledger.serve().map(|served| (served, lag))
        });
        let Some(((memory, before), lag)) = served else { return Self::nothing_yet() };
        let InMemoryContent::Records(mut records) = memory.content else { return Self::nothing_yet() };
        records.retain(|record| !before.is_past(&record.sequence_number));
        // How far behind the tip, as far as that is known by now; it has moved since the block was received.
        let millis_behind_latest = lag.max(memory.millis_behind_latest);
        FetchedBatch { records, millis_behind_latest, shard_end: None }
    }

    fn end(&self) -> FetchedBatch {
        let state = self.shard.state();
        let children = match state.ledger.front_memory().map(|memory| &memory.content) {
            Some(InMemoryContent::End(children)) => children.clone(),
            _ => Vec::new(),
        };
        FetchedBatch {
            records: Vec::new(),
            millis_behind_latest: Some(0),
            shard_end: Some(ShardEnd { children }),
        }
    }

    async fn load(&mut self, name: &BlockName) -> Result<FetchedBatch, SourceError> {
        match fetch(&self.shard, name).await? {
            Loaded::Block(block, is_local) => {
                let memory = InMemory {
                    content: match block.content {
                        Content::Records(records) => InMemoryContent::Records(records),
                        Content::End(children) => InMemoryContent::End(children),
                    },
                    millis_behind_latest: block.millis_behind_latest,
                    _memory: None,
                    _spare: None,
                };
                let next = self.shard.change(|state| {
                    if *state.ledger.served() == Edge::Latest && block.follows != Edge::Latest {
                        tracing::warn!(%name, "blocks before this one are gone; at LATEST they cannot be read again");
                    }
                    state.ledger.loaded(block.follows, memory);
                    let next = state.ledger.next();
                    if matches!(next, Next::Heal(_)) {
                        state.ledger.unload();
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
                    _ => Self::nothing_yet(),
                })
            }
            Loaded::Nowhere { may_come_back } => {
                match self.shard.change(|state| state.ledger.unreadable()) {
                    Some(gap) => self.start_healing(gap, may_come_back),
                    None => tracing::warn!(
                        "the stored end of the shard cannot be read; the stream tells it again"
                    ),
                }
                Ok(Self::nothing_yet())
            }
        }
    }

    fn start_healing(&mut self, gap: Gap, may_come_back: bool) {
        self.healing = Some((Healing::new(gap, may_come_back), None));
    }

    /// One read of the stream for the gap that is being closed.
    async fn heal(&mut self) -> Result<FetchedBatch, SourceError> {
        let Some((healing, reader)) = &mut self.healing else { return Ok(Self::nothing_yet()) };
        let shard = self.shard.clone();
        let read = match reader {
            None => {
                let from = healing.gap.from.read_from();
                let opened = timeout(READ_TIME_LIMIT, shard.source.open(&shard.shard_id, &from)).await;
                match opened.unwrap_or_else(|_| Err(too_slow("opening", &shard))) {
                    Ok(opened) => {
                        *reader = Some(opened);
                        return Ok(Self::nothing_yet());
                    }
                    Err(error) => Err(error),
                }
            }
            Some(reader) => {
                let read = timeout(READ_TIME_LIMIT, reader.next_batch()).await;
                read.unwrap_or_else(|_| Err(too_slow("reading", &shard)))
            }
        };
        let (records, lag, is_end) = match read {
            Ok(read) => (read.records, read.millis_behind_latest, read.shard_end.is_some()),
            // The stream has nothing of it any more; that says nothing about the stored blocks after it.
            Err(error) if error.kind() == SourceErrorKind::ShardNotFound => (Vec::new(), None, true),
            Err(error) => return Err(error),
        };
        let served = shard.state().ledger.served().clone();
        let (records, is_over) = match healing.take(&served, records, lag, is_end) {
            Taken::More(records) => (records, false),
            Taken::Last(records) => (records, true),
            Taken::Wait => {
                let message = format!(
                    "a place of the hand-off buffer does not answer, and the stream no longer has what is in it{}; mend \
                     the place, and it goes on: nothing is skipped meanwhile",
                    healing
                        .gap
                        .lost
                        .as_ref()
                        .map_or_else(String::new, |range| format!(", {} to {}", range.first, range.last))
                );
                self.healing = None;
                return Err(SourceError::new(SourceErrorKind::Unavailable, message));
            }
        };
        let last = records.last().map(|last| last.sequence_number.unshared());
        let healed = self.healing.take_if(|_| is_over).map(|(healing, _)| healing);
        shard.change(|state| {
            if let Some(last) = last {
                state.ledger.served_to(last);
            }
            if let Some(healing) = &healed {
                state.ledger.healed(&healing.gap);
            }
        });
        if let Some(healing) = healed {
            self.note_healed(&healing);
        }
        Ok(FetchedBatch { records, millis_behind_latest: lag, shard_end: None })
    }

    fn note_healed(&self, healing: &Healing) {
        let is_loss = healing.is_loss();
        self.shard.counts.add(|usage| {
            usage.from_stream += 1;
            usage.losses += u64::from(is_loss);
        });
        let gap = &healing.gap;
        if is_loss {
            let had = gap.lost.as_ref().map(|range| range.records);
            let first: Option<&SequenceNumber> = gap.lost.as_ref().map(|range| &range.first);
            tracing::error!(
                shard_id = %self.shard.shard_id, from = %gap.from, until = ?gap.until, ?first, had, found = healing.found(),
                "records that were received are lost: no place has their block any more, and they are past the retention \
                 period of the stream"
            );
        } else {
            tracing::info!(from = %gap.from, until = ?gap.until, found = healing.found(), "read again from the stream");
        }
    }
}

async fn wait_for_news(shard: &OpenShard) -> Announced {
    let deadline = Instant::now() + IDLE_ANSWER_INTERVAL;
    shard.change(|state| state.is_asking = true);
    if timeout_at(deadline, shard.wait_until(State::has_news)).await.is_err() {
        return Announced::Nothing;
    }
    let mut state = shard.state();
    let bytes = match state.ledger.next() {
        Next::Serve => state.ledger.front_memory().map_or(0, InMemory::memory_bytes),
        Next::Load(BlockName::Records(range)) => {
            let stored =
                state.ledger.front_kept().map_or(0, |kept| kept.local.max(kept.replica).unwrap_or_default());
            stored + RECORD_BYTES * u64::from(range.records)
        }
        Next::Load(BlockName::End) | Next::Heal(_) | Next::End | Next::Wait => 0,
    };
    Announced::Bytes(bytes)
}

/// Reads a stored block from the first place that has it whole.
async fn fetch(shard: &OpenShard, name: &BlockName) -> Result<Loaded, SourceError> {
    let Some(storing) = &shard.storing else { return Ok(Loaded::Nowhere { may_come_back: false }) };
    let [local, replica] = {
        let state = shard.state();
        state.ledger.front_kept().map_or([None, None], |kept| [kept.local, kept.replica])
    };
    let path = storing.path(name);
    let mut may_come_back = false;
    let stores = &shard.stores;
    for (place, size, is_local) in [(&stores.local, local, true), (&stores.replica, replica, false)] {
        let (Some(place), Some(size)) = (place, size) else { continue };
        let why = match place.get(&path, size).await {
            Ok(Fetched::Bytes(bytes)) => match check(shard, name, &bytes)? {
                Ok(block) => {
                    return Ok(Loaded::Block(block, is_local));
                }
                Err(damage) => damage,
            },
            Ok(Fetched::Gone(why)) => why.to_owned(),
            Err(error) => {
                shard.counts.add(|usage| usage.store_failures += 1);
                may_come_back = true;
                error.to_string()
            }
        };
        tracing::warn!(
            %path, why, place = if is_local { "first" } else { "second" },
            "a stored block cannot be used and is taken from elsewhere"
        );
    }
    Ok(Loaded::Nowhere { may_come_back })
}

/// Whether bytes are the block of that name. A block of somebody else is refused: nobody put it here by mistake of ours,
/// and reading over it would hide that.
fn check(
    shard: &OpenShard,
    name: &BlockName,
    bytes: &bytes::Bytes,
) -> Result<Result<HandOffBlock, String>, SourceError> {
    let Some(storing) = &shard.storing else { return Ok(Err("nothing is stored".to_owned())) };
    let path = storing.path(name);
    match HandOffBlock::decode(bytes) {
        Ok(block) if block.owner != storing.owner => Err(refused(&format!(
            "{path} holds a block of application {:?}, stream {}, shard {}",
            block.owner.application, block.owner.identity, block.owner.shard_id
        ))),
        Ok(block) if block.name().as_ref() != Some(name) => {
            Ok(Err("it holds other records than its name says".to_owned()))
        }
        Ok(block) => Ok(Ok(block)),
        Err(BlockError::OtherVersion(version)) => {
            Err(refused(&format!("{path} is a block of format {version}, which this version cannot read")))
        }
        Err(error) => Ok(Err(error.to_string())),
    }
}

impl InMemory {
    fn memory_bytes(&self) -> u64 {
        match &self.content {
            InMemoryContent::Records(records) => records.iter().map(Record::memory_bytes).sum(),
            InMemoryContent::End(_) => 0,
        }
    }
}

/// Blocks that this buffer must not touch.
pub(super) fn refused(what: &str) -> SourceError {
    let message = format!(
        "{what}; nothing is read or deleted. Move these blocks away, or delete them if they are not needed, or give the \
         hand-off buffer another place"
    );
    SourceError::new(SourceErrorKind::Invalid, message)
}
