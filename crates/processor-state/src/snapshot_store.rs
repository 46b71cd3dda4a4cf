//! The store of snapshots: a directory, or any object store.
//!
//! Snapshots are named `{prefix}/{application}/{stream}/{shard}/{lease counter}-{incarnation}-{number}.snapshot`. Next to a
//! parent's snapshots lies an empty object for each child that took over its part: `{child}.{start}-{end}.heir`.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt as _;
use lease_store::{HashKeyRange, ShardId};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::time::{Duration, timeout};

use crate::error::{StateError, StateErrorKind};

/// The most objects of one shard that are read from a listing. A shard has a handful, unless deletions fail for long.
const MAX_OBJECTS_OF_A_SHARD: usize = 10_000;

/// How many names a write tries. Names are unique, so a name exists only after a write whose answer was lost.
const MAX_NAMES_TRIED: u64 = 5;

const SNAPSHOT_SUFFIX: &str = ".snapshot";
const TAKEOVER_SUFFIX: &str = ".heir";

/// The store of snapshots. Clones share it.
///
/// ```no_run
/// use processor_state::StateStore;
///
/// let store = StateStore::directory("/var/lib/billing/state")?;
/// assert!(!store.is_volatile());
/// assert!(StateStore::volatile().is_volatile(), "for tests: lost with the process");
/// # Ok::<(), lease_store::BoxError>(())
/// ```
#[derive(Clone)]
pub struct StateStore {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    is_volatile: bool,
}

/// The name of a snapshot. The newest snapshot has the largest name: a later owner of the shard has a larger lease counter, a
/// restarted processor under the same lease a larger incarnation, and a later snapshot of a processor a larger number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SnapshotName {
    /// The counter of the lease when its owner took it.
    pub(crate) lease_counter: u64,
    /// The number of the processor under one lease.
    pub(crate) incarnation: u32,
    /// The number of the snapshot of one processor.
    pub(crate) number: u64,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lease_counter, incarnation, number } = self;
        write!(formatter, "{lease_counter:020}-{incarnation:010}-{number:010}{SNAPSHOT_SUFFIX}")
    }
}

impl SnapshotName {
    /// Parses a name; `None` for other file names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(SNAPSHOT_SUFFIX)?.split('-');
        let name = Self {
            lease_counter: parts.next()?.parse().ok()?,
            incarnation: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && name.to_string() == text).then_some(name)
    }
}

/// The stored objects of one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardObjects {
    /// The snapshots, oldest first.
    pub(crate) snapshots: Vec<SnapshotName>,
    /// The children that took over their part of the state, with their hash-key ranges.
    pub(crate) takeovers: Vec<(ShardId, HashKeyRange)>,
}

impl ShardObjects {
    fn add(&mut self, name: &str) {
        if let Some(name) = SnapshotName::parse(name) {
            self.snapshots.push(name);
        } else if let Some(takeover) = parse_takeover(name) {
            self.takeovers.push(takeover);
        }
    }
}

fn takeover_name(child: &ShardId, range: HashKeyRange) -> String {
    format!("{child}.{}-{}{TAKEOVER_SUFFIX}", range.start(), range.end())
}

fn parse_takeover(text: &str) -> Option<(ShardId, HashKeyRange)> {
    let (child, range) = text.strip_suffix(TAKEOVER_SUFFIX)?.rsplit_once('.')?;
    let (start, end) = range.split_once('-')?;
    Some((child.parse().ok()?, HashKeyRange::new(start.parse().ok()?, end.parse().ok()?).ok()?))
}

impl fmt::Debug for StateStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StateStore({}, prefix {:?})", self.objects, self.prefix.as_ref())
    }
}

