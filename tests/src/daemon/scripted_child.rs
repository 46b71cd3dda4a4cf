//! A child of the daemon that records what it is told, and misbehaves on request.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use serde_json::{Value, json};

use super::journal::{Event, Journal};

/// The exit status of a child that its script ends.
pub const SCRIPTED_STATUS: i32 = 3;

/// How many lines a flood has: far more than pipes and queues hold.
pub const FLOOD_LINES: usize = 400;

/// The bytes of a line of a flood.
const FLOOD_LINE_BYTES: usize = 32 * 1024;

/// How many checkpoints are timed.
const TIMED_CHECKPOINTS: usize = 2001;

/// How the child behaves. The options are words on its command line.
#[derive(Debug, Default)]
pub struct Script {
    /// `checkpoint-always`: after each batch, and not only at the end of a shard and at a shutdown.
    pub checkpoints_batches: bool,
    /// `retry-checkpoints`: until a checkpoint is written, or the lease is lost.
    pub retries_checkpoints: bool,
    /// `checkpoint-early`: during `initialize` and `leaseLost` too.
    pub checkpoints_early: bool,
    /// `checkpoint-older`: after each batch also the position before its last checkpoint.
    pub checkpoints_older: bool,
    /// `checkpoint-late`: after the status of a batch, as from another thread. The answer comes in the next action.
    pub checkpoints_late: bool,
    /// `checkpoint-legacy`: with the keys of clients before KCL 1.7.
    pub checkpoints_legacy: bool,
    /// `time-checkpoints`: measures checkpoints at the same position after each batch.
    pub times_checkpoints: bool,
    /// `helper`: starts a process that keeps the standard output and the standard error open.
    pub starts_helper: bool,
    /// `raw=FILE`: appends each line that it receives to this file.
    pub raw: Option<PathBuf>,
    /// `noise`: lines that are no messages, before each status.
    pub makes_noise: bool,
    /// `flood-at=NUMBER`: prints `FLOOD_LINES` lines before the status of the batch with this record.
    pub floods_at: Option<usize>,
    /// `work-millis=NUMBER`: how long the work on a record takes; each record is in the journal before its work.
    pub work: Option<Duration>,
    /// `ignore-end`: does not exit when its input is closed.
    pub ignores_end: bool,
    /// `exit-at=NUMBER`: exits before this record.
    pub exits_at: Option<usize>,
    /// `hang-at=NUMBER`: never answers after this record.
    pub hangs_at: Option<usize>,
    /// `once=FILE`: the exit or the hang only if this file does not exist yet, and creates it.
    pub once: Option<PathBuf>,
}

impl Script {
    /// Reads the words.
    ///
    /// # Errors
    /// For an unknown word.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut script = Self::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse().map(Some).map_err(|_| format!("{word}: no number"));
            match name {
                "checkpoint-always" => script.checkpoints_batches = true,
                "retry-checkpoints" => script.retries_checkpoints = true,
                "checkpoint-early" => script.checkpoints_early = true,
                "checkpoint-older" => script.checkpoints_older = true,
                "checkpoint-late" => script.checkpoints_late = true,
                "checkpoint-legacy" => script.checkpoints_legacy = true,
                "time-checkpoints" => script.times_checkpoints = true,
                "helper" => script.starts_helper = true,
                "noise" => script.makes_noise = true,
                "ignore-end" => script.ignores_end = true,
                "flood-at" => script.floods_at = number()?,
                "work-millis" => script.work = number()?.map(|millis| Duration::from_millis(millis as u64)),
                "exit-at" => script.exits_at = number()?,
                "hang-at" => script.hangs_at = number()?,
                "raw" => script.raw = Some(value.into()),
                "once" => script.once = Some(value.into()),
                _ => return Err(format!("unknown word {word}")),
            }
        }
        Ok(script)
    }

    /// Whether the misbehaviour at a record happens now.
    fn is_due(&self) -> bool {
        self.once.as_ref().is_none_or(|file| std::fs::File::create_new(file).is_ok())
    }
}

/// Carries out the actions of the daemon until its input ends.
///
/// # Errors
/// When a message cannot be read or written, or the journal cannot be written.
pub fn run(input: impl BufRead, output: impl Write, journal: &Path, script: &Script) -> io::Result<()> {
    Child { input, output, journal: Journal::append_to(journal)?, script, shard: String::new(), last: None }
        .run()
}

struct Child<'a, R, W> {
    input: R,
    output: W,
    journal: Journal,
    script: &'a Script,
    shard: String,
    /// The newest sequence number.
    last: Option<String>,
}

/// Work that takes time.
#[allow(clippy::disallowed_methods)] // the child has no runtime
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A request at this sequence number; `None`: at the newest position.
fn checkpoint(sequence_number: Option<&str>) -> Value {
    json!({"action": "checkpoint", "sequenceNumber": sequence_number, "subSequenceNumber": null})
}

