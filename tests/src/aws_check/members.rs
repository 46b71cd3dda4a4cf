//! The members of an answer of `GetRecords`, in JSON or CBOR, as far as the checks need them: pure.

use ciborium::Value;

/// The members of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Members {
    /// `None`: the answer has no member `Records`.
    pub(super) records: Option<Vec<RecordMembers>>,
    pub(super) next_iterator: Option<String>,
    pub(super) lag: Option<i64>,
    /// The ids of the children.
    pub(super) children: Vec<String>,
}

/// The members of a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RecordMembers {
    pub(super) sequence_number: String,
    pub(super) data: Value,
    pub(super) arrival: Value,
}

impl Members {
    /// The members of a body. `None`: it is neither a map in CBOR nor an object in JSON.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        let answer: Value = match body.first()? {
            b'{' => serde_json::from_slice(body).ok()?,
            _ => ciborium::from_reader(body).ok()?,
        };
        answer.as_map()?;
        let records = member(&answer, "Records").and_then(Value::as_array);
        let children = member(&answer, "ChildShards").and_then(Value::as_array);
        let lag = member(&answer, "MillisBehindLatest").and_then(Value::as_integer);
        Some(Self {
            records: records.map(|records| records.iter().map(RecordMembers::of).collect()),
            next_iterator: text(&answer, "NextShardIterator").filter(|iterator| !iterator.is_empty()),
            lag: lag.and_then(|lag| i64::try_from(lag).ok()),
            children: children.into_iter().flatten().filter_map(|child| text(child, "ShardId")).collect(),
        })
    }

    /// Whether the answer has no records.
    pub(super) fn is_empty(&self) -> bool {
        self.records.as_ref().is_none_or(Vec::is_empty)
    }
}

impl RecordMembers {
    fn of(record: &Value) -> Self {
        let value = |name| member(record, name).cloned().unwrap_or(Value::Null);
        Self {
            sequence_number: text(record, "SequenceNumber").unwrap_or_default(),
            data: value("Data"),
            arrival: value("ApproximateArrivalTimestamp"),
        }
    }
}

/// The code of a refusal.
pub(super) fn refusal_code(body: &[u8]) -> Option<String> {
    let refusal: Value = match body.first()? {
        b'{' => serde_json::from_slice(body).ok()?,
        _ => ciborium::from_reader(body).ok()?,
    };
    let code = text(&refusal, "__type").or_else(|| text(&refusal, "code"))?;
    code.rsplit('#').next().map(str::to_owned)
}

fn member<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let found = map.as_map()?.iter().find(|(key, _)| key.as_text() == Some(name));
    found.map(|(_, value)| value).filter(|value| !value.is_null())
}

fn text(map: &Value, name: &str) -> Option<String> {
    member(map, name)?.as_text().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_the_same_in_json_and_cbor() {
        let answer = json!({
            "Records": [{"SequenceNumber": "1", "Data": "", "ApproximateArrivalTimestamp": 1.5}],
            "NextShardIterator": "next",
            "MillisBehindLatest": 7,
            "ChildShards": [{"ShardId": "child"}],
        });
        let mut cbor = Vec::new();
        ciborium::into_writer(&answer, &mut cbor).unwrap();
        let members = Members::of(&cbor).unwrap();
        assert_eq!(Some(&members), Members::of(answer.to_string().as_bytes()).as_ref());
        assert_eq!((members.next_iterator.as_deref(), members.lag), (Some("next"), Some(7)));
        assert_eq!(members.children, ["child"]);
        assert_eq!(members.records.unwrap()[0].sequence_number, "1");
        assert_eq!(Members::of(b"{}"), Some(Members::default()));
        assert_eq!(Members::of(b"<html>"), None);
    }

    #[test]
    fn codes_of_refusals_have_no_prefix() {
        let body = br#"{"__type": "com.amazonaws.kinesis#InvalidArgumentException", "message": "no"}"#;
        assert_eq!(refusal_code(body).as_deref(), Some("InvalidArgumentException"));
        assert_eq!(refusal_code(b""), None);
    }
}
