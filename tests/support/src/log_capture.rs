//! Captures the log events of a test.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::marker::PhantomData;
use std::sync::Once;

use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    /// The events of this thread.
    static EVENTS: RefCell<Vec<LogEvent>> = const { RefCell::new(Vec::new()) };
}

static INSTALLED: Once = Once::new();

/// One log event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Its level.
    pub level: Level,
    /// Its message and fields as `name=value `, in the order of the call.
    pub text: String,
}

/// The log events of the current thread, so each test sees its own: the test harness gives each test a thread, and a
/// single-threaded runtime runs all tasks of the test there.
///
/// `tracing` has one subscriber for the process and caches for each call site whether it is enabled. So each test of a program
/// that captures the log installs it first.
#[derive(Debug)]
pub struct LogCapture {
    /// A capture belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl LogCapture {
    /// Captures every event of every level from now on.
    ///
    /// # Panics
    /// When the process has another subscriber.
    pub fn install() -> Self {
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Capturing).expect("the only subscriber of the process");
        });
        Self { not_send: PhantomData }
    }

    /// All events since the last [`take`](Self::take).
    pub fn events(&self) -> Vec<LogEvent> {
        EVENTS.with_borrow(Clone::clone)
    }

    /// Returns the events since the last call and forgets them.
    pub fn take(&self) -> Vec<LogEvent> {
        EVENTS.take()
    }

    /// As [`take`](Self::take), but returns warnings and errors only.
    pub fn take_warnings(&self) -> Vec<LogEvent> {
        self.take().into_iter().filter(|event| event.level <= Level::WARN).collect()
    }
}

struct Capturing;

impl Subscriber for Capturing {
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
        EVENTS.with_borrow_mut(|events| events.push(LogEvent { level, text }));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
