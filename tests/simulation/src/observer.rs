//! Sees everything: notes the events, hands them to the checks, and stops the simulation at the first broken promise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::checks::{Checks, Promise, Violation};
use crate::event::{Event, Process, Row, What};
use crate::trace::Names;

/// Everything that happened so far. Clones share it.
#[derive(Debug, Clone)]
pub struct Observer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started_at: Instant,
    record: Mutex<Record>,
    violated: Notify,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Record {
    /// In the order in which it happened.
    pub events: Vec<Event>,
    /// The names in the events.
    pub names: Names,
    /// The promises.
    pub checks: Checks,
    /// The first one that was broken.
    pub violation: Option<Violation>,
}

impl Observer {
    /// Time counts from now.
    pub fn new(checks: Checks) -> Self {
        let record = Record { checks, ..Record::default() };
        let shared =
            Shared { started_at: Instant::now(), record: Mutex::new(record), violated: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.shared.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What was seen, locked.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happens now.
    pub fn note(&self, what: What) {
        let event = Event { at: self.now(), what };
        let record = &mut *self.record();
        if record.violation.is_some() {
            return;
        }
        let verdict = record.checks.see(&event);
        record.events.push(event);
        if let Err(violation) = verdict {
            record.violation = Some(violation);
            self.shared.violated.notify_one();
        }
    }

    /// Notes a line of text.
    pub fn say(&self, text: impl Into<String>) {
        self.note(What::Note(text.into()));
    }

    /// A promise was broken.
    pub fn violate(&self, promise: Promise, why: String) {
        let at = self.now();
        let record = &mut *self.record();
        record.violation.get_or_insert(Violation { promise, at, why });
        self.shared.violated.notify_one();
    }

    /// Ends when a promise was broken.
    pub async fn violated(&self) {
        self.shared.violated.notified().await;
    }

    /// A new process under this name.
    pub fn new_process(&self, name: &str, clock: u64, is_kcl: bool) -> Process {
        let (process, name) = self.record().names.process(name);
        self.note(What::Started { process, name, clock, is_kcl });
        process
    }

    /// A lease as the checks see it.
    pub fn row(&self, lease: &lease_store::Lease) -> Row {
        let record = &mut *self.record();
        Row::of(lease, |name| record.names.worker(name))
    }
}