impl StateStore {
    /// Uses a directory, and creates it if it does not exist. Each snapshot is synced to disk. A fleet on several machines
    /// needs a directory that all of them share.
    ///
    /// # Errors
    /// `Invalid` when the path is no directory, or it cannot be created.
    pub fn directory(path: impl AsRef<std::path::Path>) -> Result<Self, StateError> {
        let path = path.as_ref();
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
            StateError::new(
                StateErrorKind::Invalid,
                format!(
                    "the state directory {} cannot be used: {error}; choose one that this process may write to",
                    path.display()
                ),
            )
            .with_source(error)
        };
        std::fs::create_dir_all(path).map_err(|error| invalid(error.into()))?;
        let objects = LocalFileSystem::new_with_prefix(path).map_err(|error| invalid(error.into()))?;
        Ok(Self { objects: Arc::new(objects.with_fsync(true)), prefix: Path::default(), is_volatile: false })
    }

    /// Uses an object store, below a prefix. `object_store`'s `InMemory` is recognised as volatile.
    pub fn object_store(objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let is_volatile = objects.to_string() == InMemory::new().to_string();
        Self { objects, prefix: Path::from(prefix), is_volatile }
    }

    /// Keeps snapshots in the memory of the process. A restart, and each move of a shard to another process, loses the state
    /// although the positions advance; see
    /// [`accepts_loss_at_restart`](crate::StateSettings::accepts_loss_at_restart).
    pub fn volatile() -> Self {
        Self { objects: Arc::new(InMemory::new()), prefix: Path::default(), is_volatile: true }
    }

    /// Whether a restart loses the snapshots.
    pub fn is_volatile(&self) -> bool {
        self.is_volatile
    }

    pub(crate) fn of_application(
        &self,
        application: &str,
        stream: &str,
        time_limit: Duration,
    ) -> ApplicationStore {
        let folder = self.prefix.clone().join(application).join(stream);
        ApplicationStore { objects: self.objects.clone(), folder, time_limit }
    }
}

/// The snapshots of one application and stream. Not `Debug`, because the text of a store may contain credentials.
#[derive(Clone)]
pub(crate) struct ApplicationStore {
    objects: Arc<dyn ObjectStore>,
    folder: Path,
    time_limit: Duration,
}

impl ApplicationStore {
    /// The folder of a shard's snapshots.
    pub(crate) fn shard_folder(&self, shard_id: &ShardId) -> Path {
        self.folder.clone().join(shard_id.as_str())
    }

    /// The path of a snapshot.
    pub(crate) fn path(&self, shard_id: &ShardId, name: SnapshotName) -> Path {
        self.shard_folder(shard_id).join(name.to_string())
    }

    async fn with_time_limit<T>(
        &self,
        action: &str,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, StateError> {
        match timeout(self.time_limit, request).await {
            Ok(answer) => answer.map_err(|error| store_error(action, error)),
            Err(_) => Err(StateError::new(
                StateErrorKind::Unavailable,
                format!("{action}: no answer within store_time_limit, {:?}", self.time_limit),
            )),
        }
    }

    pub(crate) async fn list_shard(&self, shard_id: &ShardId) -> Result<ShardObjects, StateError> {
        let folder = self.shard_folder(shard_id);
        let action = format!("listing the snapshots in {folder}");
        let mut found = self.objects.list(Some(&folder));
        let listing = async {
            let (mut objects, mut count) = (ShardObjects::default(), 0);
            while let Some(meta) = found.try_next().await? {
                count += 1;
                if count <= MAX_OBJECTS_OF_A_SHARD {
                    objects.add(meta.location.filename().unwrap_or_default());
                }
            }
            Ok((objects, count))
        };
        let (mut objects, count) = self.with_time_limit(&action, listing).await?;
        if count > MAX_OBJECTS_OF_A_SHARD {
            return Err(StateError::new(
                StateErrorKind::Invalid,
                format!(
                    "{folder} holds {count} objects, more than {MAX_OBJECTS_OF_A_SHARD}; remove those that are no snapshots"
                ),
            ));
        }
        objects.snapshots.sort_unstable();
        Ok(objects)
    }

    /// The newest snapshot of each shard.
    pub(crate) async fn list_newest(&self) -> Result<Vec<(ShardId, SnapshotName)>, StateError> {
        let action = format!("listing the snapshots in {}", self.folder);
        let mut found = self.objects.list(Some(&self.folder));
        let listing = async {
            let mut newest = std::collections::BTreeMap::new();
            while let Some(meta) = found.try_next().await? {
                let mut parts: Vec<_> = meta.location.parts().collect();
                let name = parts.pop().and_then(|name| SnapshotName::parse(name.as_ref()));
                let shard_id = parts.pop().and_then(|shard_id| shard_id.as_ref().parse::<ShardId>().ok());
                if let (Some(name), Some(shard_id)) = (name, shard_id) {
                    let newest = newest.entry(shard_id).or_insert(name);
                    *newest = name.max(*newest);
                }
            }
            Ok(newest.into_iter().collect())
        };
        self.with_time_limit(&action, listing).await
    }

    /// Reads a snapshot; `None` if it was deleted.
    pub(crate) async fn read(
        &self,
        shard_id: &ShardId,
        name: SnapshotName,
        max_bytes: usize,
    ) -> Result<Option<bytes::Bytes>, StateError> {
        let path = self.path(shard_id, name);
        let action = format!("reading the snapshot {path}");
        let reading = async {
            let found = match self.objects.get(&path).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let size = found.meta.size;
            if size > max_bytes as u64 {
                return Ok(Some(Err(size)));
            }
            Ok(Some(Ok(found.bytes().await?)))
        };
        match self.with_time_limit(&action, reading).await? {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(size)) => Err(StateError::new(
                StateErrorKind::TooLarge,
                format!(
                    "the snapshot {path} has {size} bytes, more than max_snapshot_bytes = {max_bytes}; raise the limit"
                ),
            )),
        }
    }

