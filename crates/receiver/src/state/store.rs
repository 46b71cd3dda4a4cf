//! Where snapshots are kept: a directory, or any object store.
//!
//! `{prefix}/{application}/{stream}/{shard}/{lease counter}-{incarnation}-{number}.snapshot`, and beside a parent's
//! snapshots an empty object for each child that has taken over: `{child}.{start}-{end}.heir`.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt as _;
use lease_store::{HashKeyRange, ShardId};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::time::{Duration, timeout};

use super::error::store_error;
use super::{StateError, StateErrorKind};

/// The most snapshots and heirs of one shard that are looked at; there are a handful unless clean-up fails for long.
const MAX_OBJECTS_OF_A_SHARD: usize = 10_000;

/// How often a new name is tried when one is taken. Names are unique, so one is only taken after an answer that was lost.
const MAX_NAMES_TRIED: u64 = 5;

const SNAPSHOT_SUFFIX: &str = ".snapshot";
const HEIR_SUFFIX: &str = ".heir";

/// Where snapshots are kept. Clones are the same store.
#[derive(Clone)]
pub struct StateStore {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    is_volatile: bool,
}

/// The name of a snapshot. The newest is the largest: a later owner of the shard has a larger lease counter, a processor that
/// starts anew under the same lease a larger incarnation, and a later snapshot of the same processor a larger number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// The counter of the lease when its owner took it.
    pub lease_counter: u64,
    /// Counts the processors under one lease.
    pub incarnation: u32,
    /// Counts the snapshots of one processor.
    pub number: u64,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lease_counter, incarnation, number } = self;
        write!(formatter, "{lease_counter:020}-{incarnation:010}-{number:010}{SNAPSHOT_SUFFIX}")
    }
}

impl SnapshotName {
    /// Reads a name; `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(SNAPSHOT_SUFFIX)?.split('-');
        let name = Self {
            lease_counter: parts.next()?.parse().ok()?,
            incarnation: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && name.to_string() == text).then_some(name)
    }
}

/// What is kept of one shard.
#[derive(Debug, Default)]
pub(super) struct ShardObjects {
    /// The snapshots, oldest first.
    pub(super) snapshots: Vec<SnapshotName>,
    /// The children that have taken over, and for which hash keys.
    pub(super) heirs: Vec<(ShardId, HashKeyRange)>,
}

impl ShardObjects {
    fn add(&mut self, name: &str) {
        if let Some(name) = SnapshotName::parse(name) {
            self.snapshots.push(name);
        } else if let Some(heir) = parse_heir(name) {
            self.heirs.push(heir);
        }
    }
}

fn heir_name(child: &ShardId, range: HashKeyRange) -> String {
    format!("{child}.{}-{}{HEIR_SUFFIX}", range.start(), range.end())
}

fn parse_heir(text: &str) -> Option<(ShardId, HashKeyRange)> {
    let (child, range) = text.strip_suffix(HEIR_SUFFIX)?.rsplit_once('.')?;
    let (start, end) = range.split_once('-')?;
    Some((child.parse().ok()?, HashKeyRange::new(start.parse().ok()?, end.parse().ok()?).ok()?))
}

impl fmt::Debug for StateStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StateStore({}, prefix {:?})", self.objects, self.prefix.as_ref())
    }
}

impl StateStore {
    /// A local directory; it is created if need be. Every snapshot is written through to the disk. For a fleet on several
    /// machines it has to be one that all of them share.
    ///
    /// # Errors
    /// `Invalid` when it is not a directory, or cannot be made one.
    pub fn directory(path: impl AsRef<std::path::Path>) -> Result<Self, StateError> {
        let path = path.as_ref();
        let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
            StateError::new(
                StateErrorKind::Invalid,
                format!("the state cannot be kept in {}: {error}", path.display()),
            )
            .with_source(error)
        };
        std::fs::create_dir_all(path).map_err(|error| invalid(error.into()))?;
        let objects = LocalFileSystem::new_with_prefix(path).map_err(|error| invalid(error.into()))?;
        Ok(Self { objects: Arc::new(objects.with_fsync(true)), prefix: Path::default(), is_volatile: false })
    }

    /// An object store, below a prefix. The objects' store in the memory of the process is taken for what it is: one that
    /// keeps nothing.
    pub fn object_store(objects: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let is_volatile = objects.to_string() == InMemory::new().to_string();
        Self { objects, prefix: Path::from(prefix), is_volatile }
    }

    /// No store: snapshots stay in the memory of the process. A restart, and every move of a shard to another process, loses
    /// the state although the positions move on; see [`StateSettings::accepts_loss_at_restart`](super::StateSettings).
    pub fn volatile() -> Self {
        Self { objects: Arc::new(InMemory::new()), prefix: Path::default(), is_volatile: true }
    }

    /// Whether a restart loses what is kept.
    pub fn is_volatile(&self) -> bool {
        self.is_volatile
    }

    pub(super) fn of_application(
        &self,
        application: &str,
        stream: &str,
        time_limit: Duration,
    ) -> ApplicationStore {
        let folder = self.prefix.clone().join(application).join(stream);
        ApplicationStore { objects: self.objects.clone(), folder, time_limit }
    }
}

