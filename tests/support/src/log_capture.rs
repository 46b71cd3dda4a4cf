//! Captures the log events of a test program.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One log event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Its level.
    pub level: Level,
    /// Its message and fields as `name=value `, in the order of the call.
    pub text: String,
}

/// The log events of this process. Clones share them.
///
/// `tracing` decides once in a process which callsites are enabled, and other tests would take part in that decision. So a test
/// that captures the log has a program of its own (a file in `tests/`) and is the only test there.
#[derive(Debug, Clone, Default)]
pub struct LogCapture(Arc<Mutex<Vec<LogEvent>>>);

impl LogCapture {
    /// Captures every event of every level from now on.
    ///
    /// # Panics
    /// When the process has a subscriber already.
    pub fn install() -> Self {
        let capture = Self::default();
        tracing::subscriber::set_global_default(capture.clone()).expect("the only subscriber of the process");
        capture
    }

    /// All events since the last [`take`](Self::take).
    pub fn events(&self) -> Vec<LogEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the events since the last call and forgets them.
    pub fn take(&self) -> Vec<LogEvent> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`take`](Self::take), but returns warnings and errors only.
    pub fn take_warnings(&self) -> Vec<LogEvent> {
        self.take().into_iter().filter(|event| event.level <= Level::WARN).collect()
    }
}

impl Subscriber for LogCapture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| write!(text, "{field}={value:?} ").unwrap());
        let level = *event.metadata().level();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(LogEvent { level, text });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
