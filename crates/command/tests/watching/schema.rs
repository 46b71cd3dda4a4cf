//! Compares values with a schema: the part of JSON Schema that the files in `schemas` use, and nothing else.
//!
//! A field that the schema does not name is a fault, as in a strict check by the service.

use serde_json::Value;

/// A schema of several kinds of documents.
pub(crate) struct Schema(Value);

impl Schema {
    pub(crate) fn new(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// The faults of a document of this kind, each with its place; `None`: the schema does not know the kind.
    pub(crate) fn faults(&self, kind: &str, document: &Value) -> Option<Vec<String>> {
        let definition = self.0["kinds"][kind].as_str()?;
        let mut faults = Vec::new();
        self.check(&self.0["definitions"][definition], document, kind, &mut faults);
        Some(faults)
    }

    fn check(&self, schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            match &self.0["definitions"][name] {
                Value::Null => faults.push(format!("{place}: the schema lacks {name}, add it")),
                found => self.check(found, value, place, faults),
            }
            return;
        }
        let is_of_type = match schema["type"].as_str() {
            None => true,
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            Some(other) => panic!("{place}: the type {other} of the schema is not supported"),
        };
        if !is_of_type {
            faults.push(format!("{place}: {value} is not of the type {}", schema["type"]));
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            faults.push(format!("{place}: {value} is none of {allowed:?}"));
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], item, &format!("{place}[{index}]"), faults);
        }
        let Some(fields) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                faults.push(format!("{place}: {name} is missing"));
            }
        }
        for (name, field) in fields {
            let place = format!("{place}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => faults.push(format!("{place}: there is no such field")),
                (Value::Null, others) => self.check(others, field, &place, faults),
                (found, _) => self.check(found, field, &place, faults),
            }
        }
    }
}
