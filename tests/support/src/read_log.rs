//! A log of the reads of a stream: where its shards were opened, and which records were read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lease_store::ShardId;
use shard_worker::{FetchedBatch, ReadFrom, StreamSource};

use crate::hooked_stream::{HookedStream, StreamCall};

/// Logs the reads of a stream. Clones share the log.
#[derive(Debug, Clone, Default)]
pub struct ReadLog {
    opened: Arc<Mutex<Vec<ReadFrom>>>,
    texts: Arc<Mutex<Vec<String>>>,
    empty_pages: Arc<AtomicUsize>,
    empty_pages_given: Arc<Mutex<HashMap<ShardId, usize>>>,
}

impl ReadLog {
    /// Wraps a stream whose reads are logged here.
    pub fn watch(&self, stream: impl StreamSource) -> HookedStream {
        let (opening, replacing, reading) = (self.clone(), self.clone(), self.clone());
        HookedStream::new(stream)
            .before(move |call| {
                if let StreamCall::Open(_, from) = call {
                    opening.opened.lock().unwrap().push(from);
                }
                async { Ok(()) }
            })
            .replace_read(move |shard_id| replacing.next_is_empty(shard_id))
            .after_read(move |_, batch| {
                let records = batch.records.iter();
                let texts = records.map(|record| String::from_utf8_lossy(&record.data).into_owned());
                reading.texts.lock().unwrap().extend(texts);
                batch
            })
    }

    /// Makes every shard answer this many empty pages before each page with records.
    pub fn set_empty_pages(&self, count: usize) {
        self.empty_pages.store(count, Ordering::Relaxed);
    }

    /// The positions at which shards were opened, in order.
    pub fn opened(&self) -> Vec<ReadFrom> {
        self.opened.lock().unwrap().clone()
    }

    /// The texts of the records that were read, in order.
    pub fn texts(&self) -> Vec<String> {
        self.texts.lock().unwrap().clone()
    }

    /// Forgets all reads so far.
    pub fn clear(&self) {
        self.opened.lock().unwrap().clear();
        self.texts.lock().unwrap().clear();
    }

    fn next_is_empty(&self, shard_id: &ShardId) -> Option<FetchedBatch> {
        let mut given = self.empty_pages_given.lock().unwrap();
        let given = given.entry(shard_id.clone()).or_default();
        if *given < self.empty_pages.load(Ordering::Relaxed) {
            *given += 1;
            return Some(FetchedBatch::new(Vec::new(), Some(60_000)));
        }
        *given = 0;
        None
    }
}
