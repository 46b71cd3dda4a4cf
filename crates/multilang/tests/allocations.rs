//! Bounds the memory that is allocated between a record and its line on the pipe of the child: what base64 needs, and a margin.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may

use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{BoxError, FencingToken, Position, ShardId, StoreError, WorkerId};
use multilang::MultilangError;
use multilang::child::{ChildLauncher, ChildLimits, ChildOutput, ChildProcess, LaunchedChild};
use multilang::processor::{ChildProcessorOptions, ChildProcessors, RestartPolicy};
use shard_worker::{
    InMemoryStream, RecordProcessorFactory, Shard, ShardContext, ShardEndRecorder, ShardProgress,
    ShardWorker, ShardWorkerOptions, WatchdogCommands, batch_handler,
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, duplex};
use tokio::sync::{mpsc, watch};

/// The records of the stream, and of each batch.
const RECORDS: usize = 3000;
const BATCH_RECORDS: usize = 300;

/// The bytes of a payload.
const PAYLOAD_BYTES: usize = 1024;

/// What a record may take in addition to its payload in base64: its key, its numbers, the names of its fields, and its positions.
const MARGIN_OF_A_RECORD: u64 = 256;

/// What a batch may take: its messages, its answer, its calls.
const MARGIN_OF_A_BATCH: u64 = 32 * 1024;

/// The longest wait, in virtual time.
const LIMIT: Duration = Duration::from_secs(3600);

/// The time between two looks at the progress, in virtual time.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The pipes of a child that answers each action and keeps nothing of it.
#[derive(Debug)]
struct Forgetful {
    bytes: Arc<AtomicUsize>,
}

struct Input {
    bytes: Arc<AtomicUsize>,
    /// The start of the line.
    start: Vec<u8>,
    actions: mpsc::Sender<String>,
}

/// As many bytes of a line as have its action.
const START_BYTES: usize = 64;

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let missing = START_BYTES - self.start.len();
        self.start.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        if bytes.ends_with(b"\n") {
            let start = String::from_utf8_lossy(&self.start).into_owned();
            self.actions.try_send(start.split('"').nth(3).unwrap().to_owned()).unwrap();
            self.start.clear();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ChildLauncher for Forgetful {
    fn launch(&self, _shard_id: &Arc<str>) -> Result<LaunchedChild, MultilangError> {
        let (actions, mut received) = mpsc::channel::<String>(4);
        let input = Input { bytes: self.bytes.clone(), start: Vec::with_capacity(START_BYTES), actions };
        let (mut answers, output) = duplex(4096);
        tokio::spawn(async move {
            while let Some(action) = received.recv().await {
                let status = format!("{{\"action\": \"status\", \"responseFor\": \"{action}\"}}\n");
                answers.write_all(status.as_bytes()).await.unwrap();
            }
        });
        Ok(LaunchedChild { input: Box::new(input), output: Box::new(output), process: Box::new(Running) })
    }
}

#[derive(Debug)]
struct Running;

#[async_trait]
impl ChildProcess for Running {
    async fn exited(&mut self) -> String {
        "exit status 0".to_owned()
    }

    fn terminate(&mut self) {}

    fn kill(&mut self) {}
}

#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl ChildOutput for Nowhere {
    async fn stdout_line(&self, _: &str, _: &[u8], _: u64) {}

    async fn stderr_bytes(&self, _: &str, _: &[u8]) {}
}

#[async_trait]
impl CheckpointWriter for Nowhere {
    async fn write(&self, _: &Position) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Nowhere {
    async fn record_end(&self, _: &[Shard]) -> Result<(), BoxError> {
        Ok(())
    }
}

fn stream() -> InMemoryStream {
    let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
    for number in 0..RECORDS {
        stream.put(number.to_string(), vec![7; PAYLOAD_BYTES]).unwrap();
    }
    stream
}

/// The bytes that are allocated while these processors get all records.
fn allocated(
    stream: &InMemoryStream,
    processors: Arc<dyn RecordProcessorFactory>,
    is_done: impl Fn(&ShardProgress) -> bool,
) -> u64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let counts = allocation_counter::measure(|| {
        runtime.block_on(async {
            let (sender, progress) = watch::channel(ShardProgress::default());
            let worker = worker(stream, processors, sender);
            let stopping = worker.context.stopping.clone();
            let running = tokio::spawn(worker.run());
            let all = async {
                while !is_done(&progress.borrow()) {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            };
            tokio::time::timeout(LIMIT, all).await.unwrap();
            stopping.cancel();
            running.await.unwrap();
        });
    });
    counts.bytes_total
}

fn worker(
    stream: &InMemoryStream,
    processors: Arc<dyn RecordProcessorFactory>,
    progress: watch::Sender<ShardProgress>,
) -> ShardWorker {
    let owner = FencingToken::new(WorkerId::new("w").unwrap(), 1);
    let rng = Rng::with_seed(17);
    let cadence = Cadence { interval: Duration::from_secs(1), records: NonZeroU64::new(1) };
    let mut options = ShardWorkerOptions::default();
    options.max_unacknowledged_records = NonZeroUsize::MAX;
    options.max_unacknowledged_bytes = u64::MAX;
    options.batch_limits.max_records = NonZeroUsize::new(BATCH_RECORDS);
    ShardWorker {
        context: ShardContext::new("app", "s", ShardId::numbered(0), owner),
        source: Arc::new(stream.clone()),
        processors,
        checkpointer: Checkpointer::start(
            Arc::new(Nowhere),
            Position::TrimHorizon,
            cadence,
            RetryPolicy::default(),
            rng.clone(),
        ),
        end_recorder: Arc::new(Nowhere),
        watchdog_commands: WatchdogCommands::default(),
        progress,
        options,
        rng,
    }
}

#[test]
fn payloads_are_copied_once_as_base64() {
    let stream = stream();
    let nothing = batch_handler(|_, _| async { Ok(()) });
    let without_children =
        allocated(&stream, Arc::new(nothing), |progress| progress.acknowledged_records == RECORDS as u64);
    let bytes = Arc::new(AtomicUsize::new(0));
    let children = ChildProcessors::new(
        Arc::new(Forgetful { bytes: bytes.clone() }),
        Arc::new(Nowhere),
        ChildProcessorOptions::new(ChildLimits::default(), RestartPolicy::NEVER, 17),
        |failure| panic!("{failure:?}"),
    );
    let encoded = RECORDS * PAYLOAD_BYTES.div_ceil(3) * 4;
    // The child acknowledges nothing.
    let with_children =
        allocated(&stream, Arc::new(children), |_| bytes.load(Ordering::Relaxed) > encoded + RECORDS * 64);
    let added = with_children - without_children;
    let payload = RECORDS * PAYLOAD_BYTES;
    println!("{added} bytes allocated for {payload} bytes of payload, of which base64 needs {encoded}");
    let allowed = encoded as u64
        + RECORDS as u64 * MARGIN_OF_A_RECORD
        + (RECORDS / BATCH_RECORDS) as u64 * MARGIN_OF_A_BATCH;
    assert!(added <= allowed, "{added} bytes allocated, {allowed} are allowed");
}
