//! Lines of the child as messages.
//!
//! This parser accepts more than the Java daemon where Java would skip a line and then wait for ever: unknown keys, the key
//! `checkpoint` of old clients, a byte order mark. It accepts nothing that Java would read differently.

use super::checkpoint::CheckpointRequest;
use super::flat_object::{Scalar, first_object};

/// A line that the child wrote to its standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FromChild {
    /// The child has finished an action.
    Status {
        /// The action. `None`: the field is missing or not a text.
        response_for: Option<String>,
    },
    /// The child wants to checkpoint.
    Checkpoint(CheckpointRequest),
    /// The child wants to checkpoint, and a field has an unusable type or value.
    MalformedCheckpoint,
    /// Another action of the protocol, which has no meaning from a child.
    OtherAction,
    /// An empty line; clients print one before each message.
    Blank,
    /// Any other text: output of the application.
    Noise,
}

/// The actions that only the daemon sends.
const OTHER_ACTIONS: [&str; 8] = [
    "initialize",
    "processRecords",
    "record",
    "leaseLost",
    "shardEnded",
    "shutdownRequested",
    "shutdown",
    "error",
];

/// Parses one line, without its end.
pub fn parse_line(line: &[u8]) -> FromChild {
    if line.iter().all(u8::is_ascii_whitespace) {
        return FromChild::Blank;
    }
    let Ok(text) = std::str::from_utf8(line) else { return FromChild::Noise };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some(members) = first_object(text) else { return FromChild::Noise };
    // The last of two equal keys counts.
    let value = |key: &str| members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value);
    let Some(Scalar::Text(action)) = value("action") else { return FromChild::Noise };
    match action.as_str() {
        "status" => FromChild::Status {
            response_for: match value("responseFor") {
                Some(Scalar::Text(action)) => Some(action.clone()),
                _ => None,
            },
        },
        "checkpoint" => {
            // Clients older than 1.7 call the sequence number `checkpoint`.
            let number = value("sequenceNumber").or_else(|| value("checkpoint"));
            match (sequence_number(number), sub_sequence_number(value("subSequenceNumber"))) {
                (Some(sequence_number), Some(sub_sequence_number)) => {
                    FromChild::Checkpoint(CheckpointRequest { sequence_number, sub_sequence_number })
                }
                _ => FromChild::MalformedCheckpoint,
            }
        }
        other if OTHER_ACTIONS.contains(&other) => FromChild::OtherAction,
        _ => FromChild::Noise,
    }
}

/// `None`: the value cannot be a sequence number.
fn sequence_number(value: Option<&Scalar>) -> Option<Option<String>> {
    match value {
        None | Some(Scalar::Null) => Some(None),
        Some(Scalar::Text(text) | Scalar::Number(text)) => Some(Some(text.clone())),
        Some(Scalar::Bool | Scalar::Nested) => None,
    }
}

/// `None`: the value cannot be a sub-sequence number.
fn sub_sequence_number(value: Option<&Scalar>) -> Option<Option<i64>> {
    match value {
        None | Some(Scalar::Null) => Some(None),
        Some(Scalar::Text(text)) if text.is_empty() => Some(None),
        Some(Scalar::Text(text) | Scalar::Number(text)) => text.parse().ok().map(Some),
        Some(Scalar::Bool | Scalar::Nested) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint(number: Option<&str>, sub_sequence_number: Option<i64>) -> FromChild {
        let sequence_number = number.map(str::to_owned);
        FromChild::Checkpoint(CheckpointRequest { sequence_number, sub_sequence_number })
    }

    fn status(action: &str) -> FromChild {
        FromChild::Status { response_for: Some(action.to_owned()) }
    }

    #[test]
    fn forms_of_all_clients_are_read() {
        for (line, expected) in [
            (r#"{"action": "status", "responseFor": "initialize"}"#, status("initialize")),
            (r#"{"responseFor":"leaseLost","action":"status"}"#, status("leaseLost")),
            (r#"{"action":"status","responseFor":"initialize","extra":{"a":[1]}}"#, status("initialize")),
            (
                r#"{"action": "checkpoint", "sequenceNumber": "495", "subSequenceNumber": 1}"#,
                checkpoint(Some("495"), Some(1)),
            ),
            (r#"{"action":"checkpoint","sequenceNumber":"495"}"#, checkpoint(Some("495"), None)),
            (r#"{"action":"checkpoint","sequenceNumber":null}"#, checkpoint(None, None)),
            (r#"{"action":"checkpoint","error":null,"sequenceNumber":"495"}"#, checkpoint(Some("495"), None)),
            (r#"{"action":"checkpoint","checkpoint":"456"}"#, checkpoint(Some("456"), None)),
            (r#"{"action":"checkpoint","sequenceNumber":495}"#, checkpoint(Some("495"), None)),
            (
                r#"{"action":"checkpoint","sequenceNumber":"1","subSequenceNumber":"9"}"#,
                checkpoint(Some("1"), Some(9)),
            ),
            (
                r#"{"action":"checkpoint","sequenceNumber":"1","subSequenceNumber":""}"#,
                checkpoint(Some("1"), None),
            ),
            ("\u{feff}{\"action\":\"status\",\"responseFor\":\"initialize\"}", status("initialize")),
            (r#"{"action":"status","responseFor":"initialize"} and text"#, status("initialize")),
            (r#"{"action":"checkpoint","action":"status","responseFor":"initialize"}"#, status("initialize")),
            (r#"{"action":"status"}"#, FromChild::Status { response_for: None }),
            (r#"{"action":"status","responseFor":null}"#, FromChild::Status { response_for: None }),
        ] {
            assert_eq!(parse_line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn other_lines_are_noise() {
        for line in [
            "null",
            "free text",
            "[1,2]",
            "42",
            "\"x\"",
            "{}",
            r#"{"action":null}"#,
            r#"{"action":"unknown"}"#,
            r#"{"Action":"status","responseFor":"initialize"}"#,
            r#"{"action":"Status","responseFor":"initialize"}"#,
            r#"["status","initialize"]"#,
            r#"{"action":"status","responseFor":"initialize""#,
        ] {
            assert_eq!(parse_line(line.as_bytes()), FromChild::Noise, "{line}");
        }
        assert_eq!(parse_line(b"\xff\xfe{\"action\":\"status\"}"), FromChild::Noise);
        assert_eq!(parse_line(b"  \t"), FromChild::Blank);
        assert_eq!(parse_line(br#"{"action":"shutdown","reason":"ZOMBIE"}"#), FromChild::OtherAction);
    }

    #[test]
    fn checkpoint_with_unusable_field_is_malformed() {
        for line in [
            r#"{"action":"checkpoint","sequenceNumber":true}"#,
            r#"{"action":"checkpoint","sequenceNumber":{"a":1}}"#,
            r#"{"action":"checkpoint","sequenceNumber":"1","subSequenceNumber":"zz"}"#,
            r#"{"action":"checkpoint","sequenceNumber":"1","subSequenceNumber":1.5}"#,
        ] {
            assert_eq!(parse_line(line.as_bytes()), FromChild::MalformedCheckpoint, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_line(&line);
        }

        #[test]
        fn a_cut_message_is_never_another_message(cut in 1_usize..78) {
            let line = br#"{"action":"checkpoint","sequenceNumber":"4959033827","subSequenceNumber":12345}"#;
            prop_assert_eq!(parse_line(&line[..cut]), FromChild::Noise);
        }
    }
}
