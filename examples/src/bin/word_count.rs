//! A fleet of receivers counts words, embedded: an in-memory stream and lease store, no server, no account.
//!
//! While lines of text are put into the stream, one shard is split, two are merged, and one receiver is ended abruptly. The program
//! fails unless every word is counted at the end.
//!
//! ```text
//! cargo run --bin word_count -- --receivers 3 --shards 4 --input some/folder
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser;
use examples::{DeliveryLog, TextInput, WordTotals, log_to_stderr};
use kinesis_streaming::prelude::*;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};
use tracing_subscriber::filter::LevelFilter;

/// How long the fleet may make no progress after the last record was put.
const NO_PROGRESS_LIMIT: Duration = Duration::from_secs(60);

/// How long the ledger may take for its queue after the receivers have stopped.
const LEDGER_END_LIMIT: Duration = Duration::from_secs(60);

/// How many words the final table shows.
const WORDS_SHOWN: usize = 12;

/// How many batches the handlers may be ahead of the ledger.
const LEDGER_QUEUE: usize = 1024;

/// The most records of a run. Larger input makes larger records.
const MAX_RECORDS: u64 = 200_000;

/// How many records are put between two points at which other tasks get their turn.
const PUTS_PER_TURN: usize = 64;

/// The least capacity of the stream, in bytes.
const MIN_CAPACITY_BYTES: usize = 64 * 1024 * 1024;

/// Capacity of the stream for each record beyond its payload, in bytes: mostly its partition key.
const KEY_BYTES: u64 = 256;