impl<R: BufRead, W: Write> Child<'_, R, W> {
    fn run(mut self) -> io::Result<()> {
        if self.script.starts_helper {
            // It inherits both outputs, and lives longer than the test.
            process::Command::new("sleep").arg("600").stdin(process::Stdio::null()).spawn()?;
        }
        while let Some(message) = self.next()? {
            let action = message["action"].as_str().unwrap_or_default().to_owned();
            match action.as_str() {
                "initialize" => {
                    self.shard = message["shardId"].as_str().unwrap_or_default().to_owned();
                    let sequence_number = message["sequenceNumber"].as_str().unwrap_or("null").to_owned();
                    self.journal.append(&self.shard, [Event::Initialize { sequence_number }])?;
                }
                "processRecords" => self.process(&message["records"])?,
                "checkpoint" => {
                    // The answer to a late one.
                    self.journal_answer("late", &message)?;
                    continue;
                }
                _ => self.journal.append(&self.shard, [Event::Told(action.clone())])?,
            }
            let is_wanted = match action.as_str() {
                "processRecords" => self.script.checkpoints_batches,
                "shardEnded" | "shutdownRequested" => true,
                _ => self.script.checkpoints_early,
            };
            if is_wanted {
                self.checkpoint(&action)?;
            }
            if self.script.checkpoints_older && action == "processRecords" {
                let first = message["records"][0]["sequenceNumber"].clone();
                self.send(&json!({"action": "checkpoint", "sequenceNumber": first, "subSequenceNumber": 0}))?;
                let answer = self.next()?.unwrap_or_default();
                self.journal_answer("older", &answer)?;
            }
            if self.script.times_checkpoints && action == "processRecords" {
                let micros = self.median_round_trip()?;
                self.journal.append(&self.shard, [Event::RoundTrip { micros }])?;
            }
            if self.script.makes_noise {
                self.output.write_all(b"plain text\nnull\n[1,2]\n\xff\xfe\n\n{\"action\":\"status\"\n")?;
            }
            self.send(&json!({"action": "status", "responseFor": action}))?;
            if self.script.checkpoints_late && action == "processRecords" {
                self.send(&checkpoint(None))?;
            }
        }
        self.journal.append(&self.shard, [Event::Closed])?;
        if self.script.ignores_end {
            loop {
                std::thread::park();
            }
        }
        Ok(())
    }

    fn process(&mut self, records: &Value) -> io::Result<()> {
        let mut events = Vec::new();
        for record in records.as_array().into_iter().flatten() {
            let data = record["data"].as_str().unwrap_or_default();
            let data = base64_simd::STANDARD.decode_to_vec(data).unwrap_or_default();
            let number = String::from_utf8_lossy(&data).parse().map_err(io::Error::other)?;
            if self.script.exits_at == Some(number) && self.script.is_due() {
                self.journal.append(&self.shard, events)?;
                process::exit(SCRIPTED_STATUS);
            }
            let sequence_number = record["sequenceNumber"].as_str().unwrap_or_default().to_owned();
            self.last = Some(sequence_number.clone());
            events.push(Event::Record { number, sequence_number });
            if let Some(work) = self.script.work {
                self.journal.append(&self.shard, std::mem::take(&mut events))?;
                pause(work);
            }
            if self.script.floods_at == Some(number) {
                self.journal.append(&self.shard, std::mem::take(&mut events))?;
                self.flood()?;
            }
            if self.script.hangs_at == Some(number) && self.script.is_due() {
                self.journal.append(&self.shard, events)?;
                loop {
                    std::thread::park();
                }
            }
        }
        self.journal.append(&self.shard, events)
    }

    fn flood(&mut self) -> io::Result<()> {
        let line = "x".repeat(FLOOD_LINE_BYTES);
        (0..FLOOD_LINES).try_for_each(|_| writeln!(self.output, "{line}"))?;
        self.output.flush()
    }

    fn checkpoint(&mut self, during: &str) -> io::Result<()> {
        loop {
            let request = match &self.last {
                Some(last) if self.script.checkpoints_legacy => {
                    json!({"action": "checkpoint", "checkpoint": last, "error": null})
                }
                _ => checkpoint(None),
            };
            self.send(&request)?;
            let answer = self.next()?.unwrap_or_default();
            let error = self.journal_answer(during, &answer)?;
            if error.is_none_or(|error| error == "ShutdownException") || !self.script.retries_checkpoints {
                return Ok(());
            }
        }
    }

    /// Only the first of these checkpoints is written.
    #[allow(clippy::disallowed_methods)] // a figure for people
    fn median_round_trip(&mut self) -> io::Result<u64> {
        let mut micros = Vec::new();
        for _ in 0..TIMED_CHECKPOINTS {
            let requested_at = std::time::Instant::now();
            self.send(&checkpoint(None))?;
            self.next()?;
            micros.push(u64::try_from(requested_at.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        micros.sort_unstable();
        Ok(micros[micros.len() / 2])
    }

    /// Records the answer to a checkpoint, and returns its error.
    fn journal_answer(&mut self, during: &str, answer: &Value) -> io::Result<Option<String>> {
        if answer["action"] != "checkpoint" {
            return Err(io::Error::other(format!("expected the answer to a checkpoint, got {answer}")));
        }
        let error = answer["error"].as_str().map(str::to_owned);
        let event = Event::Checkpoint { during: during.to_owned(), error: error.clone() };
        self.journal.append(&self.shard, [event])?;
        Ok(error)
    }

    fn next(&mut self) -> io::Result<Option<Value>> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if let Some(raw) = &self.script.raw {
            std::fs::OpenOptions::new().create(true).append(true).open(raw)?.write_all(line.as_bytes())?;
        }
        Ok(Some(serde_json::from_str(&line)?))
    }

    fn send(&mut self, message: &Value) -> io::Result<()> {
        writeln!(self.output, "{message}")?;
        self.output.flush()
    }
}
