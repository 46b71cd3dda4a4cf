//! The child of the Java KCL's daemon: its line protocol, one JSON object a line, over any reader and writer.
//!
//! The daemon starts one child for each lease that it holds, sends it an action, and waits for the status message that ends
//! the action. In between the child may request checkpoints, and the daemon answers each at once.

use std::io::{self, BufRead, Write};

use serde::Deserialize;
use serde_json::json;

use super::deliveries::{Delivery, now_millis};
use super::lease_rows::KclPosition;

/// The attempts at a checkpoint that the daemon refuses, unless the lease is lost.
const CHECKPOINT_ATTEMPTS: usize = 5;

/// The error of the daemon for a checkpoint of a worker that lost its lease.
const LEASE_IS_LOST: &str = "ShutdownException";

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Message {
    Initialize { shard_id: String },
    ProcessRecords { records: Vec<Record> },
    LeaseLost,
    ShardEnded,
    ShutdownRequested,
    Checkpoint { error: Option<String> },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    data: String,
    sequence_number: String,
    sub_sequence_number: u64,
}

/// A record processor behind the protocol: it records deliveries, and checkpoints after every `checkpoint_every` records.
#[derive(Debug)]
pub struct MultilangChild<R, W, N> {
    input: R,
    output: W,
    record: N,
    worker: String,
    shard: String,
    checkpoint_every: usize,
    since_checkpoint: usize,
}

impl<R: BufRead, W: Write, N: FnMut(&[Delivery]) -> io::Result<()>> MultilangChild<R, W, N> {
    /// A child of the worker with this name. It calls `record` with each batch before it checkpoints any of its records.
    pub fn new(input: R, output: W, worker: String, checkpoint_every: usize, record: N) -> Self {
        Self { input, output, record, worker, shard: String::new(), checkpoint_every, since_checkpoint: 0 }
    }

    /// Carries out the daemon's actions until the input ends; that is how the daemon ends a child.
    ///
    /// # Errors
    /// When a message cannot be read, written or parsed, or a delivery cannot be recorded. A child that ends with an error
    /// ends its daemon.
    pub fn run(mut self) -> io::Result<()> {
        while let Some(message) = self.next()? {
            let action = match message {
                Message::Initialize { shard_id } => {
                    self.shard = shard_id;
                    "initialize"
                }
                Message::ProcessRecords { records } => {
                    self.process(&records)?;
                    "processRecords"
                }
                Message::LeaseLost => "leaseLost",
                Message::ShardEnded => {
                    // The children of the shard start only after this checkpoint.
                    self.checkpoint()?;
                    "shardEnded"
                }
                Message::ShutdownRequested => {
                    self.checkpoint()?;
                    "shutdownRequested"
                }
                Message::Checkpoint { error } => {
                    return Err(invalid(&format!(
                        "the daemon answered a checkpoint that was not requested: {error:?}"
                    )));
                }
            };
            self.send(&json!({"action": "status", "responseFor": action}))?;
        }
        Ok(())
    }

    fn process(&mut self, records: &[Record]) -> io::Result<()> {
        let at_millis = now_millis();
        let batch: Vec<Delivery> = records
            .iter()
            .map(|record| {
                let text = base64_decoded(&record.data).and_then(|bytes| String::from_utf8(bytes).ok());
                let number = text.and_then(|text| text.parse().ok());
                Ok(Delivery {
                    worker: self.worker.clone(),
                    shard: self.shard.clone(),
                    position: KclPosition::new(&record.sequence_number, record.sub_sequence_number),
                    number: number
                        .ok_or_else(|| invalid(&format!("the payload is not a number: {:?}", record.data)))?,
                    at_millis,
                })
            })
            .collect::<io::Result<_>>()?;
        (self.record)(&batch)?;
        self.since_checkpoint += batch.len();
        if self.since_checkpoint >= self.checkpoint_every {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Checkpoints all records so far, and waits for the answer. A lost lease is no error: the daemon reports it in a
    /// message of its own.
    fn checkpoint(&mut self) -> io::Result<()> {
        let mut last = String::new();
        for _ in 0..CHECKPOINT_ATTEMPTS {
            self.send(&json!({"action": "checkpoint", "sequenceNumber": null, "subSequenceNumber": null}))?;
            match self.next()? {
                Some(Message::Checkpoint { error: None }) => {
                    self.since_checkpoint = 0;
                    return Ok(());
                }
                Some(Message::Checkpoint { error: Some(error) }) if error == LEASE_IS_LOST => return Ok(()),
                Some(Message::Checkpoint { error: Some(error) }) => last = error,
                other => return Err(invalid(&format!("expected an answer to a checkpoint, got {other:?}"))),
            }
        }
        Err(invalid(&format!("{}: {CHECKPOINT_ATTEMPTS} checkpoints were refused: {last}", self.shard)))
    }

    fn next(&mut self) -> io::Result<Option<Message>> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).map_err(|error| invalid(&format!("{error}: {line:?}")))
    }