/// Count the words of a stream with a fleet of receivers, embedded.
#[derive(Debug, Parser)]
struct Arguments {
    /// Files or folders to read; by default this repository's own text.
    #[arg(long)]
    input: Vec<PathBuf>,
    /// How many receivers share the stream.
    #[arg(long, default_value = "3")]
    receivers: NonZeroUsize,
    /// How many shards the stream starts with.
    #[arg(long, default_value = "4")]
    shards: NonZeroUsize,
    /// How long the producer takes to put all lines, or longer if the machine is slower.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// After how many milliseconds without renewal the leases of a receiver expire.
    #[arg(long, default_value_t = 2000)]
    failover_time_ms: u64,
    /// Print a plain log even on a terminal.
    #[arg(long)]
    plain: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr(LevelFilter::OFF);
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole story. Returns whether every word was counted.
async fn run(arguments: Arguments) -> Result<bool, BoxError> {
    let mut view = View::new(arguments.plain || !std::io::stdout().is_terminal());
    let (lines, bytes) = read(arguments.input.clone(), &mut view).await?;
    let capacity = usize::try_from(bytes + KEY_BYTES * lines.len() as u64)?.max(MIN_CAPACITY_BYTES);
    let stream = InMemoryStream::with_capacity("words", arguments.shards, capacity);
    let ledger = Ledger::default();
    let (deliveries, received) = mpsc::channel(LEDGER_QUEUE);
    let keeping = tokio::spawn(ledger.clone().keep(received));
    let mut fleet = Fleet::start(&arguments, &stream, deliveries)?;
    view.event(&format!(
        "{} records into {} shards, read by {} receivers; then a split, a merge and an abrupt end",
        lines.len(),
        arguments.shards,
        arguments.receivers
    ));

    let count = lines.len();
    let truth = story(&arguments, &stream, lines, &mut fleet, &ledger, &mut view).await?;
    view.event(&format!("all {count} records are put"));
    let caught_up = catch_up(count, &fleet, &ledger, &mut view).await;
    fleet.stop().await;
    // The handlers are gone, so the ledger ends with the last delivery in its queue.
    timeout(LEDGER_END_LIMIT, keeping).await??;
    Ok(conclude(&truth, &ledger.lock(), count, caught_up))
}

/// Reads the input with a progress line each period. Returns the records to put and their bytes.
async fn read(paths: Vec<PathBuf>, view: &mut View) -> Result<(Vec<String>, u64), BoxError> {
    let read_bytes = Arc::new(AtomicU64::new(0));
    let counter = read_bytes.clone();
    let mut reading = tokio::task::spawn_blocking(move || {
        let input = TextInput::new(&paths)?;
        // One line makes a record unless that makes too many records.
        let target_bytes = usize::try_from(input.bytes() / MAX_RECORDS).unwrap_or(usize::MAX);
        input.pieces_with_progress(target_bytes, &counter).map(|lines| (lines, input.left_out_count()))
    });
    let (lines, left_out) = loop {
        tokio::select! {
            text = &mut reading => break text??,
            () = view.due() => view.line(&format!("reading: {:.1} MB", read_bytes.load(Ordering::Relaxed) as f64 / 1e6)),
        }
    };
    if lines.is_empty() {
        return Err("there is no word in the input".into());
    }
    if left_out > 0 {
        view.event(&format!(
            "{left_out} entries of the folders are left out: neither files nor folders, or not readable"
        ));
    }
    let bytes = lines.iter().map(|line| line.len() as u64).sum();
    Ok((lines, bytes))
}

/// Puts all lines at an even rate, with an event at given shares of them.
async fn story(
    arguments: &Arguments,
    stream: &InMemoryStream,
    lines: Vec<String>,
    fleet: &mut Fleet,
    ledger: &Ledger,
    view: &mut View,
) -> Result<WordTotals, BoxError> {
    let count = lines.len();
    let at_percent = |percent: usize| count * percent / 100;
    let mut producer = Producer {
        stream: stream.clone(),
        lines,
        put: 0,
        truth: WordTotals::default(),
        started_at: Instant::now(),
        duration: Duration::from_secs(arguments.seconds),
    };
    producer.put_until(at_percent(25), fleet, ledger, view).await?;
    let parent = stream.open_shards().swap_remove(0);
    let children = stream.split(&parent)?;
    view.event(&format!("split {parent} into {} and {}", children[0], children[1]));

    producer.put_until(at_percent(45), fleet, ledger, view).await?;
    // The two halves of the split are adjacent.
    let open = stream.open_shards();
    if let [.., left, right] = &open[..] {
        let child = stream.merge(left, right)?;
        view.event(&format!("merged {left} and {right} into {child}"));
    }

    producer.put_until(at_percent(60), fleet, ledger, view).await?;
    if fleet.receivers.len() > 1 {
        let abrupt_end = fleet.end_one_abruptly();
        let shards: Vec<&str> = abrupt_end.shards.iter().map(ShardId::as_str).collect();
        view.event(&format!("{} ended abruptly with {}", abrupt_end.worker_id, shards.join(", ")));
        ledger.lock().abrupt_end = Some(abrupt_end);
    }
    producer.put_until(count, fleet, ledger, view).await?;
    Ok(producer.truth)
}

/// Waits until all records are delivered. Returns false after a time without progress.
async fn catch_up(count: usize, fleet: &Fleet, ledger: &Ledger, view: &mut View) -> bool {
    let (mut seen, mut seen_at) = (0, Instant::now());
    loop {
        let records = ledger.lock().log.totals().records;
        if records >= count {
            return true;
        }
        if records > seen {
            (seen, seen_at) = (records, Instant::now());
        }
        if seen_at.elapsed() > NO_PROGRESS_LIMIT {
            return false;
        }
        view.due().await;
        view.show(fleet, ledger, count);
    }
}

/// Puts lines at an even rate.
struct Producer {
    stream: InMemoryStream,
    lines: Vec<String>,
    /// How many lines are put.
    put: usize,
    /// The words of these lines.
    truth: WordTotals,
    started_at: Instant,
    duration: Duration,
}

impl Producer {
    /// Puts lines up to an index, and shows the progress meanwhile.
    async fn put_until(
        &mut self,
        end: usize,
        fleet: &Fleet,
        ledger: &Ledger,
        view: &mut View,
    ) -> Result<(), BoxError> {
        let count = self.lines.len();
        while self.put < end {
            tokio::select! {
                biased;
                () = view.due() => view.show(fleet, ledger, count),
                put = self.put_some(end) => put?,
            }
        }
        Ok(())
    }

