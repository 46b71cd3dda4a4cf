//! What of a replay is done, for people, for a file, and for the next run.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit_code::{CommandError, CommandErrorKind, output_error};

/// After how many records a line is written to what is no terminal.
const REPORT_RECORDS: u64 = 10_000;

/// The largest file of progress that is read, in bytes: more than any stream has shards.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What the file says about its own format.
const FORMAT: &str = "kinesis-replay/1";

/// The position of a place that is done to its end.
const END: &str = "END";

/// The file of progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgressFile {
    format: String,
    source: String,
    /// The last position done of each place: a shard, or `line`.
    done: BTreeMap<String, String>,
}

/// What is done.
#[derive(Debug)]
pub(crate) struct Progress {
    file: ProgressFile,
    path: Option<PathBuf>,
    /// What the destination got, but has not confirmed yet.
    handed: BTreeMap<String, String>,
    /// The place and position of the last record that was handed over.
    last: Option<(String, String)>,
    /// The places that come after the present one.
    rest: Vec<String>,
    records: u64,
    reported: u64,
    skipped: u64,
    is_terminal: bool,
}

impl Progress {
    /// Continues where the file says, if there is one.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be read, or is about another source.
    pub(crate) fn start(source: String, path: Option<&Path>) -> Result<Self, CommandError> {
        let mut file = ProgressFile { format: FORMAT.to_owned(), source, done: BTreeMap::new() };
        if let Some(path) = path.filter(|path| path.exists()) {
            let found = read(path)?;
            if found.source != file.source {
                let message = format!(
                    "{} is the progress of the {}, not of the {}; name another file",
                    path.display(),
                    found.source,
                    file.source
                );
                return Err(CommandError::new(CommandErrorKind::Invalid, message));
            }
            file = found;
        }
        Ok(Self {
            file,
            path: path.map(Path::to_owned),
            handed: BTreeMap::new(),
            last: None,
            rest: Vec::new(),
            records: 0,
            reported: 0,
            skipped: 0,
            is_terminal: std::io::stderr().is_terminal(),
        })
    }

    /// The position after which a place continues; `None`: from its beginning.
    pub(crate) fn position(&self, place: &str) -> Option<&str> {
        self.file.done.get(place).map(String::as_str).filter(|position| *position != END)
    }

    /// Whether a place is done to its end.
    pub(crate) fn is_ended(&self, place: &str) -> bool {
        self.file.done.get(place).is_some_and(|position| position == END)
    }

    /// Notes records that the destination got.
    pub(crate) fn note(
        &mut self,
        place: &str,
        position: &str,
        count: usize,
        is_confirmed: bool,
    ) -> Result<(), CommandError> {
        self.records += count as u64;
        self.last = Some((place.to_owned(), position.to_owned()));
        self.advance(place, position, is_confirmed)?;
        if self.is_terminal {
            eprint!("\r{} records, {place} at {position} ", self.records);
        } else if self.records - self.reported >= REPORT_RECORDS {
            self.reported = self.records;
            eprintln!("kinesis-streaming: {} records, {place} at {position}", self.records);
        }
        Ok(())
    }

    /// Names the places that come after the present one, so that a person who continues by hand forgets none.
    pub(crate) fn set_rest(&mut self, rest: Vec<String>) {
        self.rest = rest;
    }

    /// Notes the end of a place.
    pub(crate) fn note_end(&mut self, place: &str, is_confirmed: bool) -> Result<(), CommandError> {
        self.advance(place, END, is_confirmed)
    }

    /// Notes something that is left out, and says so.
    pub(crate) fn skip(&mut self, place: &str, position: &str, why: &str) {
        self.skipped += 1;
        eprintln!("kinesis-streaming: {place} {position} is left out: {why}");
    }

    /// Confirms all that was handed over.
    pub(crate) fn confirm_all(&mut self) -> Result<(), CommandError> {
        let handed = std::mem::take(&mut self.handed);
        self.file.done.extend(handed);
        self.save()
    }

    fn advance(&mut self, place: &str, position: &str, is_confirmed: bool) -> Result<(), CommandError> {
        let list = if is_confirmed { &mut self.file.done } else { &mut self.handed };
        list.insert(place.to_owned(), position.to_owned());
        if is_confirmed { self.save() } else { Ok(()) }
    }

