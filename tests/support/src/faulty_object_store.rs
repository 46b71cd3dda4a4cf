//! An object store that refuses requests on demand, and a directory that is removed with its test.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::switch::Switch;

/// The requests that a [`FaultyObjectStore`] refuses at the moment.
#[derive(Debug, Default)]
pub struct ObjectStoreFaults {
    /// Writes fail.
    pub refuses_writes: Switch,
    /// Reads fail.
    pub refuses_reads: Switch,
    /// Listings fail.
    pub refuses_lists: Switch,
    /// Deletions fail.
    pub refuses_deletes: Switch,
    writes: AtomicU64,
}

/// An object store, in memory by default, that refuses requests on demand. Clones share the objects and the faults.
#[derive(Debug, Clone)]
pub struct FaultyObjectStore {
    inner: Arc<dyn ObjectStore>,
    /// The faults: which calls it refuses.
    pub faults: Arc<ObjectStoreFaults>,
}

impl Default for FaultyObjectStore {
    fn default() -> Self {
        Self::around(Arc::new(object_store::memory::InMemory::new()))
    }
}

impl FaultyObjectStore {
    /// Wraps a store.
    pub fn around(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, faults: Arc::default() }
    }

    /// A handle for an API that takes a shared store.
    pub fn shared(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.clone())
    }

    /// The number of writes that were not refused.
    pub fn writes(&self) -> u64 {
        self.faults.writes.load(Ordering::Relaxed)
    }

    /// The paths of all objects, in order.
    ///
    /// # Panics
    /// When the wrapped store fails.
    pub async fn paths(&self) -> Vec<Path> {
        let mut paths: Vec<Path> =
            self.inner.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
        paths.sort();
        paths
    }

    /// Changes the bytes of an object.
    ///
    /// # Panics
    /// When the wrapped store fails.
    pub async fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.inner.get(path).await.unwrap().bytes().await.unwrap().to_vec();
        change(&mut bytes);
        self.inner.put(path, PutPayload::from(bytes)).await.unwrap();
    }

    /// Removes an object.
    ///
    /// # Panics
    /// When the wrapped store fails.
    pub async fn remove(&self, path: &Path) {
        self.inner.delete(path).await.unwrap();
    }

    /// Moves an object to another path.
    ///
    /// # Panics
    /// When the wrapped store fails.
    pub async fn rename(&self, from: &Path, to: &Path) {
        self.inner.rename(from, to).await.unwrap();
    }

    fn refuse_if(switch: &Switch) -> Result<()> {
        if switch.is_on() {
            let source = "no space left on device".into();
            return Err(object_store::Error::Generic { store: "FaultyObjectStore", source });
        }
        Ok(())
    }
}

impl fmt::Display for FaultyObjectStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultyObjectStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyObjectStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        Self::refuse_if(&self.faults.refuses_writes)?;
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        Self::refuse_if(&self.faults.refuses_reads)?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match Self::refuse_if(&self.faults.refuses_deletes) {
            Ok(()) => self.inner.delete_stream(paths),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match Self::refuse_if(&self.faults.refuses_lists) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A directory for one test, removed when it is dropped.
#[derive(Debug)]
pub struct TestDirectory(PathBuf);

impl TestDirectory {
    /// Creates an empty directory; its name starts with `prefix`.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn new(prefix: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &FilePath {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
