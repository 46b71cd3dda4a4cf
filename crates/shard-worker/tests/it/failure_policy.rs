//! Records that cannot be processed: retried, divided, stored as dead letters, skipped, or halting the shard.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lease_store::BoxError;
use shard_worker::{
    DeadLetter, DeadLetterSink, FailurePolicy, FileDeadLetters, InMemoryStream, LetterInJson, RecordBatch,
    RecordProcessorFactory, ShardOutcome, ShardState, StreamSource as _, batch_handler,
};

use crate::support::one_shard::OneShard;
use crate::support::texts;

const THREE: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

/// The texts of each batch that a handler got.
type Batches = Arc<Mutex<Vec<Vec<String>>>>;

/// A handler that fails with each batch that holds one of these records, while `fails` is set.
fn failing_on(
    poison: &'static [&'static str],
    fails: &Arc<AtomicBool>,
) -> (impl RecordProcessorFactory + use<>, Batches) {
    let batches = Batches::default();
    let (noted, fails) = (batches.clone(), fails.clone());
    let factory = batch_handler(move |_, batch: RecordBatch| {
        let texts = texts(&batch);
        let found = texts.iter().find(|text| poison.contains(&text.as_str())).cloned();
        noted.lock().unwrap().push(texts);
        let fails = fails.load(Ordering::Relaxed);
        async move {
            match found {
                Some(text) if fails => Err(format!("cannot digest {text}").into()),
                _ => Ok(()),
            }
        }
    });
    (factory, batches)
}

fn always() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