    /// Replaces the file at once, so that an end of the program in between leaves the old or the new one.
    fn save(&self) -> Result<(), CommandError> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = serde_json::to_vec_pretty(&self.file).map_err(|error| {
            CommandError::new(CommandErrorKind::Output, format!("the progress has no form in JSON: {error}"))
        })?;
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path)).map_err(output_error)
    }

    /// What was done, in one line.
    pub(crate) fn summary(&self) -> String {
        let skipped = match self.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} left out"),
        };
        match &self.last {
            None => format!("0 records replayed{skipped}"),
            Some((place, position)) => {
                format!("{} records replayed{skipped}; last position done: {place} {position}", self.records)
            }
        }
    }

    /// What is done after a failure, and how to continue.
    pub(crate) fn failure_summary(&self, confirms_batches: bool) -> String {
        let Some((place, position)) = &self.last else { return "nothing was replayed".to_owned() };
        if !confirms_batches {
            return format!(
                "{} records were handed over, up to {place} {position}; it is not known which of them were processed",
                self.records
            );
        }
        let resume = match (&self.path, place.as_str()) {
            (Some(path), _) => format!("the same command with --progress {}", path.display()),
            (None, "line") => format!("--after-line {position}"),
            (None, _) => format!(
                "--shard {place} --after {position}{}",
                self.rest_text("then the same range with --shard ", " --shard ")
            ),
        };
        format!(
            "{} records are done; last position done: {place} {position}; continue with {resume}",
            self.records
        )
    }
}

impl Progress {
    fn rest_text(&self, before: &str, between: &str) -> String {
        if self.rest.is_empty() { String::new() } else { format!("; {before}{}", self.rest.join(between)) }
    }
}

fn read(path: &Path) -> Result<ProgressFile, CommandError> {
    let shown = path.display();
    let invalid = |message: String| CommandError::new(CommandErrorKind::Invalid, message);
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size > MAX_FILE_BYTES {
        return Err(invalid(format!(
            "{shown} has {size} bytes, more than {MAX_FILE_BYTES}; name another file"
        )));
    }
    let text = std::fs::read(path)
        .map_err(|error| invalid(format!("{shown} cannot be read: {error}")).with_source(error))?;
    let file: ProgressFile = serde_json::from_slice(&text)
        .map_err(|error| invalid(format!("{shown} is no file of progress: {error}; name another file")))?;
    if file.format != FORMAT {
        return Err(invalid(format!("{shown} has the format {:?}, not {FORMAT:?}", file.format)));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(test: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("replay-progress-{test}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn next_run_continues_after_the_last_position() {
        let path = path("continues");
        let mut progress = Progress::start("stream words".to_owned(), Some(&path)).unwrap();
        progress.note("shardId-1", "7/2", 3, true).unwrap();
        progress.note_end("shardId-0", true).unwrap();
        let next = Progress::start("stream words".to_owned(), Some(&path)).unwrap();
        assert_eq!(next.position("shardId-1"), Some("7/2"));
        assert!(next.is_ended("shardId-0") && next.position("shardId-0").is_none());
        let other = Progress::start("stream lines".to_owned(), Some(&path)).unwrap_err();
        assert!(other.to_string().contains("not of the stream lines"), "{other}");
        std::fs::write(&path, "{}").unwrap();
        let error = Progress::start("stream words".to_owned(), Some(&path)).unwrap_err();
        assert_eq!(error.kind(), CommandErrorKind::Invalid);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn summary_names_the_shards_that_are_left() {
        let mut progress = Progress::start("stream words".to_owned(), None).unwrap();
        progress.set_rest(vec!["shardId-2".to_owned(), "shardId-3".to_owned()]);
        progress.note("shardId-1", "7", 1, true).unwrap();
        let text = progress.failure_summary(true);
        assert!(
            text.ends_with("--after 7; then the same range with --shard shardId-2 --shard shardId-3"),
            "{text}"
        );
        progress.set_rest(Vec::new());
        assert!(progress.summary().ends_with("last position done: shardId-1 7"));
    }

    #[test]
    fn what_is_not_confirmed_is_not_done() {
        let path = path("confirmed");
        let mut progress = Progress::start("file a".to_owned(), Some(&path)).unwrap();
        progress.note("line", "7", 7, false).unwrap();
        assert!(!path.exists());
        assert!(progress.failure_summary(false).contains("not known which"));
        progress.confirm_all().unwrap();
        let next = Progress::start("file a".to_owned(), Some(&path)).unwrap();
        assert_eq!(next.position("line"), Some("7"));
        std::fs::remove_file(&path).unwrap();
    }
}
