//! JSON strings in ASCII: any other character is written as `\uhhhh`.
//!
//! A child may decode its input with any character set, and Node 24 splits lines at U+2028. ASCII is safe from both.

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends a quoted JSON string.
pub(super) fn push_string(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    let mut rest = text;
    while let Some(index) = rest.bytes().position(|byte| !is_plain(byte)) {
        let (plain, special) = rest.split_at(index);
        line.extend_from_slice(plain.as_bytes());
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            push_escaped(line, character);
        }
        rest = characters.as_str();
    }
    line.extend_from_slice(rest.as_bytes());
    line.push(b'"');
}

/// Appends a quoted JSON string, or `null`.
pub(super) fn push_optional_string(line: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => push_string(line, text),
        None => line.extend_from_slice(b"null"),
    }
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\'
}

fn push_escaped(line: &mut Vec<u8>, character: char) {
    let short = match character {
        '"' => b'"',
        '\\' => b'\\',
        '\u{8}' => b'b',
        '\t' => b't',
        '\n' => b'n',
        '\u{c}' => b'f',
        '\r' => b'r',
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                line.extend_from_slice(b"\\u");
                line.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(*unit >> shift & 0xF)]));
            }
            return;
        }
    };
    line.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let mut line = Vec::new();
        push_string(&mut line, text);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn escapes_are_those_of_the_java_daemon() {
        assert_eq!(written("a/b"), r#""a/b""#);
        assert_eq!(written("\"\\\t\u{1}\n"), r#""\"\\\t\u0001\n""#);
        assert_eq!(written("é☃😀\u{2028}"), r#""\u00E9\u2603\uD83D\uDE00\u2028""#);
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_of_ascii_and_reads_back(text: String) {
            let json = written(&text);
            prop_assert!(json.bytes().all(|byte| (0x20..0x80).contains(&byte)), "{}", json);
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
