//! A state in a volatile store is warned about at the start.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use processor_state::{StateSettings, StateStore, stateful};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::counts;

/// A subscriber that records level and fields of all events, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl Subscriber for Log {
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
        self.0.lock().unwrap().push((*event.metadata().level(), text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_volatile_state_is_warned_about_at_the_start() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    assert!(stateful(counts(1), StateStore::volatile(), StateSettings::default()).is_err());
    let folder = std::env::temp_dir().join(format!("kinesis-streaming-kept-state-{}", std::process::id()));
    stateful(counts(1), StateStore::directory(&folder).unwrap(), StateSettings::default()).unwrap();
    std::fs::remove_dir(folder).unwrap();
    assert_eq!(log.0.lock().unwrap().len(), 0, "a refusal and a kept state need no warning");
    let settings = StateSettings { accepts_loss_at_restart: true, ..StateSettings::default() };
    stateful(counts(1), StateStore::volatile(), settings).unwrap();
    let log = log.0.lock().unwrap();
    let (level, text) = &log[0];
    assert_eq!((*level, log.len()), (Level::WARN, 1));
    assert!(text.contains("THE STATE IS NOT KEPT") && text.contains("positions advance"), "{text}");
}
