//! The two places that blocks are stored in, and what is said when they fail.

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

use crate::{ReceiverError, ReceiverErrorKind};

/// How long one call of a store may take; so that nothing can hang. The time-outs of a store itself are shorter.
const STORE_TIME_LIMIT: Duration = Duration::from_secs(30);

/// The largest stored block, in bytes; what is larger is no block. Kinesis answers with at most 10 MiB.
pub(super) const MAX_BLOCK_BYTES: u64 = 256 * 1024 * 1024;

/// Where blocks are stored: the first place, which is meant to be near, and a second one for the replicated levels.
#[derive(Debug, Clone, Default)]
pub struct BlockStores {
    pub(super) local: Option<Place>,
    pub(super) replica: Option<Place>,
}

impl BlockStores {
    /// No place at all, for `MEMORY_ONLY`.
    pub fn none() -> Self {
        Self::default()
    }

    /// The first place is this directory, which is made if it is not there.
    ///
    /// # Errors
    /// `InvalidSettings` when it cannot be made or read.
    pub fn directory(self, path: impl AsRef<FilePath>) -> Result<Self, ReceiverError> {
        let place = directory(path.as_ref())?;
        Ok(Self { local: Some(place), ..self })
    }

    /// The first place is this store.
    #[must_use]
    pub fn local(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { local: Some(Place::new(store)), ..self }
    }

    /// The second place is this directory, on another disk or mounted from elsewhere; it is made if it is not there.
    ///
    /// # Errors
    /// `InvalidSettings` when it cannot be made or read.
    pub fn replica_directory(self, path: impl AsRef<FilePath>) -> Result<Self, ReceiverError> {
        let place = directory(path.as_ref())?;
        Ok(Self { replica: Some(place), ..self })
    }

    /// The second place is this store: S3 or any other that `object_store` knows. Workers that share it can go on with
    /// each other's blocks.
    #[must_use]
    pub fn replica(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { replica: Some(Place::new(store)), ..self }
    }
}

fn directory(path: &FilePath) -> Result<Place, ReceiverError> {
    let invalid = |error: &dyn fmt::Display| {
        let message = format!(
            "the directory {} for blocks cannot be used: {error}; name one that this process may write to",
            path.display()
        );
        ReceiverError::new(ReceiverErrorKind::InvalidSettings, message)
    };
    std::fs::create_dir_all(path).map_err(|error| invalid(&error).with_source(error))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| invalid(&error).with_source(error))?;
    Ok(Place::new(Arc::new(store)))
}

/// One of the places.
#[derive(Debug, Clone)]
pub(super) struct Place {
    store: Arc<dyn ObjectStore>,
}

/// What was found of a block.
#[derive(Debug)]
pub(super) enum Fetched {
    Bytes(Bytes),
    /// It is not there, or not as long as it was: whatever is there is not the block.
    Gone(&'static str),
}

impl Place {
    fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The files below a folder, with their sizes in bytes.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<(Path, u64)>, SourceError> {
        let files = self.store.list(Some(folder)).map_ok(|meta| (meta.location, meta.size)).try_collect();
        self.within("list", folder, files).await
    }

    pub(super) async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), SourceError> {
        // A block is determined by its name, so whoever writes it again writes the same.
        self.within("write", path, self.store.put(path, PutPayload::from_bytes(bytes))).await.map(drop)
    }

    pub(super) async fn get(&self, path: &Path, size: u64) -> Result<Fetched, SourceError> {
        let get = async {
            let found = match self.store.get(path).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(Fetched::Gone("it is gone")),
                Err(error) => return Err(error),
            };
            if found.meta.size != size || size > MAX_BLOCK_BYTES {
                return Ok(Fetched::Gone("its length is wrong"));
            }
            found.bytes().await.map(Fetched::Bytes)
        };
        self.within("read", path, get).await
    }

    pub(super) async fn delete(&self, path: &Path) -> Result<(), SourceError> {
        let delete = async {
            match self.store.delete(path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.within("delete", path, delete).await
    }

    async fn within<T>(
        &self,
        doing: &str,
        path: &Path,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, SourceError> {
        match timeout(STORE_TIME_LIMIT, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(doing, path, &error).with_source(error)),
            Err(_) => {
                let message = format!("no answer within {STORE_TIME_LIMIT:?}");
                Err(self.failed(doing, path, &message))
            }
        }
    }

    fn failed(&self, doing: &str, path: &Path, error: &dyn fmt::Display) -> SourceError {
        let message = format!(
            "the hand-off buffer cannot {doing} {path} in {}: {error}; make room there or mend it, and it goes on: \
             nothing is lost meanwhile",
            self.store
        );
        SourceError::new(SourceErrorKind::Unavailable, message)
    }
}
