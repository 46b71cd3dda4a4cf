//! The answer of the service to each operation.

use aws_smithy_types::body::SdkBody;
use lease_store::{SequenceNumber, ShardId};
use serde_json::{Value, json};
use shard_worker::ShardFilter;

use super::service::{CONSUMER, Connection, Consumer, STREAM_ARN};
use super::session::{Events, Session};
use super::wire::{self, Answer};
use crate::event::{ShardNumber, record_number, shard_number};
use crate::plan::{Defect, FaultRates};

/// How long an iterator is valid, in milliseconds (Kinesis API: five minutes).
const ITERATOR_MILLIS: u64 = 300_000;

/// Largest number of records of one answer.
const MAX_PAGE_RECORDS: usize = 50;

/// When the stream was created, in seconds since 1970.
const CREATED_AT_SECONDS: u64 = 1_767_000_000;

/// Retention of the stream, in hours.
const RETENTION_HOURS: u64 = 24;

impl Connection {
    pub(super) fn answer(&self, operation: &str, body: &Value) -> Answer {
        match operation {
            "DescribeStreamSummary" => self.describe_stream(),
            "ListShards" => self.list_shards(body),
            "GetShardIterator" => self.shard_iterator(body),
            "GetRecords" => self.records(body),
            "DescribeStreamConsumer" => self.describe_consumer(body),
            "RegisterStreamConsumer" => match self.service.register() {
                Some(consumer) => Answer::Json(json!({ "Consumer": written(&consumer) })),
                None => Answer::Refused("ResourceInUseException"),
            },
            "SubscribeToShard" => self.subscribe(body),
            _ => Answer::Refused("UnknownOperationException"),
        }
    }

    /// An answer that says nothing, now and then: without content, or of another service.
    pub(super) fn odd_answer(&self, operation: &str, rates: FaultRates) -> Option<Answer> {
        let is_odd = rates.odd > 0 && self.link.draw(1000) < rates.odd && self.link.draw(2) == 0;
        // Events of a subscription are odd on their own.
        if !is_odd || operation == "SubscribeToShard" {
            return None;
        }
        Some(Answer::Json(match self.link.draw(3) {
            0 => json!({}),
            1 => json!({ "message": "simulated" }),
            _ => json!([]),
        }))
    }

    fn describe_stream(&self) -> Answer {
        Answer::Json(json!({ "StreamDescriptionSummary": {
            "StreamName": "simulated",
            "StreamARN": STREAM_ARN,
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": RETENTION_HOURS,
            "StreamCreationTimestamp": CREATED_AT_SECONDS,
            "EnhancedMonitoring": [],
            "OpenShardCount": self.service.kinesis.list(&ShardFilter::Open).len(),
        }}))
    }

    fn list_shards(&self, body: &Value) -> Answer {
        let filter = &body["ShardFilter"];
        let filter = match filter["Type"].as_str() {
            None => Some(ShardFilter::All),
            Some("AT_LATEST") => Some(ShardFilter::Open),
            Some("FROM_TIMESTAMP") => wire::time(&filter["Timestamp"]).map(ShardFilter::OpenSince),
            Some("AFTER_SHARD_ID") => filter["ShardId"]
                .as_str()
                .and_then(|shard_id| ShardId::new(shard_id.to_owned()).ok())
                .map(ShardFilter::After),
            Some(_) => None,
        };
        let Some(filter) = filter else { return Answer::Refused("InvalidArgumentException") };
        let shards: Vec<Value> = self.service.kinesis.list(&filter).iter().map(wire::shard).collect();
        Answer::Json(json!({ "Shards": shards }))
    }

    fn describe_consumer(&self, body: &Value) -> Answer {
        let arn = body["ConsumerARN"].as_str();
        let found = self.service.consumer().filter(|consumer| arn.is_none_or(|arn| arn == consumer.arn));
        match found {
            Some(consumer) => {
                let mut consumer = written(&consumer);
                consumer["StreamARN"] = STREAM_ARN.into();
                Answer::Json(json!({ "ConsumerDescription": consumer }))
            }
            None => Answer::Refused("ResourceNotFoundException"),
        }
    }

    /// Returns the record before a position; `None` when the stream has no such shard.
    fn after(&self, shard: ShardNumber, position: &Value, number: &str, kind: &str) -> Option<u64> {
        let kinesis = &self.service.kinesis;
        kinesis.changes(shard)?;
        let number = position[number].as_str().and_then(|number| SequenceNumber::new(number.to_owned()).ok());
        let number = number.map(|number| record_number(&number));
        match (position[kind].as_str()?, number) {
            ("LATEST", _) => Some(kinesis.newest()),
            ("AT_TIMESTAMP", _) => kinesis.last_before(shard, wire::time(&position["Timestamp"])?),
            ("AT_SEQUENCE_NUMBER", Some(number)) => Some(number.saturating_sub(1)),
            ("AFTER_SEQUENCE_NUMBER", Some(number)) => Some(number),
            _ => Some(0),
        }
    }

