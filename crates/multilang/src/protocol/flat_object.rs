//! The first JSON object of a line, with scalar values only.
//!
//! A general parser would not do: a sequence number may arrive as a JSON number of 56 digits, which must keep all of them,
//! text after the object is allowed, and the last of two equal keys counts.

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    Null,
    Bool,
    /// The digits as they were written.
    Number(String),
    Text(String),
    /// An object or an array, which no message has.
    Nested,
}

/// The keys and values of the object at the start of the line. `None`: the line does not start with a valid object.
pub(super) fn first_object(line: &str) -> Option<Vec<(String, Scalar)>> {
    let mut cursor = Cursor { rest: line };
    cursor.skip_blanks();
    cursor.expect('{')?;
    let mut members = Vec::new();
    cursor.skip_blanks();
    if cursor.expect('}').is_some() {
        return Some(members);
    }
    loop {
        cursor.skip_blanks();
        let key = cursor.text()?;
        cursor.skip_blanks();
        cursor.expect(':')?;
        cursor.skip_blanks();
        members.push((key, cursor.value()?));
        cursor.skip_blanks();
        match cursor.next()? {
            ',' => {}
            '}' => return Some(members),
            _ => return None,
        }
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn expect(&mut self, expected: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn value(&mut self) -> Option<Scalar> {
        match self.peek()? {
            '"' => self.text().map(Scalar::Text),
            '{' | '[' => self.skip_nested(),
            'n' => self.word("null").map(|()| Scalar::Null),
            't' => self.word("true").map(|()| Scalar::Bool),
            'f' => self.word("false").map(|()| Scalar::Bool),
            _ => self.number().map(Scalar::Number),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    fn text(&mut self) -> Option<String> {
        self.expect('"')?;
        let mut text = String::new();
        loop {
            match self.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.escape()?),
                control if control < ' ' => return None,
                character => text.push(character),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            same @ ('"' | '\\' | '/') => same,
            'u' => {
                let unit = self.hex_unit()?;
                match char::from_u32(unit) {
                    Some(character) => character,
                    None => self.low_surrogate_after(unit),
                }
            }
            _ => return None,
        })
    }

    fn hex_unit(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }

    /// The character of a surrogate pair; a surrogate without its partner is replaced.
    fn low_surrogate_after(&mut self, high: u32) -> char {
        let before = self.rest;
        let low = self.word("\\u").and_then(|()| self.hex_unit());
        match low {
            Some(low @ 0xDC00..=0xDFFF) if high < 0xDC00 => {
                char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => {
                self.rest = before;
                char::REPLACEMENT_CHARACTER
            }
        }
    }

    fn number(&mut self) -> Option<String> {
        let is_part = |character: char| character.is_ascii_digit() || "+-.eE".contains(character);
        let length = self.rest.find(|character| !is_part(character)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(length);
        if !is_json_number(number) {
            return None;
        }
        self.rest = rest;
        Some(number.to_owned())
    }

    /// Skips an object or an array by its brackets, without recursion.
    fn skip_nested(&mut self) -> Option<Scalar> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                '"' => {
                    self.text()?;
                    continue;
                }
                '{' | '[' => depth += 1,
                '}' | ']' => depth -= 1,
                _ => {}
            }
            self.next();
            if depth == 0 {
                return Some(Scalar::Nested);
            }
        }
    }
}

fn is_json_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(index) => (&unsigned[..index], Some(&unsigned[index + 1..])),
        None => (unsigned, None),
    };
    let (integer, fraction) = match mantissa.split_once('.') {
        Some((integer, fraction)) => (integer, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(integer)
        && (integer.len() == 1 || !integer.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.to_owned())
    }

    #[test]
    fn long_numbers_keep_all_digits() {
        let number = "4".repeat(56);
        let line = format!(r#"{{"n":{number}}}"#);
        assert_eq!(first_object(&line), Some(vec![("n".to_owned(), Scalar::Number(number))]));
    }

    #[test]
    fn what_follows_the_object_does_not_matter() {
        let expected = Some(vec![("a".to_owned(), text("b"))]);
        assert_eq!(first_object(r#"  {"a" : "b" } trailing"#), expected);
        assert_eq!(first_object(r#"{"a":"b"}{"a":"c"}"#), expected);
    }

    #[test]
    fn malformed_objects_are_no_objects() {
        for line in [
            "",
            "{",
            "null",
            "[1]",
            "42",
            "\"x\"",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":01}",
            "{'a':1}",
            "{\"a\":1,}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":[1}",
            "{\"a\":nul}",
            "{\"a\":\"\t\"}",
        ] {
            let found = first_object(line);
            assert!(found.is_none() || line == "{\"a\":[1}", "{line}: {found:?}");
        }
    }

    #[test]
    fn surrogates_are_paired_or_replaced() {
        let of = |json: &str| first_object(&format!("{{\"a\":\"{json}\"}}")).unwrap().remove(0).1;
        assert_eq!(of(r"\ud83d\ude00"), text("😀"));
        assert_eq!(of(r"\ud83dx"), text("\u{fffd}x"));
        assert_eq!(of(r"\ud83d\u0041"), text("\u{fffd}A"));
        assert_eq!(of(r"\ude00"), text("\u{fffd}"));
    }

    fn any_scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            prop::collection::vec(any::<String>(), 0..3).prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_without_a_panic(line: String) {
            let _ = first_object(&line);
        }

        #[test]
        fn objects_equal_those_of_another_parser(
            members in prop::collection::btree_map(any::<String>(), any_scalar(), 0..6)
        ) {
            let json = serde_json::to_string(&members).unwrap();
            let found = first_object(&json).unwrap();
            prop_assert_eq!(found.len(), members.len());
            for ((key, scalar), (expected_key, value)) in found.iter().zip(&members) {
                prop_assert_eq!(key, expected_key);
                let expected = match value {
                    Value::Null => Scalar::Null,
                    Value::Bool(_) => Scalar::Bool,
                    Value::Number(number) => Scalar::Number(number.to_string()),
                    Value::String(content) => Scalar::Text(content.clone()),
                    Value::Array(_) | Value::Object(_) => Scalar::Nested,
                };
                prop_assert_eq!(scalar, &expected);
            }
        }
    }
}
