//! Text to put into a stream: the lines of files and folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders that hold no text of people.
const SKIPPED_FOLDERS: [&str; 2] = ["target", "node_modules"];

/// The longest piece that becomes one record, in bytes; far below the 1 MiB that a record may have.
const MAX_PIECE_BYTES: usize = 50 * 1024;

/// The files to read, found once, read one after another.
#[derive(Debug, Clone)]
pub struct TextInput {
    files: Vec<PathBuf>,
}

impl TextInput {
    /// All files at these paths, folders included with what is in them; without paths, this repository's own text.
    /// Hidden files and build output are left out.
    ///
    /// # Errors
    /// When a path cannot be read, or no file is found.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        let own_text = [Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
        let mut files = Vec::new();
        for path in if paths.is_empty() { &own_text[..] } else { paths } {
            collect(path, &mut files).map_err(|error| with_path(path, &error))?;
        }
        if files.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no file to read in {paths:?}"),
            ));
        }
        files.sort();
        Ok(Self { files })
    }

    /// The number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The text, cut into pieces of whole lines of about so many bytes (a single line if 0), each at most 50 KiB. What
    /// is no UTF-8 is replaced; pieces without a word are left out.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn pieces(&self, target_bytes: usize) -> io::Result<Vec<String>> {
        let mut pieces = Vec::new();
        for file in &self.files {
            let bytes = fs::read(file).map_err(|error| with_path(file, &error))?;
            cut(&String::from_utf8_lossy(&bytes), target_bytes, &mut pieces);
        }
        Ok(pieces)
    }
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        fs::metadata(path)?;
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !SKIPPED_FOLDERS.contains(&&*name) {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

fn cut(text: &str, target_bytes: usize, pieces: &mut Vec<String>) {
    let mut piece = String::new();
    for line in text.split_inclusive('\n') {
        // A line too long for a record is cut between words.
        for word_run in split_long(line) {
            piece.push_str(word_run);
            if piece.len() >= target_bytes || piece.len() + word_run.len() > MAX_PIECE_BYTES {
                finish(&mut piece, pieces);
            }
        }
    }
    finish(&mut piece, pieces);
}

fn split_long(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.len() <= MAX_PIECE_BYTES / 2 {
            return (!rest.is_empty()).then(|| std::mem::take(&mut rest));
        }
        let limit = rest.floor_char_boundary(MAX_PIECE_BYTES / 2);
        let end = rest[..limit]
            .rfind(char::is_whitespace)
            .map_or(limit, |space| rest.ceil_char_boundary(space + 1));
        let (head, tail) = rest.split_at(end);
        rest = tail;
        Some(head)
    })
}

fn finish(piece: &mut String, pieces: &mut Vec<String>) {
    if piece.split_whitespace().next().is_some() {
        pieces.push(std::mem::take(piece));
    }
    piece.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pieces: &[String]) -> Vec<&str> {
        pieces.iter().flat_map(|piece| piece.split_whitespace()).collect()
    }

    #[test]
    fn cutting_keeps_every_word() {
        let text = "one two\n\n three\r\nfour".to_owned() + &" word".repeat(40_000) + "\nlast";
        for target_bytes in [0, 10, 4096, usize::MAX] {
            let mut pieces = Vec::new();
            cut(&text, target_bytes, &mut pieces);
            assert_eq!(words(&pieces), text.split_whitespace().collect::<Vec<_>>());
            assert!(pieces.iter().all(|piece| piece.len() <= MAX_PIECE_BYTES + MAX_PIECE_BYTES / 2));
        }
    }

    #[test]
    fn reads_its_own_repository_by_default() {
        let input = TextInput::new(&[]).unwrap();
        assert!(input.file_count() > 10);
        assert!(!input.pieces(0).unwrap().is_empty());
        assert!(TextInput::new(&[PathBuf::from("no/such/file")]).is_err());
    }
}
