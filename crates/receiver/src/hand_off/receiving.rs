//! The receiving side of a shard: reads the stream ahead of processing, stores blocks, and deletes those that are done.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use futures::FutureExt as _;
use shard_worker::{FetchedBatch, Record, RecordSource, SourceError, SourceErrorKind};
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

use super::block::{Content, HandOffBlock, Unshared as _};
use super::edge::Edge;
use super::ledger::{Entry, Kept};
use super::name::BlockName;
use super::room::{Granted, Hold};
use super::shard::{InMemory, InMemoryContent, OpenShard, READ_TIME_LIMIT};
use super::stores::Place;

/// How long blocks that are done may still be deleted after the shard was closed.
const CLOSING_TIME_LIMIT: Duration = Duration::from_secs(30);

/// The wait before a retry when the policy gives none at all.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Receives and deletes until the shard is closed.
pub(super) async fn run(shard: Arc<OpenShard>, mut rng: Rng, closing: CancellationToken) {
    loop {
        let mut receiving = Receiving { shard: shard.clone(), rng: rng.fork(), reader: None };
        let mut deleting_rng = rng.fork();
        let work = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                () = receiving.run() => {}
                () = delete(&shard, &mut deleting_rng) => {}
            }
        });
        tokio::select! {
            biased;
            () = closing.cancelled() => break,
            ended = work.catch_unwind() => {
                // A source or a store that panics is like one that fails: what was stored is stored, and reading goes on
                // after it.
                if ended.is_err() {
                    let message = format!("receiving {} panicked and is begun again", shard.shard_id);
                    shard.report(SourceError::new(SourceErrorKind::Unavailable, message));
                }
            }
        }
        tokio::select! {
            () = closing.cancelled() => break,
            () = tokio::time::sleep(DEFAULT_RETRY_DELAY) => {}
        }
    }
    // Whoever closes the shard told how far it is checkpointed; that much is still deleted, within a limit.
    let rest = async {
        while let Some((name, kept)) = next_garbage(&shard) {
            if let Err(error) = delete_once(&shard, &name, &kept).await {
                tracing::warn!(%error, "a block that is done stays; it is deleted when the shard is opened again");
                break;
            }
        }
    };
    let _ = timeout(CLOSING_TIME_LIMIT, rest).await;
}

fn next_garbage(shard: &OpenShard) -> Option<(BlockName, Kept<Hold>)> {
    shard.state().ledger.next_garbage()
}

async fn delete(shard: &OpenShard, rng: &mut Rng) {
    loop {
        let mut found = None;
        shard
            .wait_until(|state| {
                found = state.ledger.next_garbage();
                found.is_some()
            })
            .await;
        let Some((name, kept)) = found else { continue };
        let mut delays = shard.retry.delays(rng.fork());
        let mut last_delay = DEFAULT_RETRY_DELAY;
        // Its room is not free before it is gone.
        while let Err(error) = delete_once(shard, &name, &kept).await {
            shard.counts.add(|usage| usage.store_failures += 1);
            tracing::warn!(%error, "a block that is done cannot be deleted; it is tried again");
            last_delay = delays.next().unwrap_or(last_delay);
            tokio::time::sleep(last_delay).await;
        }
    }
}

async fn delete_once(shard: &OpenShard, name: &BlockName, kept: &Kept<Hold>) -> Result<(), SourceError> {
    let Some(storing) = &shard.storing else { return Ok(()) };
    let path = storing.path(name);
    for (place, size) in [(&shard.stores.local, kept.local), (&shard.stores.replica, kept.replica)] {
        if let Some(place) = place.as_ref().filter(|_| size.is_some()) {
            place.delete(&path).await?;
        }
    }
    Ok(())
}

struct Receiving {
    shard: Arc<OpenShard>,
    rng: Rng,
    /// Kept over errors: it goes on where its last answer ended, while a new one at LATEST would skip what arrived in
    /// between.
    reader: Option<Box<dyn RecordSource>>,
}

impl Receiving {
    async fn run(&mut self) {
        let mut delays = self.shard.retry.delays(self.rng.fork());
        let mut last_delay = DEFAULT_RETRY_DELAY;
        loop {
            // After the end there is nothing to receive, unless its block turns out to be unreadable.
            self.shard.wait_until(|state| !state.ledger.has_end()).await;
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

    /// One read of the stream, and its blocks.
    async fn receive(&mut self) -> Result<(), SourceError> {
        let shard = self.shard.clone();
        let received = shard.state().ledger.received().clone();
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let from = received.read_from();
                let opened = timeout(READ_TIME_LIMIT, shard.source.open(&shard.shard_id, &from)).await;
                self.reader.insert(opened.unwrap_or_else(|_| Err(too_slow("opening", &shard)))?)
            }
        };
        let bytes =
            timeout(READ_TIME_LIMIT, reader.ready()).await.map_err(|_| too_slow("reading", &shard))?;
        let starving = shard.wait_until(|state| state.is_asking && state.ledger.waiting() == 0);
        let granted = shard.room.grant(bytes, starving).await;
        let fetched = timeout(READ_TIME_LIMIT, reader.next_batch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(too_slow("reading", &shard)))?;
        // What was fetched is in no other hand: from here on it is kept until it is stored, or the shard is closed.
        self.accept(fetched, granted, received).await;
        Ok(())
    }

