//! The terminal: its width, colours where it shows them, and output that is flushed.

use std::io::{self, IsTerminal, Write};

use fleet_view::Verdict;
use serde::Serialize;

use crate::exit_code::{CommandError, CommandErrorKind, output_error};

/// The width of an output that is no terminal, in characters.
const WIDTH_OF_FILES: usize = 120;

/// Moves the cursor to the top left and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const RESET: &str = "\u{1b}[0m";

/// Where a command writes its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    width: usize,
    is_terminal: bool,
    has_colour: bool,
}

impl Terminal {
    /// The standard output of this process.
    pub(crate) fn of_process() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let of_terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            width: columns.or_else(of_terminal).filter(|width| *width > 0).unwrap_or(WIDTH_OF_FILES),
            is_terminal,
            has_colour: is_terminal && !no_colour,
        }
    }

    /// The width in characters.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Whether a person sees it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes lines, and clears the screen before if it shows the same thing again and again.
    pub(crate) fn show(&self, lines: &[String], is_repeated: bool) -> Result<(), CommandError> {
        let mut text = String::new();
        if is_repeated && self.is_terminal {
            text.push_str(CLEAR);
        }
        for line in lines {
            match colour_of(line).filter(|_| self.has_colour) {
                Some(colour) => text.extend([colour, line, RESET, "\n"]),
                None => text.extend([line, "\n"]),
            }
        }
        if is_repeated && !self.is_terminal {
            text.push('\n');
        }
        print(text.as_bytes())
    }
}

/// Writes one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let mut text = serde_json::to_vec(value).map_err(|error| {
        CommandError::new(CommandErrorKind::Output, format!("the answer has no form in JSON: {error}"))
    })?;
    text.push(b'\n');
    print(&text)
}

/// Writes to the standard output, at once.
pub(crate) fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(output_error)
}

/// Splits a text into lines of at most this width, at spaces where it has any. Further lines are indented by two.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "  ";
    // Each line takes at least one character.
    let width = width.max(INDENT.len() + 1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut rest: &str = word;
        while let Some(line) = lines.last_mut() {
            let used = line.chars().count();
            let is_new = line.trim().is_empty();
            let space = usize::from(!is_new);
            if used + space + rest.chars().count() <= width {
                line.push_str(&" ".repeat(space));
                line.push_str(rest);
                break;
            }
            if is_new {
                // A word that is wider than the terminal.
                let end = rest.char_indices().nth(width - used).map_or(rest.len(), |(end, _)| end);
                line.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            lines.push(INDENT.to_owned());
        }
    }
    lines
}

/// The colour of a line: red for an alarm or an error, yellow for what may become one.
fn colour_of(line: &str) -> Option<&'static str> {
    let words = |verdict: Verdict| {
        let text = verdict.text();
        line.contains(&format!(" {text} ")) || line.ends_with(&format!(" {text}"))
    };
    let alarms = Verdict::ALL.into_iter().filter(|verdict| verdict.is_alarm());
    if line.starts_with("! ") || alarms.into_iter().any(words) || line.contains("losing records") {
        return Some(RED);
    }
    (words(Verdict::FallingBehind) || line.starts_with("- ")).then_some(YELLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_at_words() {
        assert_eq!(wrapped("- not known: the lag", 12), ["- not known:", "  the lag"]);
        assert_eq!(wrapped("a b", 40), ["a b"]);
        assert_eq!(wrapped("- abcdefghij", 6), ["-", "  abcd", "  efgh", "  ij"]);
        assert_eq!(wrapped("äöü", 1), ["äöü"]);
        for width in 1..20 {
            let lines = wrapped("one wonderfully long gap in a look", width);
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(3)), "{width}: {lines:?}");
        }
    }

    #[test]
    fn alarms_are_red_and_names_are_not() {
        assert_eq!(colour_of("words: stuck"), Some(RED));
        assert_eq!(colour_of("  000000000001  worker-1  stopped   2h"), Some(RED));
        assert_eq!(colour_of("  000000000001  worker-1  falling behind   2h"), Some(YELLOW));
        assert_eq!(colour_of("! no lease covers the hash keys 0-7"), Some(RED));
        assert_eq!(colour_of("  000000000001  unstuck-worker  ok   0s"), None);
    }
}
