//! Where the log lines of the crates go in a program: to standard error, filtered by `RUST_LOG`.

use std::env;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Writes log lines to standard error from here on. `RUST_LOG` names levels by target, as in `info,receiver=debug`; without it,
/// and where it cannot be read, only lines of `level` and above are written.
pub fn log_to_stderr(level: LevelFilter) {
    let asked = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
