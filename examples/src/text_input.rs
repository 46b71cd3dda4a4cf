//! Text to put into a stream: the lines of files and folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Folders whose files are build output.
const SKIPPED_FOLDERS: [&str; 2] = ["target", "node_modules"];

/// The largest piece that becomes one record, in bytes, far below the 1 MiB limit of a record.
const MAX_PIECE_BYTES: usize = 50 * 1024;

/// The files to read, listed once and read one after the other.
#[derive(Debug, Clone)]
pub struct TextInput {
    files: Vec<PathBuf>,
    bytes: u64,
    left_out: usize,
}

impl TextInput {
    /// All files at these paths and in the folders among them; without paths, the text of this repository. In a folder, hidden
    /// files and build output are left out, and so is all that is neither a file nor a folder (a link may lead in a circle or to
    /// nothing, a pipe may never end) or cannot be read.
    ///
    /// # Errors
    /// When a path cannot be read, or no file is found.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        let own_text = [Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
        let mut input = Self { files: Vec::new(), bytes: 0, left_out: 0 };
        for path in if paths.is_empty() { &own_text[..] } else { paths } {
            input.collect_named(path).map_err(|error| with_path(path, &error))?;
        }
        if input.files.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no file to read in {paths:?}"),
            ));
        }
        input.files.sort();
        Ok(input)
    }

    /// The number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The number of entries in folders that are neither files nor folders, or that cannot be read.
    pub fn left_out_count(&self) -> usize {
        self.left_out
    }

    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The text, cut into pieces of whole lines of about `target_bytes` (a single line if 0), each at most 50 KiB. Bytes that are
    /// not UTF-8 are replaced; pieces without a word are left out.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn pieces(&self, target_bytes: usize) -> io::Result<Vec<String>> {
        self.pieces_with_progress(target_bytes, &AtomicU64::new(0))
    }

    /// As [`pieces`](Self::pieces); adds the bytes that were read to a counter, for a progress display.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn pieces_with_progress(
        &self,
        target_bytes: usize,
        read_bytes: &AtomicU64,
    ) -> io::Result<Vec<String>> {
        let mut pieces = Vec::new();
        for file in &self.files {
            let bytes = fs::read(file).map_err(|error| with_path(file, &error))?;
            cut(&String::from_utf8_lossy(&bytes), target_bytes, read_bytes, &mut pieces);
        }
        Ok(pieces)
    }

    /// A path that the user named, which may be a link.
    fn collect_named(&mut self, path: &Path) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            return self.collect_folder(path);
        }
        self.bytes += metadata.len();
        self.files.push(path.to_owned());
        Ok(())
    }

    fn collect_folder(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || SKIPPED_FOLDERS.contains(&&*name) {
                continue;
            }
            // Neither the type nor the metadata of an entry follows a link.
            let path = entry.path();
            let is_collected = match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => self.collect_folder(&path).is_ok(),
                Ok(metadata) if metadata.is_file() && fs::File::open(&path).is_ok() => {
                    self.bytes += metadata.len();
                    self.files.push(path);
                    true
                }
                Ok(_) | Err(_) => false,
            };
            self.left_out += usize::from(!is_collected);
        }
        Ok(())
    }
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn cut(text: &str, target_bytes: usize, read_bytes: &AtomicU64, pieces: &mut Vec<String>) {
    let mut piece = String::new();
    for line in text.split_inclusive('\n') {
        read_bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
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
            let read_bytes = AtomicU64::new(0);
            cut(&text, target_bytes, &read_bytes, &mut pieces);
            assert_eq!(read_bytes.into_inner(), text.len() as u64);
            assert_eq!(words(&pieces), text.split_whitespace().collect::<Vec<_>>());
            assert!(pieces.iter().all(|piece| piece.len() <= MAX_PIECE_BYTES + MAX_PIECE_BYTES / 2));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_sockets_in_a_folder_are_left_out() {
        let folder = std::env::temp_dir().join(format!("text-input-{}", std::process::id()));
        let inner = folder.join("inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("bytes"), b"caf\xe9 latte\n").unwrap();
        std::os::unix::fs::symlink("..", inner.join("circle")).unwrap();
        std::os::unix::fs::symlink("/no/such/file", inner.join("to-nothing")).unwrap();
        std::os::unix::net::UnixListener::bind(inner.join("socket")).unwrap();
        let input = TextInput::new(std::slice::from_ref(&folder)).unwrap();
        let by_link = TextInput::new(&[inner.join("circle")]).unwrap();
        let pieces = input.pieces(0).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((input.file_count(), input.left_out_count(), input.bytes()), (1, 3, 11));
        assert_eq!(words(&pieces), ["caf\u{fffd}", "latte"]);
        assert_eq!(by_link.file_count(), 1, "a link that the user named is followed");
    }

    #[test]
    fn reads_its_own_repository_by_default() {
        let input = TextInput::new(&[]).unwrap();
        assert!(input.file_count() > 10 && input.bytes() > 10_000);
        assert!(!input.pieces(0).unwrap().is_empty());
        assert!(TextInput::new(&[PathBuf::from("no/such/file")]).is_err());
    }
}
