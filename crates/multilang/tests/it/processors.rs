//! Children as record processors of a shard worker: rows 13, 15 and 16 of the conformance table, and restarts.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{BoxError, FencingToken, Position, ShardId, StoreError, WorkerId};
use multilang::child::ChildLimits;
use multilang::processor::{ChildFailure, ChildProcessorOptions, ChildProcessors, RestartPolicy};
use shard_worker::{
    InMemoryStream, Shard, ShardContext, ShardEndRecorder, ShardOutcome, ShardProgress, ShardWorker,
    ShardWorkerOptions, WatchdogCommands,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Pipes, Recorded, Scripted};

/// The longest wait, in virtual time.
const LIMIT: Duration = Duration::from_secs(3600);

/// The newest checkpoint of the shard.
#[derive(Debug, Clone, Default)]
struct Stored(Arc<Mutex<Vec<Position>>>);

#[async_trait]
impl CheckpointWriter for Stored {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(position.clone());
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Stored {
    async fn record_end(&self, _children: &[Shard]) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(Position::ShardEnd);
        Ok(())
    }
}

type Failures = Arc<Mutex<Vec<ChildFailure>>>;

struct Running {
    worker: JoinHandle<ShardOutcome>,
    context: ShardContext,
    stored: Stored,
    failures: Failures,
    progress: watch::Receiver<ShardProgress>,
}

impl Running {
    fn checkpoint(&self) -> Option<Position> {
        self.stored.0.lock().unwrap().last().cloned()
    }

    /// The messages of the failures.
    fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().iter().map(|failure| failure.error.to_string()).collect()
    }
}

fn stream_of(texts: &[&str]) -> InMemoryStream {
    let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
    for text in texts {
        stream.put(*text, text.to_string()).unwrap();
    }
    stream
}

/// Runs the first shard with children, one record for each batch.
fn run(stream: &InMemoryStream, max_failures: u32, script: Scripted) -> Running {
    run_with_batches(stream, max_failures, 1, script)
}

/// Runs the first shard with children, this many records for each batch.
fn run_with_batches(stream: &InMemoryStream, max_failures: u32, records: usize, script: Scripted) -> Running {
    run_with(stream, max_failures, script, |options| {
        options.batch_limits.max_records = NonZeroUsize::new(records);
    })
}

/// Runs the first shard with children and these options.
fn run_with(
    stream: &InMemoryStream,
    max_failures: u32,
    script: Scripted,
    change: impl FnOnce(&mut ShardWorkerOptions),
) -> Running {
    let owner = FencingToken::new(WorkerId::new("w").unwrap(), 1);
    let context = ShardContext::new("app", "s", ShardId::numbered(0), owner);
    let (stored, failures) = (Stored::default(), Failures::default());
    let options = ChildProcessorOptions::new(ChildLimits::default(), RestartPolicy::new(max_failures), 17);
    let reported = failures.clone();
    let processors =
        ChildProcessors::new(Arc::new(script), Arc::new(Recorded::default()), options, move |failure| {
            reported.lock().unwrap().push(failure);
        });
    let rng = Rng::with_seed(17);
    let cadence = Cadence { interval: Duration::from_secs(1), records: NonZeroU64::new(1) };
    let (sender, progress) = watch::channel(ShardProgress::default());
    let mut worker_options = ShardWorkerOptions::default();
    worker_options.max_unacknowledged_records = NonZeroUsize::MAX;
    worker_options.max_unacknowledged_bytes = u64::MAX;
    change(&mut worker_options);
    let worker = ShardWorker {
        context: context.clone(),
        source: Arc::new(stream.clone()),
        processors: Arc::new(processors),
        checkpointer: Checkpointer::start(
            Arc::new(stored.clone()),
            Position::TrimHorizon,
            cadence,
            RetryPolicy::default(),
            rng.clone(),
        ),
        end_recorder: Arc::new(stored.clone()),
        watchdog_commands: WatchdogCommands::default(),
        progress: sender,
        options: worker_options,
        rng,
    };
    Running { worker: tokio::spawn(worker.run()), context, stored, failures, progress }
}

/// The payloads of a batch.
fn texts(batch: &serde_json::Value) -> Vec<String> {
    let decoded = |record: &serde_json::Value| {
        let data = base64_simd::STANDARD.decode_to_vec(record["data"].as_str().unwrap()).unwrap();
        String::from_utf8(data).unwrap()
    };
    batch["records"].as_array().unwrap().iter().map(decoded).collect()
}

/// What children have received, one text for each message; batches as their payloads.
type Journal = Arc<Mutex<Vec<String>>>;

