//! The two stores of blocks, and the errors they report.

use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use shard_worker::{SourceError, SourceErrorKind};
use tokio::time::{Duration, timeout};

use crate::error::{StorageError, StorageErrorKind};

/// Time limit of one call of a store, so that no call can hang. A store's own time-outs are shorter.
const STORE_TIME_LIMIT: Duration = Duration::from_secs(30);

/// The largest stored block, in bytes; a larger file is no block. Kinesis returns at most 10 MiB per read.
pub(crate) const MAX_BLOCK_BYTES: u64 = 256 * 1024 * 1024;

/// Where blocks are stored: a local store, meant to be near, and a replica store for the replicated levels.
///
/// ```no_run
/// use storage_buffer::BlockStores;
///
/// let stores = BlockStores::none().directory("/var/lib/billing/blocks")?.replica_directory("/mnt/replica/blocks")?;
/// # Ok::<(), lease_store::BoxError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct BlockStores {
    pub(crate) local: Option<BlockStore>,
    pub(crate) replica: Option<BlockStore>,
}

impl BlockStores {
    /// No store, for `MEMORY_ONLY`.
    pub fn none() -> Self {
        Self::default()
    }

    /// Uses a directory as the local store, and creates it if it does not exist.
    ///
    /// # Errors
    /// `InvalidSettings` when the directory cannot be created or read.
    pub fn directory(self, path: impl AsRef<FilePath>) -> Result<Self, StorageError> {
        let store = directory(path.as_ref())?;
        Ok(Self { local: Some(store), ..self })
    }

    /// Uses an object store as the local store.
    #[must_use]
    pub fn local(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { local: Some(BlockStore::new(store)), ..self }
    }

    /// Uses a directory on another disk or a network mount as the replica store, and creates it if it does not exist.
    ///
    /// # Errors
    /// `InvalidSettings` when the directory cannot be created or read.
    pub fn replica_directory(self, path: impl AsRef<FilePath>) -> Result<Self, StorageError> {
        let store = directory(path.as_ref())?;
        Ok(Self { replica: Some(store), ..self })
    }

    /// Uses an object store as the replica store: S3 or any other that `object_store` supports. Workers that share it can
    /// serve each other's blocks.
    #[must_use]
    pub fn replica(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { replica: Some(BlockStore::new(store)), ..self }
    }
}

fn directory(path: &FilePath) -> Result<BlockStore, StorageError> {
    let invalid = |error: &dyn fmt::Display| {
        let message = format!(
            "the block directory {} cannot be used: {error}; choose one that this process may write to",
            path.display()
        );
        StorageError::new(StorageErrorKind::InvalidSettings, message)
    };
    std::fs::create_dir_all(path).map_err(|error| invalid(&error).with_source(error))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| invalid(&error).with_source(error))?;
    Ok(BlockStore::new(Arc::new(store)))
}

/// One store of blocks, with a time limit for each call.
#[derive(Debug, Clone)]
pub(crate) struct BlockStore {
    store: Arc<dyn ObjectStore>,
}

/// The result of reading a block.
#[derive(Debug)]
pub(crate) enum Fetched {
    Bytes(Bytes),
    /// The file is missing or has another length than the block, for the given reason.
    Missing(&'static str),
}

impl BlockStore {
    fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The files below a folder, with their sizes in bytes.
    pub(crate) async fn list(&self, folder: &Path) -> Result<Vec<(Path, u64)>, SourceError> {
        let files = self.store.list(Some(folder)).map_ok(|meta| (meta.location, meta.size)).try_collect();
        self.with_time_limit("list", folder, files).await
    }

    pub(crate) async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), SourceError> {
        // The name of a block determines its bytes, so a repeated write writes the same.
        self.with_time_limit("write", path, self.store.put(path, PutPayload::from_bytes(bytes)))
            .await
            .map(drop)
    }

    pub(crate) async fn get(&self, path: &Path, size: u64) -> Result<Fetched, SourceError> {
        let get = async {
            let found = match self.store.get(path).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => {
                    return Ok(Fetched::Missing("the file is missing"));
                }
                Err(error) => return Err(error),
            };
            if found.meta.size != size || size > MAX_BLOCK_BYTES {
                return Ok(Fetched::Missing("the file has another length than the block"));
            }
            found.bytes().await.map(Fetched::Bytes)
        };
        self.with_time_limit("read", path, get).await
    }

    pub(crate) async fn delete(&self, path: &Path) -> Result<(), SourceError> {
        let delete = async {
            match self.store.delete(path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.with_time_limit("delete", path, delete).await
    }

    async fn with_time_limit<T>(
        &self,
        action: &str,
        path: &Path,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, SourceError> {
        match timeout(STORE_TIME_LIMIT, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(action, path, &error).with_source(error)),
            Err(_) => {
                let message = format!("no answer within {STORE_TIME_LIMIT:?}");
                Err(self.failed(action, path, &message))
            }
        }
    }

    fn failed(&self, action: &str, path: &Path, error: &dyn fmt::Display) -> SourceError {
        let message = format!(
            "the storage buffer cannot {action} {path} in {}: {error}; free space in the store or repair it; the buffer \
             retries and loses no record",
            self.store
        );
        SourceError::new(SourceErrorKind::Unavailable, message)
    }
}
