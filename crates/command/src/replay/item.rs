//! One record to replay: its line, its payload and its position. Pure.

use bytes::Bytes;
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{LetterInJson, Record};

use crate::read::output_format::OutputFormat;

/// One record to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Its position in its source: in a shard, or the line of a file.
    pub(crate) position: String,
    pub(crate) partition_key: String,
    pub(crate) data: Bytes,
    /// The record as one line of JSON, with the line break.
    pub(crate) line: Vec<u8>,
}

/// What the records of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// The records to replay.
    Records,
    /// Dead letters in binary form, with the records to replay.
    Letters {
        /// Whether other records are left out.
        skips_malformed: bool,
    },
}

impl Decoder {
    /// Whether a record may be an aggregate. A letter is written as it is.
    pub(crate) fn unpacks(self) -> bool {
        self == Self::Records
    }

    /// The item of a record.
    ///
    /// # Errors
    /// A text when the record is no dead letter.
    pub(crate) fn decode(self, shard_id: &ShardId, record: &Record) -> Result<Item, String> {
        let position = record.position().to_string();
        match self {
            Self::Records => Ok(of_record(position, shard_id, record, None)),
            Self::Letters { .. } => {
                let (letter, data) = LetterInJson::read_binary(&record.data)
                    .map_err(|error| format!("it is no dead letter: {error}"))?;
                of_letter(position, &letter, record.data.slice_ref(data))
            }
        }
    }
}

/// The item of one line of a file of dead letters.
///
/// # Errors
/// A text when the line is no dead letter.
pub(crate) fn of_line(number: u64, line: &[u8]) -> Result<Item, String> {
    let letter: LetterInJson =
        serde_json::from_slice(line).map_err(|error| format!("it is no dead letter: {error}"))?;
    let data = base64_simd::STANDARD
        .decode_to_vec(letter.data.as_bytes())
        .map_err(|error| format!("its data is no base64: {error}"))?;
    of_letter(number.to_string(), &letter, data.into())
}

fn of_letter(position: String, letter: &LetterInJson, data: Bytes) -> Result<Item, String> {
    let shard_id = ShardId::new(letter.shard_id.clone()).map_err(|error| error.to_string())?;
    let number = letter.sequence_number.parse().map_err(|error| format!("its sequence number: {error}"))?;
    let arrived_at = letter.approximate_arrival_ms.and_then(crate::wall_clock::time_of);
    let record = Record::new(number, data)
        .with_sub_sequence_number(letter.sub_sequence_number)
        .with_partition_key(letter.partition_key.clone().map(Into::into))
        .with_arrival(arrived_at);
    let about = json!({
        "application": letter.application,
        "stream": letter.stream,
        "attempts": letter.attempts,
        "error": letter.error,
    });
    Ok(of_record(position, &shard_id, &record, Some(about)))
}

fn of_record(position: String, shard_id: &ShardId, record: &Record, about_letter: Option<Value>) -> Item {
    let mut line = Vec::new();
    OutputFormat { json: true, raw: false }.write(shard_id, record, &mut line);
    if let Some(about) = about_letter {
        // The line is an object, since it was written just now.
        if let Ok(mut fields) = serde_json::from_slice::<serde_json::Map<String, Value>>(&line) {
            fields.insert("letter".to_owned(), about);
            line = Value::Object(fields).to_string().into_bytes();
            line.push(b'\n');
        }
    }
    // A stream that distributes records by itself has no keys, and no order.
    let key = record.partition_key.as_deref().filter(|key| !key.is_empty());
    let partition_key = key.unwrap_or_else(|| record.sequence_number.as_str()).to_owned();
    Item { position, partition_key, data: record.data.clone(), line }
}

#[cfg(test)]
mod tests {
    use shard_worker::DeadLetter;

    use super::*;

    fn letter() -> DeadLetter {
        let record = Record::new("7".parse().unwrap(), Bytes::from_static(b"{\"a\":1}"))
            .with_partition_key(Some("key".into()));
        DeadLetter::new("desk", "orders", ShardId::numbered(3), record, "no price")
    }

    /// cds-snc/forms-terraform #278: a redrive wrapped each message in one more layer.
    #[test]
    fn payload_of_a_letter_is_that_of_its_record() {
        let of_file = of_line(12, &letter().to_json().unwrap()).unwrap();
        assert_eq!((&*of_file.data, &*of_file.partition_key), (&b"{\"a\":1}"[..], "key"));
        assert_eq!(of_file.position, "12");
        let line: Value = serde_json::from_slice(&of_file.line).unwrap();
        assert_eq!(line["data"], "{\"a\":1}");
        assert_eq!(line["sequenceNumber"], "7");
        assert_eq!(line["letter"]["error"], "no price");
        let binary = Record::new("99".parse().unwrap(), letter().to_binary().unwrap().into());
        let decoder = Decoder::Letters { skips_malformed: false };
        let of_stream = decoder.decode(&ShardId::numbered(0), &binary).unwrap();
        assert_eq!((of_stream.data, of_stream.position.as_str()), (of_file.data, "99"));
        assert_eq!(of_stream.line, of_file.line, "the line names the record, not the letter");
    }

    #[test]
    fn what_is_no_letter_names_its_fault() {
        for line in ["{}", "no json", "{\"id\":1}"] {
            assert!(of_line(1, line.as_bytes()).unwrap_err().contains("no dead letter"), "{line}");
        }
        let json = String::from_utf8(letter().to_json().unwrap()).unwrap();
        let broken = json.replace("\"data\":\"", "\"data\":\"*");
        assert!(of_line(1, broken.as_bytes()).unwrap_err().contains("base64"));
    }
}
