//! The calls of the server, over JSON values.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stream::{StoredRecord, StoredShard, Stream};

/// The account and region in ARNs.
const ARN_PREFIX: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/";

/// The most Base64 bytes of an answer of `GetRecords` (AWS: 10 MiB of payload).
const MAX_ANSWER_BYTES: usize = 10 * 1024 * 1024 / 3 * 4;

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { code: "InvalidArgumentException", message: message.into() }
}

fn not_found(what: &str) -> Refusal {
    Refusal { code: "ResourceNotFoundException", message: format!("{what} does not exist") }
}

/// A registered consumer.
#[derive(Debug, Clone)]
struct Consumer {
    name: String,
    stream: String,
    created_millis: u64,
}

/// All streams and consumers.
#[derive(Debug, Default)]
pub(super) struct Service {
    streams: BTreeMap<String, Stream>,
    /// By ARN.
    consumers: BTreeMap<String, Consumer>,
}

/// A place in a shard: all records after this number are still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream: String,
    pub(super) shard: String,
    pub(super) after: u128,
}

impl Service {
    /// Answers a call other than `SubscribeToShard`.
    pub(super) fn answer(
        &mut self,
        operation: &str,
        body: &Value,
        now_millis: u64,
    ) -> Result<Value, Refusal> {
        match operation {
            "CreateStream" => {
                let count = body["ShardCount"].as_u64().unwrap_or(1);
                let count = usize::try_from(count).map_err(|_| invalid("ShardCount"))?;
                self.streams.insert(name_of(body)?, Stream::new(count, now_millis));
                Ok(json!({}))
            }
            "DescribeStreamSummary" => self.describe(&name_of(body)?),
            "ListShards" => self.list_shards(body),
            "PutRecords" => self.put_records(body, now_millis),
            "SplitShard" => {
                let second = number_of(&body["NewStartingHashKey"])?;
                let shard = text_of(&body["ShardToSplit"])?.to_owned();
                self.stream_mut(body)?.split(&shard, second).map_err(invalid).map(|()| json!({}))
            }
            "MergeShards" => {
                let shard = text_of(&body["ShardToMerge"])?.to_owned();
                let adjacent = text_of(&body["AdjacentShardToMerge"])?.to_owned();
                self.stream_mut(body)?.merge(&shard, &adjacent).map_err(invalid).map(|()| json!({}))
            }
            "GetShardIterator" => {
                let name = name_of(body)?;
                let place =
                    self.place(&name, body, &body["ShardIteratorType"], &body["StartingSequenceNumber"])?;
                Ok(json!({ "ShardIterator": iterator_of(&place) }))
            }
            "GetRecords" => self.get_records(body, now_millis),
            "RegisterStreamConsumer" => self.register(body, now_millis),
            "DescribeStreamConsumer" => {
                let arn = self.consumer_arn(body)?;
                Ok(json!({ "ConsumerDescription": self.described(&arn)? }))
            }
            "ListStreamConsumers" => {
                let name = name_of(body)?;
                let own = self.consumers.iter().filter(|(_, consumer)| consumer.stream == name);
                let arns: Vec<String> = own.map(|(arn, _)| arn.clone()).collect();
                let all = arns.iter().map(|arn| self.described(arn)).collect::<Result<Vec<_>, _>>()?;
                Ok(json!({ "Consumers": all }))
            }
            "DeregisterStreamConsumer" => {
                let arn = self.consumer_arn(body)?;
                self.consumers.remove(&arn).ok_or_else(|| not_found(&arn)).map(|_| json!({}))
            }
            _ => Err(Refusal { code: "UnknownOperationException", message: operation.to_owned() }),
        }
    }

    /// The ARN of the consumer and the place at which a subscription begins.
    pub(super) fn subscription(&self, body: &Value) -> Result<(String, Place), Refusal> {
        let arn = text_of(&body["ConsumerARN"])?.to_owned();
        let consumer = self.consumers.get(&arn).ok_or_else(|| not_found(&arn))?;
        let start = &body["StartingPosition"];
        let place = self.place(&consumer.stream, body, &start["Type"], &start["SequenceNumber"]);
        Ok((arn, place?))
    }

    /// Whether a consumer is registered.
    pub(super) fn has_consumer(&self, arn: &str) -> bool {
        self.consumers.contains_key(arn)
    }