    /// Waits until the next line is due and puts the lines that are due, up to a number.
    async fn put_some(&mut self, end: usize) -> Result<(), BoxError> {
        let share = self.put as f64 / self.lines.len() as f64;
        let due_at = self.started_at + self.duration.mul_f64(share);
        if Instant::now() < due_at {
            sleep_until(due_at).await;
        } else {
            yield_now().await;
        }
        let elapsed = self.started_at.elapsed().as_secs_f64() / self.duration.as_secs_f64().max(0.001);
        for _ in 0..PUTS_PER_TURN {
            let is_due = self.put as f64 <= elapsed * self.lines.len() as f64;
            if self.put == end || !is_due {
                break;
            }
            let line = std::mem::take(&mut self.lines[self.put]);
            self.truth.add_text(&line);
            self.stream.put(format!("line-{}", self.put), line)?;
            self.put += 1;
        }
        Ok(())
    }
}

/// The receivers of this process. Each runs in a task of its own, so that one can be ended abruptly.
struct Fleet {
    receivers: Vec<RunningReceiver>,
}

struct RunningReceiver {
    handle: ConsumerHandle,
    task: JoinHandle<Result<StopReport, BoxError>>,
}

/// A delivered batch.
struct Delivered {
    /// When the handler was called with it.
    at: Instant,
    shard_id: ShardId,
    worker_id: String,
    batch: RecordBatch,
}

impl Fleet {
    fn start(
        arguments: &Arguments,
        stream: &InMemoryStream,
        deliveries: mpsc::Sender<Delivered>,
    ) -> Result<Self, BoxError> {
        let builder = Consumer::builder()
            .application("word-count")
            .worker_id("receiver")
            .source(stream.clone())
            .lease_store(InMemoryLeaseStore::new())
            .failover_time(Duration::from_millis(arguments.failover_time_ms))
            .checkpoint_interval(Duration::from_secs(1))
            .processors(batch_handler(move |shard: ShardContext, batch| async move {
                let (at, worker_id) = (Instant::now(), shard.worker_id.to_string());
                let delivered = Delivered { at, shard_id: shard.shard_id.clone(), worker_id, batch };
                Ok(deliveries.send(delivered).await.map_err(|_| "the ledger is closed")?)
            }));
        let group = ConsumerGroup::new(&builder, arguments.receivers.get())?;
        let receivers = group.into_receivers().into_iter().map(|receiver| RunningReceiver {
            handle: receiver.handle(),
            task: tokio::spawn(async move { Ok(receiver.run().await?) }),
        });
        Ok(Self { receivers: receivers.collect() })
    }

    /// Ends the receiver with the most shards as a crash would: its tasks vanish, nothing is flushed or released.
    fn end_one_abruptly(&mut self) -> AbruptEnd {
        let load = |receiver: &RunningReceiver| receiver.handle.status().shards.len();
        let fullest =
            (0..self.receivers.len()).max_by_key(|index| load(&self.receivers[*index])).unwrap_or(0);
        let receiver = self.receivers.swap_remove(fullest);
        let status = receiver.handle.status();
        receiver.task.abort();
        AbruptEnd {
            at: Instant::now(),
            worker_id: status.worker_id.to_string(),
            shards: status.shards.into_iter().map(|shard| shard.shard_id).collect(),
            gaps: BTreeMap::new(),
        }
    }

    async fn stop(self) {
        for receiver in &self.receivers {
            receiver.handle.stop();
        }
        for receiver in self.receivers {
            let end = match receiver.task.await {
                Ok(Ok(report)) if report.is_drained() => format!("{} stopped, drained", report.worker_id),
                Ok(Ok(report)) => format!("{} stopped, NOT drained", report.worker_id),
                Ok(Err(error)) => format!("a receiver failed: {error}"),
                Err(error) => format!("a receiver failed: {error}"),
            };
            print_line(format_args!("{end}"));
        }
    }
}

/// The crash, and the time until another receiver read each of its shards.
struct AbruptEnd {
    at: Instant,
    worker_id: String,
    shards: BTreeSet<ShardId>,
    gaps: BTreeMap<ShardId, Duration>,
}

impl AbruptEnd {
    /// Records when the handler of the next owner got the first batch of a shard. The time in the ledger's queue does not count.
    fn record(&mut self, delivered: &Delivered) {
        if delivered.worker_id != self.worker_id
            && self.shards.contains(&delivered.shard_id)
            && let Some(gap) = delivered.at.checked_duration_since(self.at)
        {
            self.gaps.entry(delivered.shard_id.clone()).or_insert(gap);
        }
    }
}

/// All deliveries, written by one task.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    log: DeliveryLog,
    abrupt_end: Option<AbruptEnd>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records deliveries until all handlers are gone.
    async fn keep(self, mut deliveries: mpsc::Receiver<Delivered>) {
        while let Some(delivered) = deliveries.recv().await {
            let mut entries = self.lock();
            if let Some(end) = &mut entries.abrupt_end {
                end.record(&delivered);
            }
            entries.log.record(&delivered.shard_id, &delivered.batch);
        }
    }
}

