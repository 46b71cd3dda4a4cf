//! A state that is not kept is warned about, loudly. A program of its own: what is logged where is decided once in a process.

#![allow(clippy::unwrap_used)] // a test may

use std::fmt::{Debug, Write as _};
use std::sync::Mutex;

use receiver::state::{StateSchema, StateSettings, StateStore, stateful, update_state_by_key};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Level and fields of all events, as text.
static LOG: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

struct Noting;

impl Subscriber for Noting {
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
        LOG.lock().unwrap().push((*event.metadata().level(), text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_state_that_is_not_kept_is_warned_about_at_the_start() {
    tracing::subscriber::set_global_default(Noting).unwrap();
    let logic = || {
        update_state_by_key(
            StateSchema::new("words", 1),
            |_| Ok(Vec::<(String, u64)>::new()),
            |count: Option<u64>, add| Some(count.unwrap_or(0) + add),
            |one, other| one + other,
        )
    };
    assert!(stateful(logic(), StateStore::volatile(), StateSettings::default()).is_err());
    let folder = std::env::temp_dir().join(format!("kinesis-streaming-kept-state-{}", std::process::id()));
    stateful(logic(), StateStore::directory(&folder).unwrap(), StateSettings::default()).unwrap();
    std::fs::remove_dir(folder).unwrap();
    assert_eq!(LOG.lock().unwrap().len(), 0, "nothing to warn about");
    let settings = StateSettings { accepts_loss_at_restart: true, ..StateSettings::default() };
    stateful(logic(), StateStore::volatile(), settings).unwrap();
    let log = LOG.lock().unwrap();
    let (level, text) = &log[0];
    assert_eq!((*level, log.len()), (Level::WARN, 1));
    assert!(text.contains("THE STATE IS NOT KEPT") && text.contains("positions move on"), "{text}");
}