    /// The next event of a subscription at a place, and whether it is the last one of the shard.
    pub(super) fn event(
        &self,
        place: &mut Place,
        limit: usize,
        bytes: usize,
        now_millis: u64,
    ) -> Option<(Value, bool)> {
        let stream = self.streams.get(&place.stream)?;
        let shard = stream.shard(&place.shard)?;
        let records = shard.records_after(place.after, limit, bytes);
        if let Some(last) = records.last() {
            place.after = last.number;
        }
        let is_last = shard.is_read_to(place.after);
        let continuation =
            if is_last { Value::Null } else { json!(place.after.max(shard.first_number).to_string()) };
        let event = json!({
            "Records": records.iter().map(record_json).collect::<Vec<_>>(),
            "ContinuationSequenceNumber": continuation,
            "MillisBehindLatest": shard.millis_behind(place.after, now_millis),
            "ChildShards": if is_last { children_json(stream, shard) } else { Value::Null },
        });
        Some((event, is_last))
    }

    fn stream(&self, name: &str) -> Result<&Stream, Refusal> {
        self.streams.get(name).ok_or_else(|| not_found(&format!("stream {name}")))
    }

    fn stream_mut(&mut self, body: &Value) -> Result<&mut Stream, Refusal> {
        let name = name_of(body)?;
        self.streams.get_mut(&name).ok_or_else(|| not_found(&format!("stream {name}")))
    }

    fn describe(&self, name: &str) -> Result<Value, Refusal> {
        let stream = self.stream(name)?;
        let open = stream.shards.iter().filter(|shard| shard.last_number.is_none()).count();
        Ok(json!({ "StreamDescriptionSummary": {
            "StreamName": name, "StreamARN": format!("{ARN_PREFIX}{name}"), "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24, "StreamCreationTimestamp": seconds(stream.created_millis),
            "EnhancedMonitoring": [], "OpenShardCount": open,
        } }))
    }

    fn list_shards(&self, body: &Value) -> Result<Value, Refusal> {
        let stream = self.stream(&name_of(body)?)?;
        let filter = &body["ShardFilter"];
        let is_wanted = |shard: &&StoredShard| match filter["Type"].as_str() {
            Some("AT_LATEST") => shard.last_number.is_none(),
            // No record is trimmed here.
            Some("AT_TRIM_HORIZON") => shard.parents.is_empty(),
            Some("AFTER_SHARD_ID") => filter["ShardId"].as_str().is_some_and(|id| shard.id.as_str() > id),
            _ => true,
        };
        let shards: Vec<Value> = stream.shards.iter().filter(is_wanted).map(shard_json).collect();
        Ok(json!({ "Shards": shards }))
    }

    fn put_records(&mut self, body: &Value, now_millis: u64) -> Result<Value, Refusal> {
        let stream = self.stream_mut(body)?;
        let records = body["Records"].as_array().ok_or_else(|| invalid("Records"))?;
        let mut results = Vec::new();
        for record in records {
            let explicit = &record["ExplicitHashKey"];
            let explicit = if explicit.is_null() { None } else { Some(number_of(explicit)?) };
            let (key, data) = (text_of(&record["PartitionKey"])?, text_of(&record["Data"])?);
            let (shard, number) =
                stream.put(key, explicit, data, now_millis).ok_or_else(|| invalid("no shard for the key"))?;
            results.push(json!({ "ShardId": shard, "SequenceNumber": number.to_string() }));
        }
        Ok(json!({ "FailedRecordCount": 0, "Records": results }))
    }

    fn place(&self, name: &str, body: &Value, kind: &Value, number: &Value) -> Result<Place, Refusal> {
        let stream = self.stream(name)?;
        let id = text_of(&body["ShardId"])?;
        let shard = stream.shard(id).ok_or_else(|| not_found(&format!("shard {id}")))?;
        let after = match text_of(kind)? {
            "TRIM_HORIZON" => 0,
            "LATEST" => stream.newest,
            "AT_SEQUENCE_NUMBER" => number_of(number)?.saturating_sub(1),
            "AFTER_SEQUENCE_NUMBER" => number_of(number)?,
            "AT_TIMESTAMP" => {
                let start = &body["StartingPosition"];
                let time = if start.is_null() { &body["Timestamp"] } else { &start["Timestamp"] };
                let time = time.as_f64().ok_or_else(|| invalid("Timestamp"))?;
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a time of a test
                let millis = (time * 1000.0) as u64;
                shard.before_time(millis, stream.newest)
            }
            other => return Err(invalid(other)),
        };
        Ok(Place { stream: name.to_owned(), shard: id.to_owned(), after })
    }

    fn get_records(&self, body: &Value, now_millis: u64) -> Result<Value, Refusal> {
        let mut place = place_of(text_of(&body["ShardIterator"])?).ok_or_else(|| invalid("ShardIterator"))?;
        let stream = self.stream(&place.stream)?;
        let shard = stream.shard(&place.shard).ok_or_else(|| not_found(&place.shard))?;
        let limit =
            body["Limit"].as_u64().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let records = shard.records_after(place.after, limit, MAX_ANSWER_BYTES);
        if let Some(last) = records.last() {
            place.after = last.number;
        }
        let mut answer = json!({
            "Records": records.iter().map(record_json).collect::<Vec<_>>(),
            "MillisBehindLatest": shard.millis_behind(place.after, now_millis),
        });
        if shard.is_read_to(place.after) {
            answer["ChildShards"] = children_json(stream, shard);
        } else {
            answer["NextShardIterator"] = json!(iterator_of(&place));
        }
        Ok(answer)
    }