    async fn accept(&mut self, mut fetched: FetchedBatch, mut granted: Granted, mut received: Edge) {
        self.shard.goes_on();
        let lag = fetched.millis_behind_latest;
        let tip = fetched
            .records
            .last()
            .and_then(|last| last.approximate_arrival?.checked_add(Duration::from_millis(lag?)));
        self.shard.change(|state| {
            state.lag = lag.or(state.lag);
            state.tip = tip.max(state.tip);
        });
        // Reading began at the last record that was received, which is an aggregate perhaps, and whole.
        fetched.records.retain(|record| !received.is_past(&record.sequence_number));
        if !fetched.records.is_empty() {
            let last = fetched.records.last().map(|record| record.sequence_number.unshared());
            self.shard.room.settle(&mut granted, fetched.records.iter().map(Record::memory_bytes).sum());
            self.keep(Content::Records(fetched.records), lag, &received, Some(granted)).await;
            received = last.map_or(received, Edge::After);
        }
        if let Some(end) = fetched.shard_end {
            self.keep(Content::End(end.children), lag, &received, None).await;
        }
    }

    /// Stores a block wherever its level wants it, and only then lets it be served.
    async fn keep(&mut self, content: Content, lag: Option<u64>, follows: &Edge, granted: Option<Granted>) {
        let shard = self.shard.clone();
        if let Some(error) = unusable(&content) {
            self.hold_up(error).await;
        }
        let level = shard.room.level();
        let goes_to_disk = granted.as_ref().map_or(level.uses_disk(), |granted| granted.goes_to_disk);
        let stays_in_memory = granted.as_ref().is_none_or(|granted| granted.stays_in_memory);
        let records = match &content {
            Content::Records(records) => records.len() as u64,
            Content::End(_) => 0,
        };
        let (memory, mut hold, spare) = match granted {
            Some(granted) => (Some(granted.memory), granted.hold, granted.spare),
            None => (None, Hold::default(), None),
        };
        let name;
        let mut kept = None;
        let content = if goes_to_disk || level.is_replicated() {
            let Some(storing) = &shard.storing else { return self.hold_up(no_store()).await };
            let block = HandOffBlock {
                owner: storing.owner.clone(),
                follows: follows.clone(),
                millis_behind_latest: lag,
                content,
            };
            let Some(named) = block.name() else { return self.hold_up(no_store()).await };
            let path = storing.path(&named);
            let encoded = block.encode();
            let bytes = encoded.len() as u64;
            hold.resize(bytes);
            // The second place first: a block that is found in the first one has its copy.
            for (place, is_meant) in
                [(&shard.stores.replica, level.is_replicated()), (&shard.stores.local, goes_to_disk)]
            {
                if let Some(place) = place.as_ref().filter(|_| is_meant) {
                    self.write(place, &path, &encoded).await;
                }
            }
            let copy = |is_there: bool| is_there.then_some(bytes);
            kept = Some(Kept { local: copy(goes_to_disk), replica: copy(level.is_replicated()), hold });
            name = named;
            block.content
        } else {
            let Some(named) = name_of(&content) else { return self.hold_up(no_store()).await };
            name = named;
            content
        };
        let memory = stays_in_memory.then(|| InMemory {
            content: match content {
                Content::Records(records) => InMemoryContent::Records(records),
                Content::End(children) => InMemoryContent::End(children),
            },
            millis_behind_latest: lag,
            _memory: memory,
            _spare: spare,
        });
        shard.counts.add(|usage| usage.received_records += records);
        shard.change(|state| {
            state.ledger.push(Entry { name, follows: Some(follows.clone()), memory, kept });
        });
        shard.goes_on();
    }

    /// Writes until it is written: meanwhile nothing is received, and nothing is lost.
    async fn write(&mut self, place: &Place, path: &object_store::path::Path, bytes: &Bytes) {
        let mut delays = self.shard.retry.delays(self.rng.fork());
        let mut last_delay = DEFAULT_RETRY_DELAY;
        while let Err(error) = place.put(path, bytes.clone()).await {
            self.shard.counts.add(|usage| usage.store_failures += 1);
            self.shard.report(error);
            last_delay = delays.next().unwrap_or(last_delay);
            tokio::time::sleep(last_delay).await;
        }
    }

    /// What was fetched cannot be kept, so the shard stands still here, and its worker hears why.
    async fn hold_up(&mut self, error: SourceError) {
        self.shard.report(error);
        std::future::pending::<()>().await;
    }
}

fn name_of(content: &Content) -> Option<BlockName> {
    match content {
        Content::End(_) => Some(BlockName::End),
        Content::Records(records) => BlockName::of(records),
    }
}

/// What a block cannot hold.
fn unusable(content: &Content) -> Option<SourceError> {
    let Content::Records(records) = content else { return None };
    let message = if let Some(record) = records.iter().find(|record| record.sub_sequence_number != 0) {
        format!(
            "record {} is part {} of an aggregate; the hand-off buffer needs a source that does not take aggregates apart",
            record.sequence_number, record.sub_sequence_number
        )
    } else {
        let digits = BlockName::of(records)?.too_many_digits()?;
        format!(
            "a sequence number has {digits} digits, too many for the name of a block; use no hand-off buffer here"
        )
    };
    Some(SourceError::new(SourceErrorKind::Invalid, message))
}

fn no_store() -> SourceError {
    SourceError::new(SourceErrorKind::Invalid, "the hand-off buffer has no place to store blocks in")
}

pub(super) fn too_slow(doing: &str, shard: &OpenShard) -> SourceError {
    let message = format!("{doing} {} took longer than {READ_TIME_LIMIT:?} and was given up", shard.shard_id);
    SourceError::new(SourceErrorKind::Unavailable, message)
}
