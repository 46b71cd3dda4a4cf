//! The writing side of a shard: reads the stream ahead of processing, stores blocks, and deletes checkpointed ones.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use futures::FutureExt as _;
use shard_worker::{FetchedBatch, Record, RecordSource, SourceError, SourceErrorKind};
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

use crate::block::{Block, Content};
use crate::block_edge::Edge;
use crate::block_name::BlockName;
use crate::block_queue::{Copies, Entry};
use crate::block_stores::BlockStore;
use crate::capacity::{Grant, StoreReservation};
use crate::shard_buffer::{InMemory, READ_TIME_LIMIT, ShardBuffer};
use crate::unshared::Unshared as _;

/// How long checkpointed blocks may still be deleted after the shard was closed.
const CLOSING_TIME_LIMIT: Duration = Duration::from_secs(30);

/// The wait before a retry when the retry policy returns no delay at all.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Receives and deletes blocks until the shard is closed.
pub(crate) async fn run(shard: Arc<ShardBuffer>, mut rng: Rng, closing: CancellationToken) {
    loop {
        let mut writer = Writer { shard: shard.clone(), rng: rng.fork(), reader: None };
        let mut deleting_rng = rng.fork();
        let work = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                () = writer.run() => {}
                () = delete(&shard, &mut deleting_rng) => {}
            }
        });
        tokio::select! {
            biased;
            () = closing.cancelled() => break,
            ended = work.catch_unwind() => {
                // A panic of a source or store is handled like an error: stored blocks stay, and reading resumes after them.
                if ended.is_err() {
                    let message = format!("receiving {} panicked and is restarted", shard.shard_id);
                    shard.report(SourceError::new(SourceErrorKind::Unavailable, message));
                }
            }
        }
        tokio::select! {
            () = closing.cancelled() => break,
            () = tokio::time::sleep(DEFAULT_RETRY_DELAY) => {}
        }
    }
    // The worker reports its last checkpoint before it closes the shard. Blocks up to there are deleted, within a limit.
    let rest = async {
        while let Some((name, copies)) = next_garbage(&shard) {
            if let Err(error) = delete_once(&shard, &name, &copies).await {
                tracing::warn!(%error, "cannot delete a checkpointed block, leaving it to the next opening of the shard");
                break;
            }
        }
    };
    let _ = timeout(CLOSING_TIME_LIMIT, rest).await;
}

fn next_garbage(shard: &ShardBuffer) -> Option<(BlockName, Copies<StoreReservation>)> {
    shard.state().queue.next_garbage()
}

async fn delete(shard: &ShardBuffer, rng: &mut Rng) {
    loop {
        let mut found = None;
        shard
            .wait_until(|state| {
                found = state.queue.next_garbage();
                found.is_some()
            })
            .await;
        let Some((name, copies)) = found else { continue };
        let mut delays = shard.retry.delays(rng.fork());
        let mut last_delay = DEFAULT_RETRY_DELAY;
        // `copies` holds the capacity of the block until it is deleted.
        while let Err(error) = delete_once(shard, &name, &copies).await {
            shard.counts.add(|usage| usage.store_failures += 1);
            tracing::warn!(%error, "cannot delete a checkpointed block, retrying");
            last_delay = delays.next().unwrap_or(last_delay);
            tokio::time::sleep(last_delay).await;
        }
    }
}

async fn delete_once(
    shard: &ShardBuffer,
    name: &BlockName,
    copies: &Copies<StoreReservation>,
) -> Result<(), SourceError> {
    let Some(folder) = &shard.folder else { return Ok(()) };
    let path = folder.block_path(name);
    for (store, size) in [(&shard.stores.local, copies.local), (&shard.stores.replica, copies.replica)] {
        if let Some(store) = store.as_ref().filter(|_| size.is_some()) {
            store.delete(&path).await?;
        }
    }
    Ok(())
}

struct Writer {
    shard: Arc<ShardBuffer>,
    rng: Rng,
    /// Kept after an error, because it resumes after its last answer. A new reader at LATEST would skip the records that
    /// arrived in between.
    reader: Option<Box<dyn RecordSource>>,
}

impl Writer {
    async fn run(&mut self) {
        let mut delays = self.shard.retry.delays(self.rng.fork());
        let mut last_delay = DEFAULT_RETRY_DELAY;
        loop {
            // After the end of the shard nothing is received, unless the stored end turns out to be unreadable.
            self.shard.wait_until(|state| !state.queue.has_end()).await;
            match self.receive().await {
                Ok(()) => delays = self.shard.retry.delays(self.rng.fork()),
                Err(error) => {
                    self.shard.report(error);
                    last_delay = delays.next().unwrap_or(last_delay);
                    tokio::time::sleep(last_delay).await;
                }
            }
        }
    }

