//! Records as lines: for people, as JSON, or their payloads alone. Pure.

use std::time::SystemTime;

use clap::Args;
use fleet_view::instant_text;
use lease_store::ShardId;
use serde::Serialize;
use shard_worker::Record;

use crate::wall_clock::millis_of;

/// How records are written.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct OutputFormat {
    /// One line of JSON for each record; a payload that is no text is in base64
    #[arg(long, conflicts_with = "raw")]
    pub(crate) json: bool,

    /// The payloads alone, each with a line feed after it
    #[arg(long)]
    pub(crate) raw: bool,
}

/// A record in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRecord<'a> {
    shard_id: &'a str,
    sequence_number: &'a str,
    sub_sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrived_at_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl OutputFormat {
    /// Appends a record.
    pub(crate) fn write(self, shard_id: &ShardId, record: &Record, output: &mut Vec<u8>) {
        if self.raw {
            output.extend_from_slice(&record.data);
        } else if self.json {
            let data = std::str::from_utf8(&record.data).ok();
            let json = JsonRecord {
                shard_id: shard_id.as_str(),
                sequence_number: record.sequence_number.as_str(),
                sub_sequence_number: record.sub_sequence_number,
                partition_key: record.partition_key.as_deref(),
                arrived_at_millis: record.approximate_arrival.map(millis_of),
                data,
                data_base64: data.is_none().then(|| base64_simd::STANDARD.encode_to_string(&record.data)),
            };
            // A map of texts and numbers always has a form in JSON.
            let _ = serde_json::to_writer(&mut *output, &json);
        } else {
            let key = record.partition_key.as_deref().unwrap_or("-");
            let arrived = record.approximate_arrival.map_or_else(|| "-".to_owned(), arrival_text);
            let line = format!("{arrived} {shard_id} {key} {}", String::from_utf8_lossy(&record.data));
            output.extend(line.chars().map(printable).collect::<String>().as_bytes());
        }
        output.push(b'\n');
    }
}

fn arrival_text(arrived_at: SystemTime) -> String {
    instant_text(millis_of(arrived_at))
}

/// A character that does not move the cursor: anyone may write records.
fn printable(character: char) -> char {
    if character.is_control() && character != '\t' { '\u{fffd}' } else { character }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lease_store::SequenceNumber;

    use super::*;

    fn written(format: OutputFormat, data: &'static [u8]) -> String {
        let arrival = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let record = Record::new("7".parse::<SequenceNumber>().unwrap(), data.into())
            .with_sub_sequence_number(2)
            .with_partition_key(Some("key".into()))
            .with_arrival(Some(arrival));
        let mut output = Vec::new();
        format.write(&ShardId::new("shardId-1").unwrap(), &record, &mut output);
        String::from_utf8_lossy(&output).into_owned()
    }

    #[test]
    fn payloads_that_are_no_text_are_in_base64() {
        let json = OutputFormat { json: true, raw: false };
        let head = r#"{"shardId":"shardId-1","sequenceNumber":"7","subSequenceNumber":2,"partitionKey":"key","arrivedAtMillis":1700000000123"#;
        assert_eq!(written(json, b"a\"b"), format!("{head},\"data\":\"a\\\"b\"}}\n"));
        assert_eq!(written(json, &[0xff, 0]), format!("{head},\"dataBase64\":\"/wA=\"}}\n"));
    }

    #[test]
    fn raw_payloads_are_unchanged() {
        assert_eq!(written(OutputFormat { json: false, raw: true }, b"\x1b[2J"), "\u{1b}[2J\n");
    }

    #[test]
    fn lines_for_people_move_no_cursor() {
        let line = written(OutputFormat::default(), b"\x1b[2Ja\nb");
        assert!(!line.contains('\u{1b}') && line.matches('\n').count() == 1, "{line:?}");
        assert!(line.contains(" shardId-1 key "), "{line:?}");
    }
}