/// The snapshots of one application on one stream. Not `Debug`: what a store shows of itself may hold credentials.
#[derive(Clone)]
pub(super) struct ApplicationStore {
    objects: Arc<dyn ObjectStore>,
    folder: Path,
    time_limit: Duration,
}

impl ApplicationStore {
    /// Where the snapshots of a shard lie.
    pub(super) fn shard_folder(&self, shard_id: &ShardId) -> Path {
        self.folder.clone().join(shard_id.as_str())
    }

    /// Where a snapshot lies.
    pub(super) fn path(&self, shard_id: &ShardId, name: SnapshotName) -> Path {
        self.shard_folder(shard_id).join(name.to_string())
    }

    async fn in_time<T>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, StateError> {
        match timeout(self.time_limit, request).await {
            Ok(answer) => answer.map_err(|error| store_error(doing, error)),
            Err(_) => Err(StateError::new(
                StateErrorKind::Unavailable,
                format!("{doing}: no answer within {:?}; see store_time_limit", self.time_limit),
            )),
        }
    }

    pub(super) async fn list_shard(&self, shard_id: &ShardId) -> Result<ShardObjects, StateError> {
        let folder = self.shard_folder(shard_id);
        let doing = format!("listing the snapshots in {folder}");
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
        let (mut objects, count) = self.in_time(&doing, listing).await?;
        if count > MAX_OBJECTS_OF_A_SHARD {
            return Err(StateError::new(
                StateErrorKind::Invalid,
                format!(
                    "{folder} holds {count} objects, more than {MAX_OBJECTS_OF_A_SHARD}; remove what is no snapshot"
                ),
            ));
        }
        objects.snapshots.sort_unstable();
        Ok(objects)
    }

    /// The newest snapshot of each shard.
    pub(super) async fn list_newest(&self) -> Result<Vec<(ShardId, SnapshotName)>, StateError> {
        let doing = format!("listing the snapshots in {}", self.folder);
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
        self.in_time(&doing, listing).await
    }

    /// Reads a snapshot; `None`: it is gone.
    pub(super) async fn read(
        &self,
        shard_id: &ShardId,
        name: SnapshotName,
        max_bytes: usize,
    ) -> Result<Option<bytes::Bytes>, StateError> {
        let path = self.path(shard_id, name);
        let doing = format!("reading the snapshot {path}");
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
        match self.in_time(&doing, reading).await? {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(size)) => Err(StateError::new(
                StateErrorKind::TooLarge,
                format!(
                    "the snapshot {path} has {size} bytes, more than max_snapshot_bytes = {max_bytes}; allow more"
                ),
            )),
        }
    }

    /// Writes a snapshot under the first name that is free, which is returned.
    pub(super) async fn write(
        &self,
        shard_id: &ShardId,
        mut name: SnapshotName,
        bytes: Vec<u8>,
    ) -> Result<SnapshotName, StateError> {
        let payload = PutPayload::from(bytes);
        for _ in 0..MAX_NAMES_TRIED {
            let path = self.path(shard_id, name);
            let doing = format!("writing the snapshot {path}");
            if self.in_time(&doing, self.put(&path, payload.clone())).await? {
                return Ok(name);
            }
            name.number += 1;
        }
        Err(StateError::new(
            StateErrorKind::Unavailable,
            format!("{MAX_NAMES_TRIED} names of snapshots up to {} are taken", self.path(shard_id, name)),
        ))
    }

    /// `false`: the name is taken.
    async fn put(&self, path: &Path, payload: PutPayload) -> Result<bool, object_store::Error> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(path, payload.clone(), create).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            // Names are unique without the condition too, which only guards against a mistake in that.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                self.objects.put(path, payload).await.map(|_| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes beside a parent's snapshots that a child has taken over its part.
    pub(super) async fn note_heir(
        &self,
        parent: &ShardId,
        child: &ShardId,
        range: HashKeyRange,
    ) -> Result<(), StateError> {
        let path = self.shard_folder(parent).join(heir_name(child, range));
        let doing = format!("noting that the state is taken over in {path}");
        self.in_time(&doing, self.objects.put(&path, PutPayload::default())).await.map(drop)
    }

    pub(super) async fn delete(&self, shard_id: &ShardId, name: SnapshotName) -> Result<(), StateError> {
        self.delete_object(&self.path(shard_id, name)).await
    }

    pub(super) async fn delete_heir(
        &self,
        parent: &ShardId,
        child: &ShardId,
        range: HashKeyRange,
    ) -> Result<(), StateError> {
        self.delete_object(&self.shard_folder(parent).join(heir_name(child, range))).await
    }

    async fn delete_object(&self, path: &Path) -> Result<(), StateError> {
        let deleting = async {
            match self.objects.delete(path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.in_time(&format!("deleting {path}"), deleting).await
    }
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
    fn the_names_of_heirs_round_trip() {
        let child = ShardId::numbered(7);
        for child in [child, ShardId::new("a.b-c").unwrap()] {
            let name = heir_name(&child, HashKeyRange::FULL);
            assert_eq!(parse_heir(&name), Some((child, HashKeyRange::FULL)));
        }
        assert_eq!(parse_heir("shardId-000000000007.5-4.heir"), None);
    }

    #[test]
    fn a_store_that_keeps_nothing_is_known() {
        assert!(StateStore::volatile().is_volatile());
        assert!(StateStore::object_store(Arc::new(InMemory::new()), "states").is_volatile());
    }
}
