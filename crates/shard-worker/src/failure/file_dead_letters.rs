//! A dead-letter sink that appends to a file.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lease_store::BoxError;

use super::dead_letter::{DeadLetter, DeadLetterSink};

/// Appends letters to a file, one line of JSON each, and waits until they are on the disk.
///
/// The first letter creates the file. A line that an earlier crash left unfinished is closed, so that the letters after it
/// can be read. Only one process may write to a file at a time.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use shard_worker::{DeadLetter, DeadLetterSink, FileDeadLetters, Record};
///
/// let record = Record::new(7_u128.into(), "not json".into());
/// let letter = DeadLetter::new("billing", "orders", "shardId-000000000000".parse()?, record, "expected value");
/// let sink = FileDeadLetters::new("dead-letters.jsonl");
/// sink.put(&letter).await?; // appends a line
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct FileDeadLetters {
    path: Arc<Path>,
    file: Arc<Mutex<Option<File>>>,
}

impl FileDeadLetters {
    /// A sink that appends to the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into(), file: Arc::default() }
    }

    fn append(&self, mut line: Vec<u8>) -> std::io::Result<()> {
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // After a failure the file is opened again, which closes an unfinished last line.
        let mut opened = match file.take() {
            Some(opened) => opened,
            None => open(&self.path)?,
        };
        opened.write_all(&line)?;
        opened.sync_data()?;
        *file = Some(opened);
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[async_trait]
impl DeadLetterSink for FileDeadLetters {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let (sink, line) = (self.clone(), letter.to_json()?);
        let written = tokio::task::spawn_blocking(move || sink.append(line)).await?;
        written.map_err(|error| {
            let path = self.path.display();
            format!(
                "the dead letter {} could not be written to {path}: {error}; check the file and its disk",
                letter.id()
            )
            .into()
        })
    }
}