    /// Writes a snapshot under the first free name, and returns that name.
    pub(crate) async fn write(
        &self,
        shard_id: &ShardId,
        mut name: SnapshotName,
        bytes: Vec<u8>,
    ) -> Result<SnapshotName, StateError> {
        let payload = PutPayload::from(bytes);
        for _ in 0..MAX_NAMES_TRIED {
            let path = self.path(shard_id, name);
            let action = format!("writing the snapshot {path}");
            if self.with_time_limit(&action, self.put(&path, payload.clone())).await? {
                return Ok(name);
            }
            name.number += 1;
        }
        Err(StateError::new(
            StateErrorKind::Unavailable,
            format!("{MAX_NAMES_TRIED} snapshot names before {} exist already", self.path(shard_id, name)),
        ))
    }

    /// Creates an object; `false` if the name exists already.
    async fn put(&self, path: &Path, payload: PutPayload) -> Result<bool, object_store::Error> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(path, payload.clone(), create).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            // Names are unique without the condition too; it only guards against a bug in the naming.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                self.objects.put(path, payload).await.map(|_| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Records next to a parent's snapshots that a child took over its part of the state.
    pub(crate) async fn record_takeover(
        &self,
        parent: &ShardId,
        child: &ShardId,
        range: HashKeyRange,
    ) -> Result<(), StateError> {
        let path = self.shard_folder(parent).join(takeover_name(child, range));
        let action = format!("recording the takeover in {path}");
        self.with_time_limit(&action, self.objects.put(&path, PutPayload::default())).await.map(drop)
    }

    pub(crate) async fn delete(&self, shard_id: &ShardId, name: SnapshotName) -> Result<(), StateError> {
        self.delete_object(&self.path(shard_id, name)).await
    }

    pub(crate) async fn delete_takeover(
        &self,
        parent: &ShardId,
        child: &ShardId,
        range: HashKeyRange,
    ) -> Result<(), StateError> {
        self.delete_object(&self.shard_folder(parent).join(takeover_name(child, range))).await
    }

    async fn delete_object(&self, path: &Path) -> Result<(), StateError> {
        let deleting = async {
            match self.objects.delete(path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.with_time_limit(&format!("deleting {path}"), deleting).await
    }
}

fn store_error(action: &str, error: object_store::Error) -> StateError {
    use object_store::Error as Cause;
    let kind = match &error {
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => StateErrorKind::Denied,
        _ => StateErrorKind::Unavailable,
    };
    StateError::new(kind, format!("{action}: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_owner_then_processor_then_number() {
        let name = |lease_counter, incarnation, number| SnapshotName { lease_counter, incarnation, number };
        let ascending = [name(0, 9, 9), name(9, 1, 11), name(9, 2, 1), name(10, 0, 0), name(u64::MAX, 0, 0)];
        let texts: Vec<String> = ascending.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted() && ascending.is_sorted());
        assert!(ascending.iter().zip(&texts).all(|(name, text)| SnapshotName::parse(text) == Some(*name)));
        for text in ["", ".snapshot", "1-1-1.snapshot", &texts[0].replace(".snap", "-1.snap"), &texts[0][1..]]
        {
            assert_eq!(SnapshotName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn takeover_names_round_trip() {
        let child = ShardId::numbered(7);
        for child in [child, ShardId::new("a.b-c").unwrap()] {
            let name = takeover_name(&child, HashKeyRange::FULL);
            assert_eq!(parse_takeover(&name), Some((child, HashKeyRange::FULL)));
        }
        assert_eq!(parse_takeover("shardId-000000000007.5-4.heir"), None);
    }

    #[test]
    fn in_memory_stores_are_volatile() {
        assert!(StateStore::volatile().is_volatile());
        assert!(StateStore::object_store(Arc::new(InMemory::new()), "states").is_volatile());
    }
}