/// Reads actions until the end of input, notes each, answers it, and checkpoints without a sequence number where `when` says
/// so.
async fn serve(mut pipes: Pipes, journal: Journal, when: fn(&str) -> bool) -> &'static str {
    while let Some(line) = pipes.read().await {
        let action = line["action"].as_str().unwrap().to_owned();
        let noted = match action.as_str() {
            "processRecords" => texts(&line).join(","),
            "initialize" => format!("initialize {}", line["sequenceNumber"].as_str().unwrap()),
            other => other.to_owned(),
        };
        journal.lock().unwrap().push(noted.clone());
        if when(&noted) {
            let error = pipes.checkpoint("\"sequenceNumber\": null").await["error"].clone();
            if !error.is_null() {
                journal.lock().unwrap().push(format!("refused {error}"));
            }
        }
        pipes.status(&action).await;
    }
    "exit status 0"
}

fn serving(journal: &Journal, when: fn(&str) -> bool) -> Scripted {
    let journal = journal.clone();
    Scripted::new(move |pipes: Pipes| serve(pipes, journal.clone(), when))
}

fn taken(journal: &Journal) -> Vec<String> {
    journal.lock().unwrap().clone()
}

/// Waits, in virtual time, until the children have received this many messages.
async fn until_received(journal: &Journal, count: usize) {
    for _ in 0..10_000 {
        if journal.lock().unwrap().len() >= count {
            // The answer of the last message is on the pipe.
            tokio::time::sleep(Duration::from_secs(2)).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("only {:?}", taken(journal));
}

#[tokio::test(start_paused = true)]
async fn only_a_checkpoint_of_the_child_moves_the_position() {
    let journal = Journal::default();
    let stream = stream_of(&["a", "b", "c"]);
    let running = run(&stream, 0, serving(&journal, |noted| noted == "b"));
    until_received(&journal, 4).await;
    let progress = running.progress.borrow().clone();
    assert_eq!(progress.acknowledged_records, 2);
    assert_eq!(running.checkpoint(), progress.acknowledged);
    assert_eq!(taken(&journal), ["initialize TRIM_HORIZON", "a", "b", "c"]);
    running.worker.abort();
}

#[tokio::test(start_paused = true)]
async fn stop_lets_the_child_checkpoint() {
    let journal = Journal::default();
    let running = run(&stream_of(&["a", "b"]), 0, serving(&journal, |noted| noted == "shutdownRequested"));
    until_received(&journal, 3).await;
    running.context.stopping.cancel();
    assert_eq!(running.worker.await.unwrap(), ShardOutcome::Stopped { drained: true });
    let expected = ["initialize TRIM_HORIZON", "a", "b", "shutdownRequested", "leaseLost"];
    assert_eq!(taken(&journal), expected);
    assert!(matches!(running.stored.0.lock().unwrap().last(), Some(Position::After(_))));
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_records_without_a_checkpoint() {
    let journal = Journal::default();
    let running = run(&stream_of(&["a", "b"]), 0, serving(&journal, |_| false));
    until_received(&journal, 3).await;
    running.context.stopping.cancel();
    let started_at = tokio::time::Instant::now();
    assert_eq!(running.worker.await.unwrap(), ShardOutcome::Stopped { drained: false });
    assert!(started_at.elapsed() < Duration::from_secs(1), "{:?}", started_at.elapsed());
    assert_eq!(running.stored.0.lock().unwrap().len(), 0);
    assert_eq!(taken(&journal).last().unwrap(), "leaseLost");
}

#[tokio::test(start_paused = true)]
async fn lost_lease_reaches_the_child_after_its_batch() {
    let journal = Journal::default();
    let noted = journal.clone();
    let script = Scripted::new(move |mut pipes: Pipes| {
        let journal = noted.clone();
        async move {
            pipes.serve("initialize").await;
            pipes.expect("processRecords").await;
            journal.lock().unwrap().push("batch".to_owned());
            tokio::time::sleep(Duration::from_secs(5)).await;
            let answer = pipes.checkpoint("\"sequenceNumber\": null").await;
            journal.lock().unwrap().push(answer["error"].as_str().unwrap_or("accepted").to_owned());
            pipes.status("processRecords").await;
            serve(pipes, journal, |_| false).await
        }
    });
    let running = run(&stream_of(&["a", "b"]), 0, script);
    until_received(&journal, 1).await;
    running.context.lease_lost.cancel();
    assert_eq!(running.worker.await.unwrap(), ShardOutcome::LeaseLost);
    assert_eq!(taken(&journal), ["batch", "ShutdownException", "leaseLost"]);
    assert_eq!(running.failures.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn shard_end_is_recorded_after_the_checkpoint_of_the_child() {
    for when in
        [(|noted| noted == "shardEnded") as fn(&str) -> bool, |noted| !noted.starts_with("initialize")]
    {
        let journal = Journal::default();
        let stream = stream_of(&["a", "b"]);
        stream.split(&ShardId::numbered(0)).unwrap();
        let running = run(&stream, 0, serving(&journal, when));
        assert_eq!(running.worker.await.unwrap(), ShardOutcome::Ended);
        assert_eq!(taken(&journal), ["initialize TRIM_HORIZON", "a", "b", "shardEnded"]);
        assert_eq!(running.stored.0.lock().unwrap().last(), Some(&Position::ShardEnd));
    }
}

#[tokio::test(start_paused = true)]
async fn shard_end_without_a_checkpoint_starts_another_child() {
    let journal = Journal::default();
    let started = Arc::new(AtomicUsize::new(0));
    let (noted, starts) = (journal.clone(), started.clone());
    let script = Scripted::new(move |pipes: Pipes| {
        // The third child checkpoints.
        let is_third = starts.fetch_add(1, Ordering::Relaxed) == 2;
        let when: fn(&str) -> bool =
            if is_third { |noted| noted == "shardEnded" } else { |noted| noted == "a" };
        serve(pipes, noted.clone(), when)
    });
    let stream = stream_of(&["a", "b"]);
    stream.split(&ShardId::numbered(0)).unwrap();
    let running = run(&stream, 5, script);
    let failures = running.failures.clone();
    assert_eq!(running.worker.await.unwrap(), ShardOutcome::Ended);
    assert_eq!(started.load(Ordering::Relaxed), 3);
    let failures = failures.lock().unwrap();
    assert!(failures.iter().all(|failure| !failure.is_final));
    assert!(failures[0].error.to_string().contains("without a checkpoint"), "{failures:?}");
    let batches: Vec<String> = taken(&journal).into_iter().filter(|noted| noted.len() == 1).collect();
    assert_eq!(batches, ["a", "b", "b", "b"], "only unacknowledged records repeat");
}

#[tokio::test(start_paused = true)]
async fn failed_child_is_replaced_at_its_last_checkpoint() {
    let journal = Journal::default();
    let started = Arc::new(AtomicUsize::new(0));
    let (noted, starts) = (journal.clone(), started.clone());
    let script = Scripted::new(move |mut pipes: Pipes| {
        let is_first = starts.fetch_add(1, Ordering::Relaxed) == 0;
        let journal = noted.clone();
        async move {
            if !is_first {
                return serve(pipes, journal, |noted| noted == "d").await;
            }
            pipes.serve("initialize").await;
            pipes.expect("processRecords").await;
            pipes.checkpoint("\"sequenceNumber\": null").await;
            pipes.status("processRecords").await;
            // Answered, and not checkpointed.
            pipes.serve("processRecords").await;
            pipes.expect("processRecords").await;
            "exit status 7"
        }
    });
    let running = run(&stream_of(&["a", "b", "c", "d"]), 3, script);
    until_received(&journal, 4).await;
    let received = taken(&journal);
    assert_eq!(received[1..], ["b", "c", "d"]);
    assert!(
        received[0].starts_with("initialize 4") || received[0] != "initialize TRIM_HORIZON",
        "{received:?}"
    );
    let failures = running.failures();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].contains("during processRecords") && failures[0].contains("exit status 7"),
        "{failures:?}"
    );
    assert_eq!(running.progress.borrow().acknowledged_records, 4);
    running.worker.abort();
}

#[tokio::test(start_paused = true)]
async fn child_is_given_up_after_the_stated_failures() {
    let script = Scripted::new(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        pipes.expect("processRecords").await;
        "exit status 1"
    });
    let running = run(&stream_of(&["a"]), 2, script);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    {
        let failures = running.failures.lock().unwrap();
        let finals: Vec<bool> = failures.iter().map(|failure| failure.is_final).collect();
        assert_eq!(finals, [false, false, true]);
    }
    assert_eq!(running.checkpoint(), None, "no record is skipped");
    running.worker.abort();
}

#[tokio::test(start_paused = true)]
async fn checkpoint_inside_a_batch_acknowledges_its_first_part() {
    let script = Scripted::new(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        let batch = pipes.expect("processRecords").await;
        let number = batch["records"][0]["sequenceNumber"].as_str().unwrap().to_owned();
        let answer = pipes.checkpoint(&format!("\"sequenceNumber\": \"{number}\"")).await;
        assert_eq!(answer["error"], serde_json::Value::Null);
        pipes.status("processRecords").await;
        pipes.until_eof().await;
        "exit status 0"
    });
    let stream = stream_of(&["a", "b", "c"]);
    let running = run_with_batches(&stream, 0, 3, script);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.progress.borrow().acknowledged_records, 1);
    assert_eq!(running.failures(), Vec::<String>::new());
    running.worker.abort();
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_the_next_start_of_a_child() {
    let journal = Journal::default();
    let noted = journal.clone();
    let script = Scripted::new(move |mut pipes: Pipes| {
        noted.lock().unwrap().push("started".to_owned());
        async move {
            pipes.expect("initialize").await;
            "exit status 1"
        }
    });
    let running = run(&stream_of(&["a"]), 100, script);
    // The wait before the next start is half a minute or longer by now.
    until_received(&journal, 7).await;
    running.context.stopping.cancel();
    let started_at = tokio::time::Instant::now();
    timeout(LIMIT, running.worker).await.unwrap().unwrap();
    assert!(started_at.elapsed() < Duration::from_secs(1), "{:?}", started_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lost_lease_does_not_wait_for_a_hung_child_for_ever() {
    let journal = Journal::default();
    let noted = journal.clone();
    let script = Scripted::new(move |mut pipes: Pipes| {
        let journal = noted.clone();
        async move {
            pipes.serve("initialize").await;
            pipes.expect("processRecords").await;
            journal.lock().unwrap().push("batch".to_owned());
            std::future::pending().await
        }
    });
    let running = run(&stream_of(&["a"]), 0, script);
    until_received(&journal, 1).await;
    running.context.lease_lost.cancel();
    let started_at = tokio::time::Instant::now();
    let outcome = timeout(LIMIT, running.worker).await.unwrap().unwrap();
    assert_eq!(outcome, ShardOutcome::LeaseLost);
    assert!(started_at.elapsed() <= Duration::from_secs(70), "{:?}", started_at.elapsed());
}

/// Children that want empty batches (`callProcessRecordsEvenForEmptyRecordList`).
fn run_with_empty_batches(stream: &InMemoryStream, max_failures: u32, script: Scripted) -> Running {
    run_with(stream, max_failures, script, |options| options.calls_for_empty_reads = true)
}

#[tokio::test(start_paused = true)]
async fn empty_batch_lets_the_child_checkpoint_later() {
    let journal = Journal::default();
    // An empty batch is noted as an empty text.
    let running = run_with_empty_batches(&stream_of(&["a"]), 0, serving(&journal, str::is_empty));
    until_received(&journal, 4).await;
    assert_eq!(taken(&journal)[..4], ["initialize TRIM_HORIZON", "a", "", ""]);
    let progress = running.progress.borrow().clone();
    assert_eq!(progress.acknowledged_records, 1);
    assert_eq!(running.checkpoint(), progress.acknowledged);
    assert_eq!(running.failures(), Vec::<String>::new());
    running.worker.abort();
}

#[tokio::test(start_paused = true)]
async fn child_that_fails_in_an_empty_batch_repeats_no_checkpoint() {
    let journal = Journal::default();
    let started = Arc::new(AtomicUsize::new(0));
    let (noted, starts) = (journal.clone(), started.clone());
    let script = Scripted::new(move |mut pipes: Pipes| {
        let (journal, is_first) = (noted.clone(), starts.fetch_add(1, Ordering::Relaxed) == 0);
        async move {
            if !is_first {
                return serve(pipes, journal, |noted| noted == "b").await;
            }
            pipes.serve("initialize").await;
            let batch = pipes.expect("processRecords").await;
            journal.lock().unwrap().push(texts(&batch).concat());
            pipes.checkpoint("\"sequenceNumber\": null").await;
            pipes.status("processRecords").await;
            pipes.expect("processRecords").await;
            "exit status 1"
        }
    });
    let stream = stream_of(&["a"]);
    let running = run_with_empty_batches(&stream, 5, script);
    until_received(&journal, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.failures().len(), 1, "a failed child gets no empty batch");
    stream.put("b", "b").unwrap();
    until_received(&journal, 3).await;
    let received = taken(&journal);
    assert!(
        received[1] != "initialize TRIM_HORIZON" && received[1].starts_with("initialize "),
        "{received:?}"
    );
    assert_eq!((&*received[0], &*received[2]), ("a", "b"));
    assert!(!received[2..].contains(&"a".to_owned()), "{received:?}");
    running.worker.abort();
}
