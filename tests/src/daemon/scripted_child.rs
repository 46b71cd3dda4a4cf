//! A child of the daemon that records what it is told, and misbehaves on request.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process;

use serde_json::{Value, json};

use super::journal::{Event, Journal};

/// The exit status of a child that its script ends.
pub const SCRIPTED_STATUS: i32 = 3;

/// How the child behaves. The options are words on its command line.
#[derive(Debug, Default)]
pub struct Script {
    /// `checkpoint-always`: after each batch, and not only at the end of a shard and at a shutdown.
    pub checkpoints_batches: bool,
    /// `retry-checkpoints`: until a checkpoint is written, or the lease is lost.
    pub retries_checkpoints: bool,
    /// `checkpoint-early`: during `initialize` and `leaseLost` too.
    pub checkpoints_early: bool,
    /// `noise`: lines that are no messages, before each status.
    pub makes_noise: bool,
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
                "noise" => script.makes_noise = true,
                "ignore-end" => script.ignores_end = true,
                "exit-at" => script.exits_at = number()?,
                "hang-at" => script.hangs_at = number()?,
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
    Child { input, output, journal: Journal::append_to(journal)?, script, shard: String::new() }.run()
}

struct Child<'a, R, W> {
    input: R,
    output: W,
    journal: Journal,
    script: &'a Script,
    shard: String,
}

impl<R: BufRead, W: Write> Child<'_, R, W> {
    fn run(mut self) -> io::Result<()> {
        while let Some(message) = self.next()? {
            let action = message["action"].as_str().unwrap_or_default().to_owned();
            match action.as_str() {
                "initialize" => {
                    self.shard = message["shardId"].as_str().unwrap_or_default().to_owned();
                    let sequence_number = message["sequenceNumber"].as_str().unwrap_or("null").to_owned();
                    self.journal.append(&self.shard, [Event::Initialize { sequence_number }])?;
                }
                "processRecords" => self.process(&message["records"])?,
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
            if self.script.makes_noise {
                self.output.write_all(b"plain text\nnull\n[1,2]\n\xff\xfe\n\n{\"action\":\"status\"\n")?;
            }
            self.send(&json!({"action": "status", "responseFor": action}))?;
        }
        self.journal.append(&self.shard, [Event::Closed])?;
        while self.script.ignores_end {
            std::thread::park();
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
            events.push(Event::Record { number, sequence_number });
            if self.script.hangs_at == Some(number) && self.script.is_due() {
                self.journal.append(&self.shard, events)?;
                loop {
                    std::thread::park();
                }
            }
        }
        self.journal.append(&self.shard, events)
    }

    fn checkpoint(&mut self, during: &str) -> io::Result<()> {
        loop {
            self.send(&json!({"action": "checkpoint", "sequenceNumber": null, "subSequenceNumber": null}))?;
            let answer = self.next()?.unwrap_or_default();
            if answer["action"] != "checkpoint" {
                return Err(io::Error::other(format!("expected the answer to a checkpoint, got {answer}")));
            }
            let error = answer["error"].as_str().map(str::to_owned);
            let is_done = error.as_deref().is_none_or(|error| error == "ShutdownException");
            self.journal.append(&self.shard, [Event::Checkpoint { during: during.to_owned(), error }])?;
            if is_done || !self.script.retries_checkpoints {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> io::Result<Option<Value>> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }

    fn send(&mut self, message: &Value) -> io::Result<()> {
        writeln!(self.output, "{message}")?;
        self.output.flush()
    }
}
