//! Renders the trace: one line for each event, the same bytes for the same seed.

use std::fmt::Write as _;

use crate::event::{Batch, Event, EventKind, Name, Process, Row, Writer};

/// Maps the numbers in the events to names.
#[derive(Debug, Clone, Default)]
pub struct Names {
    workers: Vec<String>,
    /// The worker name of each process.
    processes: Vec<Name>,
}

impl Names {
    /// Returns the number of a worker's name.
    pub fn worker(&mut self, name: &str) -> Name {
        let known = self.workers.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.workers.push(name.to_owned());
            self.workers.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Adds a process of a worker.
    pub fn process(&mut self, name: &str) -> (Process, Name) {
        let name = self.worker(name);
        self.processes.push(name);
        (u32::try_from(self.processes.len() - 1).unwrap_or(u32::MAX), name)
    }

    /// Number of processes so far.
    pub fn count(&self) -> u64 {
        self.processes.len() as u64
    }

    /// Returns the name of a worker.
    pub fn name(&self, name: Name) -> &str {
        self.workers.get(name as usize).map_or("unowned", String::as_str)
    }

    /// Returns the name number of a process.
    pub fn name_of(&self, process: Process) -> Name {
        self.processes.get(process as usize).copied().unwrap_or(u32::MAX)
    }

    /// Returns the worker name of a process.
    pub fn name_of_worker(&self, process: Process) -> String {
        self.name(self.name_of(process)).to_owned()
    }

    /// Returns the process as the trace shows it: worker name and process number.
    pub fn shown(&self, process: Process) -> String {
        format!("{}#{process}", self.name(self.name_of(process)))
    }

    fn writer(&self, writer: Writer) -> String {
        match writer {
            Writer::Ours(process) | Writer::Kcl(process) => self.shown(process),
            Writer::Outsider => "outsider".to_owned(),
            Writer::Operator => "operator".to_owned(),
        }
    }

    fn row(&self, row: Option<Row>) -> String {
        let Some(row) = row else { return "none".to_owned() };
        let owner = row.owner.map_or("unowned", |owner| self.name(owner));
        let mut text = format!("{owner} {} at {}", row.counter, row.checkpoint);
        if let Some(former) = row.handed_over_by {
            let _ = write!(text, " handed over by {}", self.name(former));
        }
        if let Some(requester) = row.requested_by {
            let _ = write!(text, " requested by {}", self.name(requester));
        }
        if let Some(starts_at) = row.starts_at {
            let _ = write!(text, " start time {starts_at} ms");
        }
        text
    }

    fn batch(&self, batch: &Batch) -> String {
        let Batch { process, shard, token, first, last, count, .. } = batch;
        format!("s{shard:<3} {} ({token}) {count} records {first}..{last}", self.shown(*process))
    }

    /// Renders one event.
    pub fn line(&self, event: &Event) -> String {
        let text = match &event.kind {
            EventKind::ShardCreated { shard, parents, .. } => {
                format!("s{shard:<3} created, parents {parents:?}")
            }
            EventKind::ShardClosed { shard } => format!("s{shard:<3} closed"),
            EventKind::RecordPut { shard, record, subs } => {
                format!("s{shard:<3} put {record}, {} in this shard", subs.len())
            }
            EventKind::RecordsTrimmed { shard, before: u64::MAX } => {
                format!("s{shard:<3} removed by retention")
            }
            EventKind::RecordsTrimmed { shard, before } => format!("s{shard:<3} trimmed before {before}"),
            EventKind::ProcessStarted { process, clock, is_kcl, .. } => {
                let rules = if *is_kcl { "KCL" } else { "ours" };
                format!("---- {} starts ({rules}, clock {clock})", self.shown(*process))
            }
            EventKind::ProcessCrashed { process } => format!("---- {} crashes", self.shown(*process)),
            EventKind::StopRequested { process } => {
                format!("---- {} receives a stop request", self.shown(*process))
            }
            EventKind::ProcessEnded { process, how, .. } => {
                format!("---- {} ended: {how}", self.shown(*process))
            }
            EventKind::StreamDescribed { process, life } => {
                format!("---- {} sees stream {life}", self.shown(*process))
            }
            EventKind::StreamRemoved => "---- the stream is deleted".to_owned(),
            EventKind::StreamCreated { life } => format!("---- stream {life} is created"),
            EventKind::StartFailed { process, why, .. } => {
                format!("---- {} failed to start: {why}", self.shown(*process))
            }
            EventKind::Disturbed { process, for_millis, description } => {
                let who = process.map_or_else(|| "all".to_owned(), |process| self.shown(process));
                format!("---- {who}: {description} for {for_millis} ms")
            }
            EventKind::ShardStarted { process, shard, token, start } => {
                format!("s{shard:<3} {} ({token}) starts at {start}", self.shown(*process))
            }
            EventKind::RecordsRead { process, shard, count, is_end } => {
                let end = if *is_end { ", end of shard" } else { "" };
                format!("s{shard:<3} {} reads {count}{end}", self.shown(*process))
            }
            EventKind::ReaderOpened { process, shard } => {
                format!("s{shard:<3} {} opens a reader", self.shown(*process))
            }
            EventKind::Subscription { process, shard, session, step } => {
                format!("s{shard:<3} {} subscription {session}: {step:?}", self.shown(*process))
            }
            EventKind::Delivered(batch) => format!("{} delivered", self.batch(batch)),
            EventKind::Acknowledged(batch) => format!("{} acknowledged", self.batch(batch)),
            EventKind::BatchFailed(batch, how) => format!("{} failed: {how}", self.batch(batch)),
            EventKind::BatchCancelled(batch) => format!("{} cancelled", self.batch(batch)),
            EventKind::LeaseLost { process, shard, token } => {
                format!("s{shard:<3} {} ({token}) lease lost", self.shown(*process))
            }
            EventKind::LeaseWritten { by, shard, kind, before, after, sent_at } => format!(
                "s{shard:<3} {} {kind}: {} -> {} (sent at {sent_at})",
                self.writer(*by),
                self.row(*before),
                self.row(*after)
            ),
            EventKind::WriteRefused { by, shard, kind } => {
                format!("s{shard:<3} {} {kind}: refused", self.writer(*by))
            }
            EventKind::SlowCall { process, shard } => {
                format!("s{shard:<3} {} waits for the table", self.shown(*process))
            }
            EventKind::TableRemoved => "---- outsider deletes the table".to_owned(),
            EventKind::TableCreated => "---- the table is created again".to_owned(),
            EventKind::AdoptionAllowed => "---- the operator may adopt the table".to_owned(),
            EventKind::FaultsOver => "---- end of faults".to_owned(),
            EventKind::Note(text) => format!("---- {text}"),
        };
        format!("{:>9} {text}", event.at)
    }
}
