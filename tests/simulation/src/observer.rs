//! Records every event, passes it to the checks, and stops the simulation at the first broken promise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::checks::{Checks, Promise, Violation};
use crate::event::{Event, EventKind, Process, Row};
use crate::trace::Names;

/// The history of the simulation. Clones share it.
#[derive(Debug, Clone)]
pub struct Observer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started_at: Instant,
    history: Mutex<History>,
    violated: Notify,
}

/// The events so far and the state of the checks.
#[derive(Debug, Default)]
pub struct History {
    /// Events in order.
    pub events: Vec<Event>,
    /// The names in the events.
    pub names: Names,
    /// The checks.
    pub checks: Checks,
    /// The first broken promise.
    pub violation: Option<Violation>,
}

impl Observer {
    /// Starts the clock of the events.
    pub fn new(checks: Checks) -> Self {
        let history = History { checks, ..History::default() };
        let shared =
            Shared { started_at: Instant::now(), history: Mutex::new(history), violated: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.shared.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Locks the history.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event at the current time.
    pub fn record(&self, kind: EventKind) {
        let event = Event { at: self.now(), kind };
        let history = &mut *self.history();
        if history.violation.is_some() {
            return;
        }
        let verdict = history.checks.observe(&event);
        history.events.push(event);
        if let Err(violation) = verdict {
            history.violation = Some(violation);
            self.shared.violated.notify_one();
        }
    }

    /// Records a line of text.
    pub fn record_note(&self, text: impl Into<String>) {
        self.record(EventKind::Note(text.into()));
    }

    /// Reports a broken promise.
    pub fn report_violation(&self, promise: Promise, why: String) {
        let at = self.now();
        let history = &mut *self.history();
        history.violation.get_or_insert(Violation { promise, at, why });
        self.shared.violated.notify_one();
    }

    /// Waits until a promise is broken.
    pub async fn violated(&self) {
        self.shared.violated.notified().await;
    }

    /// Records a new process of a worker.
    pub fn new_process(&self, name: &str, clock: u64, is_kcl: bool) -> Process {
        let (process, name) = self.history().names.process(name);
        self.record(EventKind::ProcessStarted { process, name, clock, is_kcl });
        process
    }

    /// Converts a lease for the checks.
    pub fn row(&self, lease: &lease_store::Lease) -> Row {
        let history = &mut *self.history();
        Row::of(lease, |name| history.names.worker(name))
    }
}
