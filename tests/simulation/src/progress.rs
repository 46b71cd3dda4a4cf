//! Reports on standard error how far a long command is: a redrawn line on a terminal, and a line every few seconds elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// Time between two updates of the line on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two lines where standard error is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one command.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    started_at: Instant,
    shown_at: Instant,
    is_line_open: bool,
}

/// Returns the current time, which is only displayed.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

impl Progress {
    /// Prints what the command is about to do.
    pub fn start(text: &str) -> Self {
        eprintln!("{text}");
        let now = now();
        Self { is_terminal: stderr().is_terminal(), started_at: now, shown_at: now, is_line_open: false }
    }

    /// Shows the state of the command, unless the last update was a moment ago.
    pub fn update(&mut self, text: impl FnOnce() -> String) {
        let now = now();
        let interval = if self.is_terminal { TERMINAL_INTERVAL } else { PLAIN_INTERVAL };
        if now.duration_since(self.shown_at) < interval {
            return;
        }
        self.shown_at = now;
        let seconds = now.duration_since(self.started_at).as_secs();
        let text = text();
        if self.is_terminal {
            self.is_line_open = true;
            eprint!("\r\x1b[2K[{seconds} s] {text}");
            // The line is a courtesy; a closed standard error is no failure.
            let _ = stderr().flush();
        } else {
            eprintln!("[{seconds} s] {text}");
        }
    }

    /// Removes the line from the terminal, before other output.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_line_open) {
            eprint!("\r\x1b[2K");
        }
    }
}
