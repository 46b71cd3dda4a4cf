//! The syntax of `java.util.Properties`: escapes, continued lines, comments, encodings.

use std::borrow::Cow;

use crate::error::{MultilangError, MultilangErrorKind};

/// The largest properties file.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// The key, unescaped.
    pub key: String,
    /// The value, unescaped, with its trailing blanks.
    pub value: String,
    /// The line where it starts, from 1.
    pub line: usize,
}

/// The content of a properties file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedFile {
    /// All properties in the order of the file, duplicates included.
    pub properties: Vec<Property>,
    /// The file has characters beyond ASCII in UTF-8. Java would read each byte as one character.
    pub is_utf8: bool,
}

/// Parses a properties file. Bytes beyond ASCII are read as UTF-8 if all of them are valid UTF-8, otherwise as ISO-8859-1.
///
/// # Errors
/// `InvalidProperties` for a malformed `\uhhhh` escape, with its line, and for a file that is too large.
pub fn parse_properties(bytes: &[u8]) -> Result<ParsedFile, MultilangError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(invalid(format!(
            "properties file of {} bytes is larger than {MAX_FILE_BYTES}; check the path",
            bytes.len()
        )));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_utf8 = !bytes.is_ascii() && std::str::from_utf8(bytes).is_ok();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
    };
    let properties = logical_lines(&text)
        .into_iter()
        .map(|(line, content)| property(line, &content))
        .collect::<Result<_, _>>()?;
    Ok(ParsedFile { properties, is_utf8 })
}

fn invalid(message: String) -> MultilangError {
    MultilangError::new(MultilangErrorKind::InvalidProperties, message)
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{c}')
}

/// Lines without comments and blank ones, with continued lines joined, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut continued: Option<(usize, String)> = None;
    for (index, natural) in natural_lines(text).into_iter().enumerate() {
        let content = natural.trim_start_matches(is_blank);
        if continued.is_none() && (content.is_empty() || content.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = content.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let is_continued = backslashes % 2 == 1;
        let kept = if is_continued { &content[..content.len() - 1] } else { content };
        let (number, mut joined) = continued.take().unwrap_or((index + 1, String::new()));
        joined.push_str(kept);
        if is_continued {
            continued = Some((number, joined));
        } else {
            lines.push((number, joined));
        }
    }
    // The file ends with a continued line.
    lines.extend(continued.filter(|(_, joined)| !joined.is_empty()));
    lines
}

/// Lines that end with `\n`, `\r` or `\r\n`.
fn natural_lines(text: &str) -> Vec<&str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r')).collect()
}

fn property(line: usize, content: &str) -> Result<Property, MultilangError> {
    let mut is_escaped = false;
    let key_end = content.find(|character| {
        let ends = !is_escaped && (is_blank(character) || matches!(character, '=' | ':'));
        is_escaped = character == '\\' && !is_escaped;
        ends
    });
    let (key, rest) = content.split_at(key_end.unwrap_or(content.len()));
    let rest = rest.trim_start_matches(is_blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(is_blank);
    Ok(Property { key: unescaped(line, key)?, value: unescaped(line, value)?, line })
}

fn unescaped(line: usize, text: &str) -> Result<String, MultilangError> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    // An escape is a UTF-16 unit, so a character beyond the first plane is two of them.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            '\\' => match characters.next() {
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
                    units.push(unit.ok_or_else(|| {
                        invalid(format!(
                            "line {line}: malformed escape \\u{digits}; write four hexadecimal digits, or a backslash as \\\\"
                        ))
                    })?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => continue,
            },
            other => other,
        };
        units.extend_from_slice(literal.encode_utf16(&mut [0; 2]));
    }
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &[u8]) -> Vec<(String, String)> {
        let parsed = parse_properties(text).unwrap();
        parsed.properties.into_iter().map(|property| (property.key, property.value)).collect()
    }

    fn one(text: &str) -> (String, String) {
        let mut all = pairs(text.as_bytes());
        assert_eq!(all.len(), 1, "{text:?}: {all:?}");
        all.remove(0)
    }

    #[test]
    fn separators_blanks_and_comments_are_those_of_java() {
        for text in
            ["a=b", "a = b", "a:b", "a b", "  a\t=\t b", "a\u{c}b", "# c\n! d\n\n  # e\na=b", "a=b\r\n"]
        {
            assert_eq!(one(text), ("a".to_owned(), "b".to_owned()), "{text:?}");
        }
        assert_eq!(one("streamName = s # x").1, "s # x");
        assert_eq!(one("a = trailing   ").1, "trailing   ");
        assert_eq!(one("a==b"), ("a".to_owned(), "=b".to_owned()));
        assert_eq!(one("a"), ("a".to_owned(), String::new()));
        assert_eq!(one("a\\ b\\=c = d"), ("a b=c".to_owned(), "d".to_owned()));
    }

    #[test]
    fn continued_lines_lose_their_indentation() {
        assert_eq!(one("a = b,\\\n    c").1, "b,c");
        assert_eq!(one("a = b\\\\\n").1, "b\\");
        assert_eq!(one("a = b\\\n# c").1, "b# c");
        assert_eq!(one("a = b\\").1, "b");
        let parsed = parse_properties(b"# x\na = b\\\n c\nd = e\n").unwrap();
        assert_eq!(parsed.properties.iter().map(|property| property.line).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn escapes_are_those_of_java() {
        assert_eq!(one(r"a = \t\n\r\f\q\\").1, "\t\n\r\u{c}q\\");
        assert_eq!(one(r"a = \u00e9\uD83D\uDE00").1, "é😀");
        for malformed in [r"a = \u12", r"a = \u12g4", r"a = \u+123"] {
            let error = parse_properties(malformed.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), MultilangErrorKind::InvalidProperties);
            assert!(error.to_string().starts_with("line 1: malformed escape"), "{error}");
        }
    }

    #[test]
    fn utf8_is_read_as_such_and_other_bytes_as_latin_1() {
        assert_eq!(one("a = é").1, "é");
        assert!(parse_properties("a = é".as_bytes()).unwrap().is_utf8);
        assert_eq!(pairs(b"a = \xe9"), [("a".to_owned(), "é".to_owned())]);
        assert_eq!(pairs(b"\xef\xbb\xbfa = b"), [("a".to_owned(), "b".to_owned())]);
        assert!(parse_properties(&vec![b'#'; MAX_FILE_BYTES + 1]).is_err());
    }

    /// As `java.util.Properties.store` writes a text.
    fn stored(text: &str) -> String {
        let mut out = String::new();
        for unit in text.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
                Ok(byte) if byte.is_ascii_graphic() || byte == b' ' => out.extend(['\\', char::from(byte)]),
                _ => out.push_str(&format!("\\u{unit:04X}")),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_properties(&bytes);
        }

        #[test]
        fn stored_properties_read_back(pairs_written in prop::collection::vec(("[^u]{1,8}", "[^u]*"), 0..5)) {
            let mut text = String::new();
            for (key, value) in &pairs_written {
                text.push_str(&format!("{} = {}\n", stored(key), stored(value)));
            }
            prop_assert_eq!(pairs(text.as_bytes()), pairs_written);
        }

        #[test]
        fn line_ends_do_not_change_the_content(lines in prop::collection::vec("[a-z]{1,4} ?= ?[a-z ]{0,6}", 0..6)) {
            let expected = pairs(lines.join("\n").as_bytes());
            prop_assert_eq!(&pairs(lines.join("\r\n").as_bytes()), &expected);
            prop_assert_eq!(&pairs(lines.join("\r").as_bytes()), &expected);
        }
    }
}
