//! A fleet of receivers counts words, embedded: an in-memory stream and lease store, no server, no account.
//!
//! While lines of text flow into the stream one shard is split, two are merged, and one receiver is ended abruptly. At
//! the end every word must have been counted.
//!
//! ```text
//! cargo run --bin word_count -- --receivers 3 --shards 4 --input some/folder
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{DeliveryLog, TextInput, WordTotals};
use kinesis_streaming::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long the fleet may take to catch up after the last record was put.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// How many words the final table shows.
const WORDS_SHOWN: usize = 12;

/// How many rows the producer and the handlers may be ahead of the ledger.
const LEDGER_QUEUE: usize = 1024;

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
    /// How long the producer takes to put all lines.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// When a silent receiver counts as dead, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    failover_time_ms: u64,
    /// Print a plain log even when there is a terminal.
    #[arg(long)]
    plain: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
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
    let lines = TextInput::new(&arguments.input)?.pieces(0)?;
    let stream = InMemoryStream::new("words", arguments.shards);
    let (deliveries, ledger) = mpsc::channel(LEDGER_QUEUE);
    let mut fleet = Fleet::start(&arguments, &stream, &deliveries)?;
    drop(deliveries);
    println!(
        "{} lines into {} shards, read by {} receivers; split, merge and one abrupt end on the way\n",
        lines.len(),
        arguments.shards,
        arguments.receivers
    );

    let mut view = View::new(arguments.plain || !std::io::stdout().is_terminal());
    let mut ledger = Ledger { deliveries: ledger, log: DeliveryLog::default(), abrupt_end: None };
    let truth = story(&arguments, &stream, &lines, &mut fleet, &mut ledger, &mut view).await?;
    let caught_up = timeout(CATCH_UP_LIMIT, async {
        while ledger.log.totals().records < lines.len() {
            ledger.take_until(Instant::now() + view.period).await;
            view.show(&fleet, &ledger.log);
        }
    });
    let caught_up = caught_up.await.is_ok();
    fleet.stop().await;
    Ok(conclude(&truth, &ledger, lines.len(), caught_up))
}

/// Puts all lines at an even rate, and makes things happen at given shares of them.
async fn story(
    arguments: &Arguments,
    stream: &InMemoryStream,
    lines: &[String],
    fleet: &mut Fleet,
    ledger: &mut Ledger,
    view: &mut View,
) -> Result<WordTotals, BoxError> {
    let started_at = Instant::now();
    let duration = Duration::from_secs(arguments.seconds);
    let at_percent = |percent: usize| lines.len() * percent / 100;
    let (split_at, merge_at, end_at) = (at_percent(25), at_percent(45), at_percent(60));
    let mut truth = WordTotals::default();
    let mut next_view = started_at;
    for (index, line) in lines.iter().enumerate() {
        let due_at = started_at + duration.mul_f64(index as f64 / lines.len() as f64);
        while Instant::now() < due_at {
            ledger.take_until(due_at.min(next_view)).await;
            if Instant::now() >= next_view {
                view.show(fleet, &ledger.log);
                next_view += view.period;
            }
        }
        if index == split_at {
            let parent = stream.open_shards().swap_remove(0);
            let children = stream.split(&parent)?;
            view.event(&format!("split {parent} into {} and {}", children[0], children[1]));
        }
        if index == merge_at {
            // The two halves of the split lie side by side.
            let open = stream.open_shards();
            let [left, right] = [&open[open.len() - 2], &open[open.len() - 1]];
            let child = stream.merge(left, right)?;
            view.event(&format!("merged {left} and {right} into {child}"));
        }
        if index == end_at && fleet.receivers.len() > 1 {
            let abrupt_end = fleet.end_one_abruptly();
            let shards: Vec<&str> = abrupt_end.shards.iter().map(ShardId::as_str).collect();
            view.event(&format!("{} ended abruptly with {}", abrupt_end.worker_id, shards.join(", ")));
            ledger.abrupt_end = Some(abrupt_end);
        }
        stream.put(format!("line-{index}"), line.clone())?;
        truth.add_text(line);
    }
    Ok(truth)
}

/// The receivers of this process. Each runs in a task of its own, so that one can be ended abruptly.
struct Fleet {
    receivers: Vec<RunningReceiver>,
}

struct RunningReceiver {
    handle: ReceiverHandle,
    task: JoinHandle<Result<StopReport, BoxError>>,
}

/// A batch that was delivered: the shard, the records, and by whom.
struct Delivered {
    shard_id: ShardId,
    worker_id: String,
    batch: RecordBatch,
}

