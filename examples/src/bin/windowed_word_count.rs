//! Counts words, in total and in a sliding window, with durable state: embedded, no server, no account.
//!
//! Receivers are killed, a shard is split and two are merged while it runs. Each lease holds the checkpoint of its shard; snapshots
//! hold the counts together with the positions. The program fails unless every word is counted exactly once.
//!
//! ```text
//! cargo run -p examples --bin windowed_word_count
//! ```

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{TextInput, WordTotals, log_to_stderr};
use kinesis_streaming::prelude::*;
use kinesis_streaming::state::{PaneCounts, StateChanges};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing_subscriber::filter::LevelFilter;

const APPLICATION: &str = "windowed-word-count";
const STREAM: &str = "words";

/// The time limit to catch up after the last record was put.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// Count words with a state that survives kills.
#[derive(Debug, Parser)]
struct Arguments {
    /// Files or folders to read; by default this repository's own text.
    #[arg(long)]
    input: Vec<PathBuf>,
    /// The folder of the snapshots; by default a new folder that is removed at the end.
    #[arg(long)]
    state: Option<PathBuf>,
    /// How long the producer takes to put all lines.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// How many receivers are killed.
    #[arg(long, default_value_t = 5)]
    kills: usize,
}

/// The state of a word.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct WordCount {
    total: u64,
    recent: PaneCounts,
}

/// Counts words in total and in a window.
struct CountWords {
    window: SlidingWindow,
}

impl StateLogic for CountWords {
    type State = WordCount;

    fn schema(&self) -> StateSchema {
        StateSchema::new("word-counts", 1)
    }

    fn update(&self, record: &Record, state: &mut StateChanges<'_, WordCount>) -> Result<(), BoxError> {
        let arrival = record.approximate_arrival.ok_or("a record has no arrival time")?;
        let pane = self.window.pane_of(arrival);
        for word in std::str::from_utf8(&record.data)?.split_whitespace() {
            state.update_by_key(word, |counted| {
                let mut counted = counted.unwrap_or_default();
                counted.total += 1;
                counted.recent.add(pane, 1);
                Some(counted)
            });
        }
        Ok(())
    }

    fn merge(&self, _word: &str, mut one: WordCount, other: WordCount) -> WordCount {
        one.total += other.total;
        one.recent.merge(other.recent);
        one
    }

    fn expire(&self, counted: &mut WordCount, watermark: std::time::SystemTime) -> bool {
        counted.recent.expire(&self.window, watermark);
        true
    }
}

/// A receiver of this process and its state.
struct Worker {
    handle: ConsumerHandle,
    processors: StatefulProcessors<CountWords>,
    task: JoinHandle<Result<StopReport, BoxError>>,
}

struct Scene {
    stream: InMemoryStream,
    leases: InMemoryLeaseStore,
    store: StateStore,
    window: SlidingWindow,
    started: usize,
}

impl Scene {
    fn start(&mut self) -> Result<Worker, BoxError> {
        self.started += 1;
        let settings =
            StateSettings { snapshot_interval: Duration::from_secs(1), ..StateSettings::default() };
        let processors = stateful(CountWords { window: self.window }, self.store.clone(), settings)?;
        let receiver = Consumer::builder()
            .application(APPLICATION)
            .worker_id(format!("receiver-{}", self.started))
            .source(self.stream.clone())
            .lease_store(self.leases.clone())
            .failover_time(Duration::from_millis(1000))
            .checkpoint_interval(Duration::from_millis(500))
            .processors(processors.clone())
            .build()?;
        let handle = receiver.handle();
        Ok(Worker { handle, processors, task: tokio::spawn(async move { Ok(receiver.run().await?) }) })
    }

