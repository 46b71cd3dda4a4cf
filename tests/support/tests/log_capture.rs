//! Captured log events. A program of its own: the other tests of a process would decide which call sites are enabled.

use test_support::{LogCapture, LogEvent};
use tracing::{Level, info, warn};

#[test]
fn events_are_captured_with_level_message_and_fields() {
    let log = LogCapture::install();
    info!(shard_id = "shard-0", "lease taken");
    warn!(attempts = 3, "write failed");
    let text = |level, text: &str| LogEvent { level, text: text.to_owned() };
    let warning = text(Level::WARN, "message=write failed attempts=3 ");
    assert_eq!(
        log.events(),
        [text(Level::INFO, "message=lease taken shard_id=\"shard-0\" "), warning.clone()]
    );
    assert_eq!(log.take_warnings(), [warning]);
    assert!(log.events().is_empty());
}
