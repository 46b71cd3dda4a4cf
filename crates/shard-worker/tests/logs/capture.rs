//! Captures the log events of the current thread: each test runs its worker on a thread of its own.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::sync::Once;

use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    /// The level and the fields of all events of this thread, as text.
    static EVENTS: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

static INSTALLED: Once = Once::new();

struct Capture;

impl Subscriber for Capture {
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
        EVENTS.with_borrow_mut(|events| events.push((*event.metadata().level(), text)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Starts to capture. Every test calls it first.
pub(crate) fn install() {
    INSTALLED.call_once(|| tracing::subscriber::set_global_default(Capture).unwrap());
}

/// The events of this thread since the last call.
pub(crate) fn take() -> Vec<(Level, String)> {
    EVENTS.take()
}
