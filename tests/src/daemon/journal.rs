//! The journal of children: one line of JSON for each event, appended by all children of a daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a child did or was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// `initialize`, with the position.
    Initialize {
        /// The sequence number, or the name of a position.
        sequence_number: String,
    },
    /// A record.
    Record {
        /// Its payload: its number, unique in the stream.
        number: usize,
        /// Its sequence number.
        sequence_number: String,
    },
    /// A checkpoint was answered.
    Checkpoint {
        /// The action in which it was requested.
        during: String,
        /// The word of the answer; `None`: it is written.
        error: Option<String>,
    },
    /// The median time between a checkpoint that writes nothing and its answer.
    RoundTrip {
        /// In microseconds.
        micros: u64,
    },
    /// Another action: `leaseLost`, `shardEnded` or `shutdownRequested`.
    Told(String),
    /// The input was closed; the child exits.
    Closed,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The process of the child.
    pub process: u32,
    /// Its shard.
    pub shard: String,
    /// What happened.
    pub event: Event,
}

/// Appends to the journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens it, or creates it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Appends entries in one write, so that lines of several children do not mix.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, shard: &str, events: impl IntoIterator<Item = Event>) -> io::Result<()> {
        let mut lines = Vec::new();
        for event in events {
            let entry = Entry { process: std::process::id(), shard: shard.to_owned(), event };
            serde_json::to_writer(&mut lines, &entry)?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines)
    }
}

/// All entries so far. The last line of a killed child may be incomplete and is left out.
///
/// # Errors
/// When the file cannot be read, except that it does not exist yet.
pub fn entries(path: &Path) -> io::Result<Vec<Entry>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