    fn send(&mut self, message: &serde_json::Value) -> io::Result<()> {
        writeln!(self.output, "{message}")?;
        self.output.flush()
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Decodes base64 in the standard alphabet.
fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut bit_count) = (Vec::new(), 0_u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            bytes.push((bits >> bit_count).to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: &str = r#"{"action":"processRecords","records":[
        {"data":"NDI=","partitionKey":"k","sequenceNumber":"7","subSequenceNumber":1,"action":"record"}],"millisBehindLatest":5}"#;

    fn run(input: &[&str]) -> (io::Result<()>, String, Vec<Delivery>) {
        let input = input.iter().map(|line| format!("{}\n", line.replace('\n', ""))).collect::<String>();
        let (mut output, mut recorded) = (Vec::new(), Vec::new());
        let record = |batch: &[Delivery]| {
            recorded.extend_from_slice(batch);
            Ok(())
        };
        let outcome =
            MultilangChild::new(input.as_bytes(), &mut output, "java-1".to_owned(), 1, record).run();
        (outcome, String::from_utf8(output).unwrap(), recorded)
    }

    #[test]
    fn records_are_logged_and_checkpointed_before_the_done_message() {
        let initialize = r#"{"action":"initialize","shardId":"shardId-1","sequenceNumber":"TRIM_HORIZON","subSequenceNumber":0}"#;
        let done = r#"{"action":"checkpoint","sequenceNumber":null,"subSequenceNumber":null,"error":null}"#;
        let (outcome, output, recorded) =
            run(&[initialize, RECORDS, done, r#"{"action":"shardEnded"}"#, done]);
        assert!(outcome.is_ok(), "{outcome:?}");
        let output: Vec<serde_json::Value> =
            output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let status = |action: &str| json!({"action": "status", "responseFor": action});
        let checkpoint = json!({"action": "checkpoint", "sequenceNumber": null, "subSequenceNumber": null});
        let expected = [
            status("initialize"),
            checkpoint.clone(),
            status("processRecords"),
            checkpoint,
            status("shardEnded"),
        ];
        assert_eq!(output, expected);
        assert_eq!((recorded[0].number, &recorded[0].position), (42, &KclPosition::new("7", 1)));
        assert_eq!((recorded[0].worker.as_str(), recorded[0].shard.as_str()), ("java-1", "shardId-1"));
    }

    #[test]
    fn lost_lease_ends_the_attempts_and_other_refusals_are_retried() {
        let refused = |error: &str| format!(r#"{{"action":"checkpoint","error":"{error}"}}"#);
        let (outcome, output, _) = run(&[RECORDS, &refused("ThrottlingException"), &refused(LEASE_IS_LOST)]);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(output.lines().count(), 3, "two checkpoints and the status: {output}");
        let refusals = vec![refused("ThrottlingException"); CHECKPOINT_ATTEMPTS];
        let input: Vec<&str> = std::iter::once(RECORDS).chain(refusals.iter().map(String::as_str)).collect();
        assert!(run(&input).0.is_err());
    }

    #[test]
    fn base64_of_every_length() {
        for (text, bytes) in [("", ""), ("TQ==", "M"), ("TWE=", "Ma"), ("TWFu", "Man"), ("TWFuMQ==", "Man1")]
        {
            assert_eq!(base64_decoded(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(base64_decoded("a b"), None);
    }
}
