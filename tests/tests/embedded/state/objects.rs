//! An object store in memory that outlives the workers of a test, and fails, waits, hangs, or crashes its caller on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use kinesis_streaming::prelude::{Position, ShardId, async_trait};
use kinesis_streaming::state::decode_snapshot_header;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

#[derive(Clone)]
pub(crate) struct Objects {
    /// The stored objects, without faults.
    pub(crate) kept: Arc<InMemory>,
    faults: Arc<Mutex<Faults>>,
    /// Notified when the test has to crash the caller.
    pub(crate) crash: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct Faults {
    /// Writes fail.
    pub(crate) fails_writes: bool,
    /// Writes are applied, and their answers are lost.
    pub(crate) loses_answers: bool,
    /// Requests are never answered.
    pub(crate) hangs: bool,
    /// The store does not support conditional writes.
    pub(crate) lacks_conditions: bool,
    /// The longest wait of a request before its effect, and after it, in milliseconds; drawn with this generator.
    pub(crate) latency: Option<(fastrand::Rng, u64)>,
    /// Crash the caller at the request with this number, before (`false`) or after (`true`) its effect.
    pub(crate) crash_at: Option<(usize, bool)>,
    /// The number of requests so far.
    pub(crate) requests: usize,
    /// The snapshots written: the shard, and the position that the snapshot covers.
    pub(crate) written: Vec<(ShardId, Position)>,
    pub(crate) covered: BTreeMap<ShardId, Position>,
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self { kept: Arc::new(InMemory::new()), faults: Arc::default(), crash: Arc::new(Notify::new()) }
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.faults.lock().unwrap())
    }

    /// All paths, in order.
    pub(crate) async fn paths(&self) -> Vec<Path> {
        let mut paths: Vec<Path> =
            self.kept.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
        paths.sort();
        paths
    }

    /// The newest snapshot of a shard.
    pub(crate) async fn newest(&self, shard_id: &ShardId) -> Path {
        let of_shard = |path: &Path| {
            path.as_ref().contains(&format!("/{shard_id}/")) && path.as_ref().ends_with(".snapshot")
        };
        self.paths().await.into_iter().rfind(of_shard).unwrap()
    }

    pub(crate) async fn read(&self, path: &Path) -> Bytes {
        self.kept.get(path).await.unwrap().bytes().await.unwrap()
    }

    /// Waits before the effect of a request, as the faults demand. Never returns when the caller has to crash.
    async fn enter(&self) -> Duration {
        let (before, after, hangs, crashes) = self.with(|faults| {
            faults.requests += 1;
            let mut wait = || {
                let (rng, millis) = faults.latency.as_mut()?;
                Some(Duration::from_millis(rng.u64(0..=*millis)))
            };
            let (before, after) = (wait().unwrap_or_default(), wait().unwrap_or_default());
            (before, after, faults.hangs, faults.crash_at == Some((faults.requests, false)))
        });
        if crashes {
            self.crash.notify_one();
        }
        if hangs || crashes {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(before).await;
        after
    }

    async fn leave(&self, after: Duration) {
        if self.with(|faults| faults.crash_at == Some((faults.requests, true))) {
            self.crash.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(after).await;
    }

    fn failure(what: &str) -> Error {
        Error::Generic { store: "test", source: what.to_owned().into() }
    }

    async fn put_now(&self, path: Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.kept.put_opts(&path, payload.clone(), options).await?;
        if let Ok(header) = decode_snapshot_header(&Bytes::from(payload)) {
            self.with(|faults| {
                let covers = header.covers().clone();
                faults.written.push((header.shard_id.clone(), covers.clone()));
                let covered = faults.covered.entry(header.shard_id).or_insert(Position::AtTimestamp);
                *covered = covers.max(covered.clone());
            });
        }
        Ok(put)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Objects")
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Objects of a test")
    }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (is_late, fails, loses_answers, lacks_conditions) = self.with(|faults| {
            let is_late = faults.latency.as_mut().is_some_and(|(rng, _)| rng.bool());
            (is_late, faults.fails_writes, faults.loses_answers, faults.lacks_conditions)
        });
        if lacks_conditions && options.mode == PutMode::Create {
            return Err(Error::NotImplemented {
                operation: "create".to_owned(),
                implementer: "test".to_owned(),
            });
        }
        if is_late {
            // The request is in flight: it arrives even when its caller has crashed.
            let (objects, path) = (self.clone(), path.clone());
            let arriving = tokio::spawn(async move {
                let after = objects.enter().await;
                let put = objects.put_now(path, payload, options).await;
                objects.leave(after).await;
                put
            });
            return arriving.await.unwrap_or_else(|_| Err(Self::failure("the runtime is gone")));
        }
        let after = self.enter().await;
        if fails {
            return Err(Self::failure("no space left"));
        }
        let put = self.put_now(path.clone(), payload, options).await;
        self.leave(after).await;
        if loses_answers { Err(Self::failure("the connection broke")) } else { put }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Self::failure("snapshots are not written in parts"))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let after = self.enter().await;
        let got = self.kept.get_opts(path, options).await;
        self.leave(after).await;
        got
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        paths
            .then(move |path| {
                let objects = objects.clone();
                async move {
                    let (path, after) = (path?, objects.enter().await);
                    let deleted = objects.kept.delete(&path).await;
                    objects.leave(after).await;
                    deleted.map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let after = objects.enter().await;
            let found: Vec<_> = objects.kept.list(prefix.as_ref()).collect().await;
            objects.leave(after).await;
            futures::stream::iter(found)
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.kept.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.kept.copy_opts(from, to, options).await
    }
}