    /// Shows both positions of every shard: the checkpoint of the lease, and the position in the snapshot, which is never behind it.
    async fn show(&self, workers: &[Worker]) -> Result<(), BoxError> {
        let tail = |position: &Position| {
            let text = position.to_string();
            text[text.len().saturating_sub(6)..].to_owned()
        };
        for worker in workers {
            for shard in worker.processors.status() {
                let lease = self.leases.get(&shard.shard_id).await?.map(|lease| tail(&lease.checkpoint));
                println!(
                    "  {} of {}: lease ..{:<8} snapshot ..{:<8} {:>4} words, {:>5} records in no snapshot",
                    shard.shard_id,
                    worker.handle.status().worker_id,
                    lease.unwrap_or_default(),
                    shard.stored.as_ref().map(tail).unwrap_or_default(),
                    shard.keys,
                    shard.records_in_no_snapshot
                );
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr(LevelFilter::OFF);
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("windowed_word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole story. Returns whether every word was counted once.
async fn run(arguments: Arguments) -> Result<bool, BoxError> {
    let lines = TextInput::new(&arguments.input)?.pieces(0)?;
    let own_folder = std::env::temp_dir().join(format!("windowed-word-count-{}", std::process::id()));
    let folder = arguments.state.clone().unwrap_or_else(|| own_folder.clone());
    let mut scene = Scene {
        stream: InMemoryStream::new(STREAM, NonZeroUsize::MIN.saturating_add(1)),
        leases: InMemoryLeaseStore::new(),
        store: StateStore::directory(&folder)?,
        window: SlidingWindow::new(Duration::from_secs(5), Duration::from_secs(1))?,
        started: 0,
    };
    let mut workers = vec![scene.start()?, scene.start()?];
    let (mut truth, began_at) = (WordTotals::default(), Instant::now());
    let part = lines.len().div_ceil(arguments.kills + 1).max(1);
    for (index, line) in lines.iter().enumerate() {
        let share = index as f64 / lines.len() as f64;
        sleep_until(began_at + Duration::from_secs(arguments.seconds).mul_f64(share)).await;
        scene.stream.put(format!("line-{index}"), line.clone())?;
        truth.add_text(line);
        if index % part != part - 1 {
            continue;
        }
        scene.show(&workers).await?;
        let killed = workers.remove(0);
        killed.task.abort();
        println!(
            "{} of {} lines are put; killed {}",
            index + 1,
            lines.len(),
            killed.handle.status().worker_id
        );
        workers.push(scene.start()?);
        let open = scene.stream.open_shards();
        match index / part {
            0 => drop(scene.stream.split(&open[0])?),
            2 => drop(scene.stream.merge(&open[open.len() - 2], &open[open.len() - 1])?),
            _ => {}
        }
    }
    let limit = Instant::now() + CATCH_UP_LIMIT;
    let is_right = loop {
        let totals = workers[0].processors.read_totals(APPLICATION, STREAM).await?;
        let is_right = totals.state.len() == truth.distinct()
            && totals.state.iter().all(|(word, count)| count.total == truth.count(word));
        if is_right || Instant::now() > limit {
            let now = totals.state.watermark().unwrap_or(std::time::UNIX_EPOCH);
            let recent = |count: &WordCount| count.recent.count(&scene.window, now);
            println!("\nthe most frequent words, in total and in the last five seconds:");
            let mut words: Vec<_> = totals.state.iter().collect();
            words.sort_by_key(|(_, count)| std::cmp::Reverse(count.total));
            for (word, count) in words.into_iter().take(8) {
                println!("  {word:<16} {:>7} {:>7}", count.total, recent(count));
            }
            break is_right;
        }
        sleep(Duration::from_millis(200)).await;
    };
    scene.show(&workers).await?;
    for worker in workers {
        worker.handle.stop();
        worker.task.await??;
    }
    if arguments.state.is_none() {
        std::fs::remove_dir_all(own_folder)?;
    }
    println!("{}", if is_right { "every word is counted exactly once" } else { "THE TOTALS ARE WRONG" });
    Ok(is_right)
}
