//! The trace: one line for each event, the same bytes for the same seed.

use std::fmt::Write as _;

use crate::event::{Batch, Event, Name, Process, Row, What, Writer};

/// The names behind the numbers in the events.
#[derive(Debug, Clone, Default)]
pub struct Names {
    workers: Vec<String>,
    /// The name of each process.
    processes: Vec<Name>,
}

impl Names {
    /// The number of a worker's name.
    pub fn worker(&mut self, name: &str) -> Name {
        let known = self.workers.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.workers.push(name.to_owned());
            self.workers.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// A new process of a worker.
    pub fn process(&mut self, name: &str) -> (Process, Name) {
        let name = self.worker(name);
        self.processes.push(name);
        (u32::try_from(self.processes.len() - 1).unwrap_or(u32::MAX), name)
    }

    /// How many processes there were.
    pub fn count(&self) -> u64 {
        self.processes.len() as u64
    }

    /// The name of a worker.
    pub fn name(&self, name: Name) -> &str {
        self.workers.get(name as usize).map_or("nobody", String::as_str)
    }

    /// The number of the name of a process.
    pub fn name_of(&self, process: Process) -> Name {
        self.processes.get(process as usize).copied().unwrap_or(u32::MAX)
    }

    /// The name of the worker that a process is.
    pub fn name_of_worker(&self, process: Process) -> String {
        self.name(self.name_of(process)).to_owned()
    }

    /// What a process is called in the trace: its worker and its own number.
    pub fn shown(&self, process: Process) -> String {
        format!("{}#{process}", self.name(self.name_of(process)))
    }

    fn writer(&self, writer: Writer) -> String {
        match writer {
            Writer::Ours(process) | Writer::Kcl(process) => self.shown(process),
            Writer::Stranger => "stranger".to_owned(),
        }
    }

    fn row(&self, row: Option<Row>) -> String {
        let Some(row) = row else { return "none".to_owned() };
        let owner = row.owner.map_or("nobody", |owner| self.name(owner));
        let mut text = format!("{owner} {} at {}", row.counter, row.checkpoint);
        if let Some(requester) = row.requested_by {
            let _ = write!(text, " asked by {}", self.name(requester));
        }
        if let Some(starts_at) = row.starts_at {
            let _ = write!(text, " from {starts_at} ms");
        }
        text
    }

    fn batch(&self, batch: &Batch) -> String {
        let Batch { process, shard, token, first, last, count, .. } = batch;
        format!("s{shard:<3} {} ({token}) {count} records {first}..{last}", self.shown(*process))
    }

    /// One line.
    pub fn line(&self, event: &Event) -> String {
        let text = match &event.what {
            What::Born { shard, parents, .. } => format!("s{shard:<3} born of {parents:?}"),
            What::Closed { shard } => format!("s{shard:<3} closed"),
            What::Put { shard, record, subs } => {
                format!("s{shard:<3} put {record}, {} of it here", subs.len())
            }
            What::Trimmed { shard, before: u64::MAX } => format!("s{shard:<3} gone"),
            What::Trimmed { shard, before } => format!("s{shard:<3} trimmed before {before}"),
            What::Started { process, clock, is_kcl, .. } => {
                let rules = if *is_kcl { "KCL" } else { "ours" };
                format!("---- {} starts ({rules}, clock {clock})", self.shown(*process))
            }
            What::Crashed { process } => format!("---- {} crashes", self.shown(*process)),
            What::StopAsked { process } => format!("---- {} is asked to stop", self.shown(*process)),
            What::Ended { process, how } => format!("---- {} has ended: {how}", self.shown(*process)),
            What::StartFailed { process, why } => format!("---- {} failed: {why}", self.shown(*process)),
            What::Disturbed { process, for_millis, what } => {
                let who = process.map_or_else(|| "all".to_owned(), |process| self.shown(process));
                format!("---- {who}: {what} for {for_millis} ms")
            }
            What::Began { process, shard, token, start } => {
                format!("s{shard:<3} {} ({token}) begins at {start}", self.shown(*process))
            }
            What::Read { process, shard, count, is_end } => {
                let end = if *is_end { " and the end" } else { "" };
                format!("s{shard:<3} {} reads {count}{end}", self.shown(*process))
            }
            What::Opened { process, shard } => format!("s{shard:<3} {} opens a reader", self.shown(*process)),
            What::Subscription { process, shard, session, step } => {
                format!("s{shard:<3} {} subscription {session}: {step:?}", self.shown(*process))
            }
            What::Delivered(batch) => format!("{} delivered", self.batch(batch)),
            What::Acknowledged(batch) => format!("{} acknowledged", self.batch(batch)),
            What::Refused(batch, how) => format!("{} refused: {how}", self.batch(batch)),
            What::CutOff(batch) => format!("{} cut off", self.batch(batch)),
            What::LossTold { process, shard, token } => {
                format!("s{shard:<3} {} ({token}) is told of the loss", self.shown(*process))
            }
            What::Written { by, shard, kind, before, after, asked_at } => format!(
                "s{shard:<3} {} {kind}: {} -> {} (asked at {asked_at})",
                self.writer(*by),
                self.row(*before),
                self.row(*after)
            ),
            What::Lost { by, shard, kind } => format!("s{shard:<3} {} {kind}: refused", self.writer(*by)),
            What::Quiet => "---- the faults are over".to_owned(),
            What::Note(text) => format!("---- {text}"),
        };
        format!("{:>9} {text}", event.at)
    }
}