    fn register(&mut self, body: &Value, now_millis: u64) -> Result<Value, Refusal> {
        let (name, stream) = (text_of(&body["ConsumerName"])?.to_owned(), name_of(body)?);
        self.stream(&stream)?;
        if self.consumers.values().any(|consumer| consumer.name == name && consumer.stream == stream) {
            let message = format!("consumer {name} exists");
            return Err(Refusal { code: "ResourceInUseException", message });
        }
        let arn = format!("{ARN_PREFIX}{stream}/consumer/{name}:{}", now_millis / 1000);
        self.consumers.insert(arn.clone(), Consumer { name, stream, created_millis: now_millis });
        Ok(json!({ "Consumer": self.described(&arn)? }))
    }

    fn consumer_arn(&self, body: &Value) -> Result<String, Refusal> {
        if let Some(arn) = body["ConsumerARN"].as_str() {
            return Ok(arn.to_owned());
        }
        let (name, stream) = (text_of(&body["ConsumerName"])?, name_of(body)?);
        let found =
            self.consumers.iter().find(|(_, consumer)| consumer.name == name && consumer.stream == stream);
        found.map(|(arn, _)| arn.clone()).ok_or_else(|| not_found(name))
    }

    fn described(&self, arn: &str) -> Result<Value, Refusal> {
        let consumer = self.consumers.get(arn).ok_or_else(|| not_found(arn))?;
        Ok(json!({
            "ConsumerName": consumer.name, "ConsumerARN": arn, "ConsumerStatus": "ACTIVE",
            "ConsumerCreationTimestamp": seconds(consumer.created_millis),
            "StreamARN": format!("{ARN_PREFIX}{}", consumer.stream),
        }))
    }
}

/// The name of the stream of a request, which may have its ARN instead.
fn name_of(body: &Value) -> Result<String, Refusal> {
    let name = body["StreamName"].as_str().or_else(|| body["StreamARN"].as_str()?.strip_prefix(ARN_PREFIX));
    name.map(str::to_owned).ok_or_else(|| invalid("neither StreamName nor a StreamARN of this server"))
}

fn text_of(value: &Value) -> Result<&str, Refusal> {
    value.as_str().ok_or_else(|| invalid("a text is missing"))
}

fn number_of(value: &Value) -> Result<u128, Refusal> {
    text_of(value)?.parse().map_err(|_| invalid(format!("{value} is not a number")))
}

fn iterator_of(Place { stream, shard, after }: &Place) -> String {
    format!("{after}:{shard}:{stream}")
}

fn place_of(iterator: &str) -> Option<Place> {
    let mut parts = iterator.splitn(3, ':');
    let (after, shard, stream) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    Some(Place { stream: stream.to_owned(), shard: shard.to_owned(), after })
}

fn seconds(millis: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // a time of a test
    let millis = millis as f64;
    millis / 1000.0
}

fn record_json(record: &StoredRecord) -> Value {
    json!({
        "SequenceNumber": record.number.to_string(), "PartitionKey": record.partition_key, "Data": record.data,
        "ApproximateArrivalTimestamp": seconds(record.arrived_millis),
    })
}

fn hash_keys_json(shard: &StoredShard) -> Value {
    let (start, end) = (shard.hash_keys.start().to_string(), shard.hash_keys.end().to_string());
    json!({ "StartingHashKey": start, "EndingHashKey": end })
}

fn shard_json(shard: &StoredShard) -> Value {
    let mut numbers = json!({ "StartingSequenceNumber": shard.first_number.to_string() });
    if let Some(last) = shard.last_number {
        numbers["EndingSequenceNumber"] = json!(last.to_string());
    }
    let mut listed = json!({
        "ShardId": shard.id, "HashKeyRange": hash_keys_json(shard), "SequenceNumberRange": numbers,
    });
    for (name, parent) in ["ParentShardId", "AdjacentParentShardId"].into_iter().zip(&shard.parents) {
        listed[name] = json!(parent);
    }
    listed
}

fn children_json(stream: &Stream, shard: &StoredShard) -> Value {
    let child = |child: &StoredShard| json!({ "ShardId": child.id, "ParentShards": child.parents, "HashKeyRange": hash_keys_json(child) });
    Value::Array(stream.children_of(&shard.id).map(child).collect())
}
