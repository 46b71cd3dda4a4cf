//! Where log lines go: to the standard error, so that the standard output is that of the children.

use std::env;
use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Writes log lines to the standard error from here on. `RUST_LOG` names levels by target, as in `info,receiver=debug`; without
/// it, and where it cannot be read, only lines of `level` and above are written.
pub(super) fn log_to_stderr(level: LevelFilter) {
    let asked = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    // Fails only where a subscriber is installed already.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}