    /// Reads the stream once and stores the blocks of the answer.
    async fn receive(&mut self) -> Result<(), SourceError> {
        let shard = self.shard.clone();
        let received = shard.state().queue.received().clone();
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let from = received.read_from();
                let opened = timeout(READ_TIME_LIMIT, shard.source.open(&shard.shard_id, &from)).await;
                self.reader.insert(opened.unwrap_or_else(|_| Err(shard.too_slow("opening")))?)
            }
        };
        let bytes = timeout(READ_TIME_LIMIT, reader.ready()).await.map_err(|_| shard.too_slow("reading"))?;
        let starving = shard.wait_until(|state| state.is_reader_waiting && state.queue.waiting() == 0);
        let grant = shard.capacity.grant(bytes, starving).await;
        let fetched = timeout(READ_TIME_LIMIT, reader.next_batch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(shard.too_slow("reading")))?;
        // From here on no error drops the fetched records: they are kept until they are stored or the shard is closed.
        self.accept(fetched, grant, received).await;
        Ok(())
    }

    async fn accept(&mut self, mut fetched: FetchedBatch, mut grant: Grant, mut received: Edge) {
        self.shard.resume();
        let lag = fetched.millis_behind_latest;
        let newest_arrival = fetched
            .records
            .last()
            .and_then(|last| last.approximate_arrival?.checked_add(Duration::from_millis(lag?)));
        self.shard.change(|state| {
            state.lag = lag.or(state.lag);
            state.newest_arrival = newest_arrival.max(state.newest_arrival);
        });
        // Reading starts at the last received record, inclusive. That record is stored already, if it is an aggregate then
        // as a whole.
        fetched.records.retain(|record| !received.is_past(&record.sequence_number));
        if !fetched.records.is_empty() {
            let last = fetched.records.last().map(|record| record.sequence_number.unshared());
            self.shard.capacity.resize(&mut grant, fetched.records.iter().map(Record::memory_bytes).sum());
            self.store(Content::Records(fetched.records), lag, &received, Some(grant)).await;
            received = last.map_or(received, Edge::After);
        }
        if let Some(end) = fetched.shard_end {
            self.store(Content::End(end.children), lag, &received, None).await;
        }
    }

    /// Stores a block in all stores that its level requires, and then queues it for the reader.
    async fn store(&mut self, content: Content, lag: Option<u64>, follows: &Edge, grant: Option<Grant>) {
        let shard = self.shard.clone();
        if let Some(error) = unstorable(&content) {
            self.halt(error).await;
        }
        let level = shard.capacity.level();
        let goes_to_disk = grant.as_ref().map_or(level.uses_disk(), |grant| grant.goes_to_disk);
        let stays_in_memory = grant.as_ref().is_none_or(|grant| grant.stays_in_memory);
        let records = match &content {
            Content::Records(records) => records.len() as u64,
            Content::End(_) => 0,
        };
        let (memory, mut reservation, overflow) = match grant {
            Some(grant) => (Some(grant.memory), grant.stored, grant.overflow),
            None => (None, StoreReservation::default(), None),
        };
        let name;
        let mut copies = None;
        let content = if goes_to_disk || level.is_replicated() {
            let Some(folder) = &shard.folder else { return self.halt(no_store()).await };
            let block = Block {
                owner: folder.owner.clone(),
                follows: follows.clone(),
                millis_behind_latest: lag,
                content,
            };
            let Some(block_name) = block.name() else { return self.halt(no_store()).await };
            let path = folder.block_path(&block_name);
            let encoded = block.encode();
            let bytes = encoded.len() as u64;
            reservation.resize(bytes);
            // Store the replica first, so that every block in the local store has its replica.
            for (store, is_required) in
                [(&shard.stores.replica, level.is_replicated()), (&shard.stores.local, goes_to_disk)]
            {
                if let Some(store) = store.as_ref().filter(|_| is_required) {
                    self.write(store, &path, &encoded).await;
                }
            }
            let size = |is_stored: bool| is_stored.then_some(bytes);
            copies =
                Some(Copies { local: size(goes_to_disk), replica: size(level.is_replicated()), reservation });
            name = block_name;
            block.content
        } else {
            let Some(block_name) = content.name() else { return self.halt(no_store()).await };
            name = block_name;
            content
        };
        let memory = stays_in_memory.then_some(InMemory {
            content,
            millis_behind_latest: lag,
            _memory: memory,
            _overflow: overflow,
        });
        shard.counts.add(|usage| usage.received_records += records);
        shard.change(|state| {
            state.queue.push(Entry { name, follows: Some(follows.clone()), memory, copies });
        });
        shard.resume();
    }

    /// Retries a write until it succeeds. Nothing is received meanwhile.
    async fn write(&mut self, store: &BlockStore, path: &object_store::path::Path, bytes: &Bytes) {
        let mut delays = self.shard.retry.delays(self.rng.fork());
        let mut last_delay = DEFAULT_RETRY_DELAY;
        while let Err(error) = store.put(path, bytes.clone()).await {
            self.shard.counts.add(|usage| usage.store_failures += 1);
            self.shard.report(error);
            last_delay = delays.next().unwrap_or(last_delay);
            tokio::time::sleep(last_delay).await;
        }
    }

    /// Stops receiving for good, because the fetched records cannot be stored. The worker receives the error.
    async fn halt(&mut self, error: SourceError) {
        self.shard.report(error);
        std::future::pending::<()>().await;
    }
}

/// The error for records that no block can hold; `None` for storable content.
fn unstorable(content: &Content) -> Option<SourceError> {
    let Content::Records(records) = content else { return None };
    let message = if let Some(record) = records.iter().find(|record| record.sub_sequence_number != 0) {
        format!(
            "record {} is sub-record {} of an aggregate; the storage buffer needs a source that does not de-aggregate",
            record.sequence_number, record.sub_sequence_number
        )
    } else {
        let digits = BlockName::of(records)?.too_many_digits()?;
        format!(
            "a sequence number has {digits} digits, too many for the name of a block; read this stream without a storage \
             buffer"
        )
    };
    Some(SourceError::new(SourceErrorKind::Invalid, message))
}

fn no_store() -> SourceError {
    SourceError::new(SourceErrorKind::Invalid, "the storage buffer has no store for its blocks")
}
