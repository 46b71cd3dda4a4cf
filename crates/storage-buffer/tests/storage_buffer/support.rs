//! Object stores that fail on demand, a stream that records how it is read, and temporary directories.

#![allow(dead_code, clippy::unwrap_used)] // each test uses its part

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use shard_worker::{
    FetchedBatch, InMemoryStream, ReadFrom, RecordSource, Shard, ShardFilter, SourceError, StreamDescription,
    StreamSource,
};

/// The calls that a [`FaultyStore`] refuses at the moment.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) refuses_writes: AtomicBool,
    pub(crate) refuses_reads: AtomicBool,
    pub(crate) refuses_lists: AtomicBool,
    pub(crate) refuses_deletes: AtomicBool,
    /// Number of accepted writes.
    pub(crate) writes: AtomicU64,
}

/// An object store that refuses calls on demand; in memory, or around another store.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    pub(crate) faults: Arc<Faults>,
}

impl Default for FaultyStore {
    fn default() -> Self {
        Self::around(Arc::new(object_store::memory::InMemory::new()))
    }
}

impl FaultyStore {
    pub(crate) fn around(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, faults: Arc::default() }
    }

    pub(crate) fn shared(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.clone())
    }

    /// The paths of all blocks, in order.
    pub(crate) async fn paths(&self) -> Vec<Path> {
        let mut paths: Vec<Path> =
            self.inner.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
        paths.sort();
        paths
    }

    /// Changes the bytes of a stored block.
    pub(crate) async fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.inner.get(path).await.unwrap().bytes().await.unwrap().to_vec();
        change(&mut bytes);
        self.inner.put(path, PutPayload::from(bytes)).await.unwrap();
    }

    pub(crate) async fn remove(&self, path: &Path) {
        self.inner.delete(path).await.unwrap();
    }

    /// Moves a block to another path.
    pub(crate) async fn rename(&self, from: &Path, to: &Path) {
        self.inner.rename(from, to).await.unwrap();
    }

    fn refuse(&self, what: &AtomicBool) -> object_store::Result<()> {
        if what.load(Ordering::Relaxed) {
            return Err(object_store::Error::Generic {
                store: "FaultyStore",
                source: "no space left on device".into(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultyStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.refuse(&self.faults.refuses_writes)?;
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.refuse(&self.faults.refuses_reads)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.refuse(&self.faults.refuses_deletes) {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.refuse(&self.faults.refuses_lists) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A record of the reads of a stream.
#[derive(Debug, Default)]
pub(crate) struct ReadLog {
    /// The positions at which shards were opened.
    pub(crate) opened: Mutex<Vec<ReadFrom>>,
    /// The payloads that were read, as text.
    pub(crate) read: Mutex<Vec<String>>,
    /// The number of empty answers before each answer with records.
    pub(crate) empty_pages: AtomicUsize,
}

impl ReadLog {
    /// Clears the record.
    pub(crate) fn clear(&self) {
        self.opened.lock().unwrap().clear();
        self.read.lock().unwrap().clear();
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }
}

/// An in-memory stream that records how it is read.
#[derive(Debug, Clone)]
pub(crate) struct WatchedStream {
    pub(crate) stream: InMemoryStream,
    pub(crate) log: Arc<ReadLog>,
}

impl WatchedStream {
    pub(crate) fn new(stream: &InMemoryStream) -> Self {
        Self { stream: stream.clone(), log: Arc::default() }
    }
}

#[async_trait::async_trait]
impl StreamSource for WatchedStream {
    fn stream_name(&self) -> &str {
        self.stream.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.stream.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.stream.list_shards(filter).await
    }

    async fn open(
        &self,
        shard_id: &lease_store::ShardId,
        from: &ReadFrom,
    ) -> Result<Box<dyn RecordSource>, SourceError> {
        self.log.opened.lock().unwrap().push(from.clone());
        let inner = self.stream.open(shard_id, from).await?;
        Ok(Box::new(WatchedReader { inner, log: self.log.clone(), empty: 0 }))
    }
}

#[derive(Debug)]
struct WatchedReader {
    inner: Box<dyn RecordSource>,
    log: Arc<ReadLog>,
    empty: usize,
}

#[async_trait::async_trait]
impl RecordSource for WatchedReader {
    async fn ready(&mut self) -> u64 {
        self.inner.ready().await
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        if self.empty < self.log.empty_pages.load(Ordering::Relaxed) {
            self.empty += 1;
            return Ok(FetchedBatch {
                records: Vec::new(),
                millis_behind_latest: Some(60_000),
                shard_end: None,
            });
        }
        self.empty = 0;
        let batch = self.inner.next_batch().await?;
        let texts = batch.records.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned());
        self.log.read.lock().unwrap().extend(texts);
        Ok(batch)
    }
}

/// A temporary directory, removed on drop.
#[derive(Debug)]
pub(crate) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique =
            format!("storage-buffer-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &FilePath {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
