//! A file of all deliveries, for programs that check it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use kinesis_streaming::prelude::{RecordBatch, ShardContext};
use serde::{Deserialize, Serialize};

/// One delivery of one record: one line of the file, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// The worker that it was delivered to.
    pub worker_id: String,
    /// The shard of the record.
    pub shard_id: String,
    /// The record's sequence number.
    pub sequence_number: String,
    /// The record's sub-sequence number in an aggregate; 0 outside.
    pub sub_sequence_number: u64,
    /// The record's payload as text.
    pub text: String,
}

/// Appends deliveries to a file. A batch survives the end of the process once [`append`](Self::append) has returned.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens the file, or creates it.
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
    pub fn append(&mut self, shard: &ShardContext, batch: &RecordBatch) -> io::Result<()> {
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