/// Live progress: a table that redraws itself, or a plain log without a terminal.
struct View {
    is_plain: bool,
    ticks: Interval,
    drawn_lines: usize,
    last_shown: (Instant, usize),
}

impl View {
    fn new(is_plain: bool) -> Self {
        let period = Duration::from_millis(if is_plain { 1000 } else { 250 });
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { is_plain, ticks, drawn_lines: 0, last_shown: (Instant::now(), 0) }
    }

    /// Waits until the next progress is due.
    async fn due(&mut self) {
        self.ticks.tick().await;
    }

    fn show(&mut self, fleet: &Fleet, ledger: &Ledger, count: usize) {
        let now = Instant::now();
        let records = ledger.lock().log.totals().records;
        let (last_at, last_records) = self.last_shown;
        let rate = (records - last_records) as f64 / now.duration_since(last_at).as_secs_f64().max(0.001);
        self.last_shown = (now, records);
        let mut lines = vec![format!("{records:>7} of {count} records  {rate:>7.0} records/s")];
        for receiver in &fleet.receivers {
            let status = receiver.handle.status();
            if status.is_standby {
                lines.push(format!("  {}  standby", status.worker_id));
            }
            for shard in &status.shards {
                let lag =
                    shard.progress.millis_behind_latest.map_or("-".to_owned(), |lag| format!("{lag} ms"));
                lines.push(format!(
                    "  {}  {}  lag {lag:>7}  {:>6} records  {:?}",
                    status.worker_id,
                    shard.shard_id,
                    shard.progress.acknowledged_records,
                    shard.progress.state
                ));
            }
        }
        self.draw(&lines);
    }

    /// Shows one line of progress.
    fn line(&mut self, text: &str) {
        self.draw(&[text.to_owned()]);
    }

    fn draw(&mut self, lines: &[String]) {
        if self.is_plain {
            let compact: Vec<String> =
                lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            print_line(format_args!("{}", compact.join(" | ")));
        } else {
            self.erase();
            for line in lines {
                print_line(format_args!("\x1b[2K{line}"));
            }
            self.drawn_lines = lines.len();
        }
        let _ = std::io::stdout().flush();
    }

    fn event(&mut self, text: &str) {
        self.erase();
        print_line(format_args!("--- {text}"));
        self.drawn_lines = 0;
    }

    fn erase(&self) {
        if self.drawn_lines > 0 {
            let _ = write!(std::io::stdout(), "\x1b[{}A\x1b[0J", self.drawn_lines);
        }
    }
}

/// Prints the final tables. Returns whether every word was counted.
fn conclude(truth: &WordTotals, ledger: &Entries, put: usize, caught_up: bool) -> bool {
    let counted = ledger.log.words();
    print_line(format_args!("\n{:<24} {:>9} {:>9}", "word", "put", "counted"));
    for (word, count) in truth.top(WORDS_SHOWN) {
        print_line(format_args!("{word:<24} {count:>9} {:>9}", counted.count(word)));
    }
    print_line(format_args!("{:<24} {:>9} {:>9}", "all words", truth.words(), counted.words()));
    print_line(format_args!("{:<24} {:>9} {:>9}", "different words", truth.distinct(), counted.distinct()));
    let totals = ledger.log.totals();
    print_line(format_args!("\nrecords put              {put:>9}"));
    print_line(format_args!("records delivered        {:>9}", totals.records));
    print_line(format_args!("  once                   {:>9}", totals.once));
    print_line(format_args!("  again (deliveries)     {:>9}", totals.again));
    if let Some(end) = &ledger.abrupt_end {
        for (shard_id, gap) in &end.gaps {
            print_line(format_args!("read again after the end {:>7.1} s  {shard_id}", gap.as_secs_f64()));
        }
    }
    let differences = truth.differences(counted);
    for (word, put, counted) in differences.iter().take(WORDS_SHOWN) {
        print_line(format_args!("WRONG: {word:?} was put {put} times and counted {counted} times"));
    }
    if !caught_up {
        print_line(format_args!("WRONG: records are missing after {NO_PROGRESS_LIMIT:?} without progress"));
    }
    let is_right = differences.is_empty() && caught_up;
    print_line(format_args!("\n{}", if is_right { "every word was counted" } else { "WORDS ARE MISSING" }));
    is_right
}

/// Prints a line. A closed terminal or pipe is no reason to stop counting.
fn print_line(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
