//! A state in a volatile store is warned about at the start.

use processor_state::{StateSettings, StateStore, stateful};
use test_support::{LogCapture, LogEvent};
use tracing::Level;

use crate::counts;

#[test]
fn a_volatile_state_is_warned_about_at_the_start() {
    let log = LogCapture::install();
    assert!(stateful(counts(1), StateStore::volatile(), StateSettings::default()).is_err());
    let folder = std::env::temp_dir().join(format!("kinesis-streaming-kept-state-{}", std::process::id()));
    stateful(counts(1), StateStore::directory(&folder).unwrap(), StateSettings::default()).unwrap();
    std::fs::remove_dir(folder).unwrap();
    assert_eq!(log.take(), [], "a refusal and a kept state need no warning");
    let settings = StateSettings { accepts_loss_at_restart: true, ..StateSettings::default() };
    stateful(counts(1), StateStore::volatile(), settings).unwrap();
    let log = log.take();
    let [LogEvent { level: Level::WARN, text }] = log.as_slice() else { unreachable!("{log:?}") };
    assert!(text.contains("THE STATE IS NOT KEPT") && text.contains("positions advance"), "{text}");
}
