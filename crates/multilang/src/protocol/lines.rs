//! Bytes of a pipe as lines of limited length.

/// The most bytes of a child's line that are kept; a message has a few hundred. The rest of a longer line is counted and
/// dropped.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Splits bytes into lines. A line ends with `\n`, `\r\n` or a single `\r`, as Java reads them.
#[derive(Debug)]
pub struct LineSplitter {
    line: Vec<u8>,
    dropped_bytes: u64,
    max_line_bytes: usize,
    /// The last byte was `\r`: a `\n` that follows belongs to it.
    is_after_return: bool,
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::new(MAX_LINE_BYTES)
    }
}

impl LineSplitter {
    /// A splitter that keeps at most this many bytes of a line.
    pub fn new(max_line_bytes: usize) -> Self {
        Self { line: Vec::new(), dropped_bytes: 0, max_line_bytes, is_after_return: false }
    }

    /// Takes more bytes, and calls `each` with each line that they complete and the number of its dropped bytes.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], u64)) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.is_after_return) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            match bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                Some(end) => {
                    self.keep(&bytes[..end]);
                    self.is_after_return = bytes[end] == b'\r';
                    bytes = &bytes[end + 1..];
                    self.end_line(&mut each);
                }
                None => {
                    self.keep(bytes);
                    return;
                }
            }
        }
    }

    /// The pipe is closed: calls `each` with a last line that has no end.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8], u64)) {
        if !self.line.is_empty() {
            self.end_line(&mut each);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.max_line_bytes - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.dropped_bytes += (bytes.len() - kept) as u64;
    }

    fn end_line(&mut self, each: &mut impl FnMut(&[u8], u64)) {
        each(&self.line, std::mem::take(&mut self.dropped_bytes));
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], max_line_bytes: usize) -> Vec<(Vec<u8>, u64)> {
        let mut splitter = LineSplitter::new(max_line_bytes);
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line, dropped| lines.push((line.to_vec(), dropped)));
        }
        splitter.finish(|line, dropped| lines.push((line.to_vec(), dropped)));
        lines
    }

    fn texts(chunks: &[&[u8]]) -> Vec<String> {
        split(chunks, 100).into_iter().map(|(line, _)| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn all_three_line_ends_count() {
        assert_eq!(texts(&[b"a\nb\r\nc\rd"]), ["a", "b", "c", "d"]);
        assert_eq!(texts(&[b"a\r", b"\nb\n"]), ["a", "b"]);
        assert_eq!(texts(&[b"\n\r\n\r"]), ["", "", ""]);
    }

    #[test]
    fn long_line_is_cut_and_counted() {
        assert_eq!(split(&[b"abcdef", b"gh\nij\n"], 4), [(b"abcd".to_vec(), 4), (b"ij".to_vec(), 0)]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_change_the_lines(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            cut in 0_usize..200,
        ) {
            let cut = cut.min(bytes.len());
            let parts = split(&[&bytes[..cut], &bytes[cut..]], 16);
            prop_assert_eq!(&parts, &split(&[&bytes], 16));
            prop_assert!(parts.iter().all(|(line, _)| line.len() <= 16));
        }
    }
}
