//! A file of everything that was delivered, for programs that check it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use kinesis_streaming::prelude::{RecordBatch, ShardContext};
use serde::{Deserialize, Serialize};

/// One delivery of one record: one line of the file, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// By which worker.
    pub worker_id: String,
    /// From which shard.
    pub shard_id: String,
    /// The record's sequence number.
    pub sequence_number: String,
    /// Its place inside an aggregated record.
    pub sub_sequence_number: u64,
    /// Its payload as text.
    pub text: String,
}

/// Appends deliveries to a file. What [`note`](Self::note) has returned for survives the end of the process.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Appends a batch, in one write.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, shard: &ShardContext, batch: &RecordBatch) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in batch {
            let line = JournalLine {
                worker_id: shard.worker_id.to_string(),
                shard_id: shard.shard_id.to_string(),
                sequence_number: record.sequence_number.to_string(),
                sub_sequence_number: record.sub_sequence_number,
                text: String::from_utf8_lossy(&record.data).into_owned(),
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines)
    }
}