    fn shard_iterator(&self, body: &Value) -> Answer {
        let shard = shard_of(body);
        match self.after(shard, body, "StartingSequenceNumber", "ShardIteratorType") {
            Some(after) => Answer::Json(json!({ "ShardIterator": self.iterator(shard, after) })),
            None => Answer::Refused("ResourceNotFoundException"),
        }
    }

    fn iterator(&self, shard: ShardNumber, after: u64) -> String {
        format!("{shard}:{after}:{}", self.service.now())
    }

    fn records(&self, body: &Value) -> Answer {
        let iterator = body["ShardIterator"].as_str().unwrap_or_default();
        let parts: Vec<u64> = iterator.split(':').filter_map(|part| part.parse().ok()).collect();
        let &[shard, after, made_at] = &parts[..] else { return Answer::Refused("InvalidArgumentException") };
        if self.service.now() > made_at + ITERATOR_MILLIS {
            return Answer::Refused("ExpiredIteratorException");
        }
        let shard = u32::try_from(shard).unwrap_or(u32::MAX);
        let Some(page) = self.service.kinesis.read(shard, after, MAX_PAGE_RECORDS) else {
            return Answer::Refused("ResourceNotFoundException");
        };
        let before = after;
        let after = page.records.last().map_or(after, |(number, _)| *number);
        let records: Vec<Value> = page.records.iter().map(|(_, record)| wire::record(record)).collect();
        let mut answer = json!({ "Records": records, "MillisBehindLatest": 0 });
        match page.end {
            Some(children) => {
                // The API does not always name the children.
                let is_silent = self.link.draw(4) == 0;
                if !is_silent {
                    answer["ChildShards"] = children.iter().map(wire::child).collect();
                }
            }
            None => answer["NextShardIterator"] = self.iterator(shard, after).into(),
        }
        self.make_odd(&mut answer, shard, before);
        Answer::Json(answer)
    }

    /// Takes something out of an answer, now and then.
    fn make_odd(&self, answer: &mut Value, shard: ShardNumber, before: u64) {
        let odd = self.service.kinesis.fault_rates.now().odd;
        if odd == 0 || self.link.draw(1000) >= odd {
            return;
        }
        let Some(members) = answer.as_object_mut() else { return };
        match self.link.draw(4) {
            // No records, and a continuation from where the read began.
            0 if members.contains_key("NextShardIterator") => {
                members.insert("Records".to_owned(), json!([]));
                if self.defect != Some(Defect::OddAnswersSkip) {
                    members.insert("NextShardIterator".to_owned(), self.iterator(shard, before).into());
                }
            }
            // The member is missing, although the continuation is after the records.
            1 => drop(members.remove("Records")),
            // Neither a continuation nor children, in the middle of the shard or at its end.
            2 => {
                members.remove("NextShardIterator");
                members.remove("ChildShards");
            }
            _ => {
                members.insert("NextShardIterator".to_owned(), Value::Null);
                members.remove("ChildShards");
            }
        }
    }

    fn subscribe(&self, body: &Value) -> Answer {
        let shard = shard_of(body);
        let arn = body["ConsumerARN"].as_str().unwrap_or_default();
        let accepted = match self.service.subscribe(self.process, shard, arn) {
            Ok(accepted) => accepted,
            Err(code) => return Answer::Refused(code),
        };
        let position = &body["StartingPosition"];
        let Some(after) = self.after(shard, position, "SequenceNumber", "Type") else {
            return Answer::Refused("ResourceNotFoundException");
        };
        let is_given = position["SequenceNumber"].is_string();
        let session = Session::new(self.clone(), shard, after, is_given, accepted);
        Answer::Events(SdkBody::from_body_1_x(Events::new(session)))
    }
}

/// Returns the shard of a request.
pub(super) fn shard_of(body: &Value) -> ShardNumber {
    let shard_id = body["ShardId"].as_str().map(|shard_id| ShardId::new(shard_id.to_owned()));
    shard_id.and_then(Result::ok).map_or(u32::MAX, |shard_id| shard_number(&shard_id))
}

fn written(consumer: &Consumer) -> Value {
    json!({
        "ConsumerName": CONSUMER,
        "ConsumerARN": consumer.arn,
        "ConsumerStatus": consumer.status(),
        "ConsumerCreationTimestamp": consumer.created_at,
    })
}