/// The letters in a stream of one shard.
async fn letters(stream: &InMemoryStream) -> Vec<LetterInJson> {
    let shard_id = stream.open_shards().swap_remove(0);
    let mut source = stream.open(&shard_id, &shard_worker::ReadFrom::TrimHorizon).await.unwrap();
    let batch = source.next_batch().await.unwrap();
    batch.records.iter().map(|record| serde_json::from_slice(&record.data).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_poison_record_is_found_by_division_and_dead_lettered() {
    let shard = OneShard::with(0..10);
    let sink = InMemoryStream::new("rejected", NonZeroUsize::MIN);
    let (factory, batches) = failing_on(&["3", "7"], &always());
    let policy = FailurePolicy::dead_letters(sink.clone()).attempts(THREE);
    let running = shard.start(factory, policy, |_| {});
    running.wait_for("all is passed", |progress| progress.acknowledged_records == 10).await;
    let letters = letters(&sink).await;
    let found: Vec<_> =
        letters.iter().map(|letter| (letter.partition_key.as_deref(), letter.attempts)).collect();
    assert_eq!(found, [(Some("3"), 3), (Some("7"), 3)]);
    assert_eq!(letters[0].error, "cannot digest 3");
    assert_eq!(letters[0].data, "Mw==");
    assert!(letters[0].id.starts_with("s/shardId-000000000000/"), "{}", letters[0].id);
    assert_eq!(running.progress().dead_letters, 2);
    // All other records succeeded in some batch, in the order of the shard.
    let batches = batches.lock().unwrap().clone();
    let good: Vec<String> = batches
        .iter()
        .filter(|batch| !batch.iter().any(|text| text == "3" || text == "7"))
        .flatten()
        .cloned()
        .collect();
    assert_eq!(good, ["0", "1", "2", "4", "5", "6", "8", "9"]);
    assert_eq!(
        batches[..3],
        [batches[0].clone(), batches[0].clone(), batches[0].clone()],
        "first as a whole"
    );
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
}

/// A sink that fails or panics `failures` times.
#[derive(Debug, Clone)]
struct Failing {
    failures: Arc<AtomicU32>,
    stored: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl DeadLetterSink for Failing {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let left = self.failures.load(Ordering::Relaxed);
        if left > 0 {
            self.failures.store(left - 1, Ordering::Relaxed);
            assert_ne!(left, 2, "a bug in the sink");
            return Err("the sink is away".into());
        }
        self.stored.lock().unwrap().push(letter.id());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_sink_delays_the_shard_and_loses_nothing() {
    let shard = OneShard::with(0..4);
    let sink = Failing { failures: Arc::new(AtomicU32::new(20)), stored: Arc::default() };
    let (factory, _) = failing_on(&["1"], &always());
    let policy = FailurePolicy::dead_letters(sink.clone()).attempts(NonZeroU32::MIN);
    let running = shard.start(factory, policy, |_| {});
    running
        .wait_for("the sink fails", |progress| {
            progress.last_error.as_deref() == Some("the sink is away") && progress.acknowledged_records == 1
        })
        .await;
    assert_eq!(running.progress().dead_letters, 0);
    running.wait_for("all is passed", |progress| progress.acknowledged_records == 4).await;
    assert_eq!(sink.stored.lock().unwrap().len(), 1);
    assert_eq!(running.progress().dead_letters, 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn skipped_records_are_counted_alone_or_as_a_whole_batch() {
    for (divides, skipped) in [(true, 1), (false, 4)] {
        let shard = OneShard::with(0..4);
        let (factory, _) = failing_on(&["1"], &always());
        let running = shard.start(factory, FailurePolicy::skip().attempts(THREE).divide(divides), |_| {});
        running.wait_for("all is passed", |progress| progress.acknowledged_records == 4).await;
        assert_eq!(running.progress().skipped_records, skipped);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_halted_shard_passes_nothing_and_resumes_after_the_outage() {
    let shard = OneShard::with(0..4);
    let fails = always();
    let (factory, batches) = failing_on(&["1"], &fails);
    let running = shard.start(factory, FailurePolicy::halt().attempts(THREE), |_| {});
    running.wait_for("it is halted", |progress| progress.state == ShardState::Halted).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let progress = running.progress();
    assert_eq!((progress.acknowledged_records, progress.state), (0, ShardState::Halted));
    assert_eq!(progress.last_error.as_deref(), Some("cannot digest 1"));
    assert!(batches.lock().unwrap().iter().all(|batch| batch.len() == 4), "always the same batch");
    assert!(
        (100..400).contains(&progress.failed_attempts),
        "at long intervals: {}",
        progress.failed_attempts
    );
    fails.store(false, Ordering::Relaxed);
    running.wait_for("all is processed", |progress| progress.acknowledged_records == 4).await;
    assert_eq!(running.progress().last_error, None);
    running.stop().await;
}

/// A handler that decodes each batch as numbers, and counts its calls.
fn decoding() -> (impl RecordProcessorFactory + use<>, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let factory = batch_handler(move |_, batch: RecordBatch| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(batch.json::<u32>().map(drop)?) }
    });
    (factory, calls)
}

#[tokio::test(start_paused = true)]
async fn undecodable_record_is_a_dead_letter_without_waits() {
    let shard =
        OneShard::with((0..10).map(|number| if number == 7 { "{".to_owned() } else { number.to_string() }));
    let sink = InMemoryStream::new("rejected", NonZeroUsize::MIN);
    let (factory, calls) = decoding();
    let started_at = tokio::time::Instant::now();
    let running = shard.start(factory, FailurePolicy::dead_letters(sink.clone()), |_| {});
    running.wait_for("all is passed", |progress| progress.acknowledged_records == 10).await;
    assert!(started_at.elapsed() < Duration::from_secs(3), "held for {:?}", started_at.elapsed());
    // 10 records, then 5 + 5, 3 + 2, 2 + 1 and 1 + 1 of them.
    assert!(calls.load(Ordering::Relaxed) <= 9, "{} calls", calls.load(Ordering::Relaxed));
    let letters = letters(&sink).await;
    assert_eq!((letters.len(), letters[0].attempts), (1, 1));
    assert!(letters[0].error.ends_with("cannot be decoded"), "{}", letters[0].error);
    assert_eq!(letters[0].causes, ["JSON Data error at line 1 column 0"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn permanent_failure_halts_at_once_at_long_intervals() {
    let shard = OneShard::with(["{"]);
    let (factory, calls) = decoding();
    let running = shard.start(factory, FailurePolicy::halt(), |_| {});
    running.wait_for("it is halted", |progress| progress.state == ShardState::Halted).await;
    assert_eq!(running.progress().failed_attempts, 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let calls = calls.load(Ordering::Relaxed);
    assert!((100..400).contains(&calls), "retried at long intervals: {calls}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_halting_policy_can_divide_and_halt_at_the_poison() {
    let shard = OneShard::with(0..4);
    let (factory, batches) = failing_on(&["2"], &always());
    let running = shard.start(factory, FailurePolicy::halt().attempts(THREE).divide(true), |_| {});
    running.wait_for("it is halted", |progress| progress.state == ShardState::Halted).await;
    assert_eq!(running.progress().acknowledged_records, 2);
    assert_eq!(batches.lock().unwrap().last().unwrap(), &["2"]);
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: false });
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_cancelled() {
    let shard = OneShard::with(0..2);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let hangs_twice = batch_handler(move |_, _| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if call < 2 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let policy = FailurePolicy::halt().time_limit(Duration::from_secs(30));
    let running = shard.start(hangs_twice, policy, |_| {});
    running.wait_for("it is cancelled", |progress| progress.failed_attempts == 1).await;
    assert!(running.progress().last_error.unwrap().contains("longer than 30s"));
    running.wait_for("it succeeds", |progress| progress.acknowledged_records == 2).await;
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    running.stop().await;
}

#[tokio::test]
async fn letters_in_a_file_survive_an_unfinished_line() {
    let directory = std::env::temp_dir().join(format!("dead-letters-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("letters.jsonl");
    std::fs::write(&path, b"{\"id\": \"cut o").unwrap();
    let letter = |number: u128| {
        let record = shard_worker::Record::new(number.into(), vec![0xff, 0x00].into())
            .with_sub_sequence_number(2)
            .with_partition_key(Some("key".into()))
            .with_arrival(Some(std::time::UNIX_EPOCH + Duration::from_millis(1500)));
        DeadLetter::new("a", "s", lease_store::ShardId::numbered(0), record, "two\nlines")
    };
    let sink = FileDeadLetters::new(&path);
    sink.put(&letter(1)).await.unwrap();
    sink.put(&letter(2)).await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let read: LetterInJson = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(read.id, "s/shardId-000000000000/2/2");
    assert_eq!((read.error.as_str(), read.data.as_str()), ("two\nlines", "/wA="));
    assert_eq!(read.approximate_arrival_ms, Some(1500));

    let nowhere = FileDeadLetters::new(directory.join("missing").join("letters.jsonl"));
    let error = nowhere.put(&letter(1)).await.unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("s/shardId-000000000000/1/2"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}