impl Fleet {
    fn start(
        arguments: &Arguments,
        stream: &InMemoryStream,
        deliveries: &mpsc::Sender<Delivered>,
    ) -> Result<Self, BoxError> {
        let deliveries = deliveries.clone();
        let builder = Consumer::builder()
            .application("word-count")
            .worker_id("receiver")
            .source(stream.clone())
            .lease_store(InMemoryLeaseStore::new())
            .failover_time(Duration::from_millis(arguments.failover_time_ms))
            .checkpoint_interval(Duration::from_secs(1))
            .processors(batch_handler(move |shard: ShardContext, batch| {
                let deliveries = deliveries.clone();
                async move {
                    let worker_id = shard.worker_id.to_string();
                    let delivered = Delivered { shard_id: shard.shard_id, worker_id, batch };
                    Ok(deliveries.send(delivered).await.map_err(|_| "the ledger is closed")?)
                }
            }));
        let group = ReceiverGroup::new(&builder, arguments.receivers.get())?;
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
            match receiver.task.await {
                Ok(Ok(report)) if report.is_drained() => println!("{} stopped, drained", report.worker_id),
                Ok(Ok(report)) => println!("{} stopped, NOT drained", report.worker_id),
                Ok(Err(error)) => println!("a receiver failed: {error}"),
                Err(error) => println!("a receiver failed: {error}"),
            }
        }
    }
}

/// The crash, and how long it took until each of its shards was read again.
struct AbruptEnd {
    at: Instant,
    worker_id: String,
    shards: BTreeSet<ShardId>,
    gaps: BTreeMap<ShardId, Duration>,
}

/// Everything that was delivered.
struct Ledger {
    deliveries: mpsc::Receiver<Delivered>,
    log: DeliveryLog,
    abrupt_end: Option<AbruptEnd>,
}

impl Ledger {
    /// Notes what is delivered until then.
    async fn take_until(&mut self, deadline: Instant) {
        while let Ok(Some(delivered)) = tokio::time::timeout_at(deadline, self.deliveries.recv()).await {
            for record in &delivered.batch {
                self.log.note(&delivered.shard_id, record);
            }
            if let Some(end) = &mut self.abrupt_end
                && delivered.worker_id != end.worker_id
                && end.shards.contains(&delivered.shard_id)
            {
                end.gaps.entry(delivered.shard_id).or_insert_with(|| end.at.elapsed());
            }
        }
    }
}

/// Live progress: a table that redraws itself, or a plain log when there is no terminal.
struct View {
    is_plain: bool,
    period: Duration,
    drawn_lines: usize,
    last_shown: (Instant, usize),
}

impl View {
    fn new(is_plain: bool) -> Self {
        let period = Duration::from_millis(if is_plain { 1000 } else { 250 });
        Self { is_plain, period, drawn_lines: 0, last_shown: (Instant::now(), 0) }
    }

    fn show(&mut self, fleet: &Fleet, log: &DeliveryLog) {
        let now = Instant::now();
        let records = log.totals().records;
        let (last_at, last_records) = self.last_shown;
        let rate = (records - last_records) as f64 / now.duration_since(last_at).as_secs_f64().max(0.001);
        self.last_shown = (now, records);
        let mut lines = vec![format!("{records:>7} records  {rate:>7.0} records/s")];
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
        if self.is_plain {
            let owners: Vec<String> =
                lines[1..].iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            println!("{} | {}", lines[0], owners.join(" | "));
        } else {
            self.erase();
            for line in &lines {
                println!("\x1b[2K{line}");
            }
            self.drawn_lines = lines.len();
        }
        // A closed terminal is no reason to stop counting.
        let _ = std::io::stdout().flush();
    }

    fn event(&mut self, text: &str) {
        self.erase();
        println!("--- {text}");
        self.drawn_lines = 0;
    }

    fn erase(&self) {
        if self.drawn_lines > 0 {
            print!("\x1b[{}A\x1b[0J", self.drawn_lines);
        }
    }
}

/// Prints the final tables. Returns whether every word was counted.
fn conclude(truth: &WordTotals, ledger: &Ledger, put: usize, caught_up: bool) -> bool {
    let counted = ledger.log.words();
    println!("\n{:<24} {:>9} {:>9}", "word", "put", "counted");
    for (word, count) in truth.top(WORDS_SHOWN) {
        println!("{word:<24} {count:>9} {:>9}", counted.count(word));
    }
    println!("{:<24} {:>9} {:>9}", "all words", truth.words(), counted.words());
    println!("{:<24} {:>9} {:>9}", "different words", truth.distinct(), counted.distinct());
    let totals = ledger.log.totals();
    println!("\nrecords put              {put:>9}");
    println!("records delivered        {:>9}", totals.records);
    println!("  once                   {:>9}", totals.once);
    println!("  again (deliveries)     {:>9}", totals.again);
    if let Some(end) = &ledger.abrupt_end {
        for (shard_id, gap) in &end.gaps {
            println!("gap after the abrupt end {:>7.1} s  {shard_id}", gap.as_secs_f64());
        }
    }
    let differences = truth.differences(counted);
    for (word, put, counted) in differences.iter().take(WORDS_SHOWN) {
        println!("WRONG: {word:?} was put {put} times and counted {counted} times");
    }
    if !caught_up {
        println!("WRONG: not all records arrived within {CATCH_UP_LIMIT:?}");
    }
    let is_right = differences.is_empty() && caught_up;
    println!("\n{}", if is_right { "every word was counted" } else { "WORDS ARE MISSING" });
    is_right
}
