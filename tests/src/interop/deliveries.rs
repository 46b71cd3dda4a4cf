//! The file in which a worker records every delivery: the format that workers of both kinds write and the test reads.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lease_rows::KclPosition;

/// One delivery of one record. In the file it is one line with its fields between spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The worker that delivered it.
    pub worker: String,
    /// The shard that it was read from.
    pub shard: String,
    /// The record's position in its shard.
    pub position: KclPosition,
    /// The record's payload: its number, unique in the stream.
    pub number: usize,
    /// When it was delivered, in milliseconds since 1970 by the clock that all processes of a run share.
    pub at_millis: u128,
}

impl Delivery {
    fn to_line(&self) -> String {
        let (sequence_number, sub_sequence_number) = self.position.parts();
        let Self { worker, shard, number, at_millis, .. } = self;
        format!("{worker} {shard} {sequence_number} {sub_sequence_number} {number} {at_millis}\n")
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let mut field = || fields.next();
        Some(Self {
            worker: field()?.to_owned(),
            shard: field()?.to_owned(),
            position: KclPosition::new(field()?, field()?.parse().ok()?),
            number: field()?.parse().ok()?,
            at_millis: field()?.parse().ok()?,
        })
    }
}

/// The time of the machine's clock, in milliseconds since 1970.
// It only orders the events of several processes; nothing is decided by it.
#[allow(clippy::disallowed_methods)]
pub fn now_millis() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

/// Appends deliveries to a file, which several processes may share.
#[derive(Debug)]
pub struct DeliveryFile {
    file: File,
}

impl DeliveryFile {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Appends a batch in one write, so that lines of several processes do not mix. Once this has returned, the lines
    /// survive the end of the process.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, batch: &[Delivery]) -> io::Result<()> {
        let lines: String = batch.iter().map(Delivery::to_line).collect();
        self.file.write_all(lines.as_bytes())
    }
}

/// All deliveries in the files of a directory, read as they grow.
#[derive(Debug)]
pub struct Deliveries {
    directory: PathBuf,
    read_bytes: BTreeMap<PathBuf, u64>,
    all: Vec<Delivery>,
}

impl Deliveries {
    /// The extension of the files.
    pub const EXTENSION: &str = "deliveries";

    /// The files in this directory.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read_bytes: BTreeMap::new(), all: Vec::new() }
    }

    /// All deliveries in the files so far, in the order of time; deliveries with the same time keep the order of their file.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn refresh(&mut self) -> io::Result<&[Delivery]> {
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == Self::EXTENSION) {
                let read_bytes = self.read_bytes.entry(path.clone()).or_default();
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*read_bytes))?;
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                // A line without an end is still being written, or was cut off by a kill.
                let whole = text.rfind('\n').map_or(0, |last| last + 1);
                *read_bytes += whole as u64;
                self.all.extend(text[..whole].lines().filter_map(Delivery::from_line));
            }
        }
        self.all.sort_by_key(|delivery| delivery.at_millis);
        Ok(&self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(number: usize, at_millis: u128) -> Delivery {
        let position = KclPosition::new("4959", 2);
        Delivery { worker: "java-1".to_owned(), shard: "shardId-0".to_owned(), position, number, at_millis }
    }

    #[test]
    fn recorded_lines_are_read_back_and_a_partial_line_waits() {
        let directory = std::env::temp_dir().join(format!("deliveries-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.deliveries");
        let mut deliveries = Deliveries::new(&directory);
        DeliveryFile::append_to(&path).unwrap().append(&[delivery(1, 20), delivery(2, 10)]).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"java-1 shardId-0 4959 2").unwrap();
        assert_eq!(deliveries.refresh().unwrap(), [delivery(2, 10), delivery(1, 20)]);
        file.write_all(b" 3 30\n").unwrap();
        assert_eq!(deliveries.refresh().unwrap()[2], delivery(3, 30));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
