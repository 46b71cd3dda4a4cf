//! What an error of the application's code says: whether another attempt can help, and its texts for a dead letter.

use std::error::Error;
use std::fmt;

use lease_store::BoxError;

use crate::decoding::DecodeError;

/// The most causes of an error that are looked at.
const MAX_CAUSES: usize = 16;

/// The longest text of an error or a cause in a dead letter, in characters.
const MAX_TEXT_CHARS: usize = 1000;

/// An error of the application's code that no further attempt can cure: a record that is malformed, or that a rule of the
/// application refuses.
///
/// The [`FailurePolicy`](crate::FailurePolicy) then skips its remaining attempts: a policy that divides looks for the poison
/// record at once, and a single record goes to the last resort. [`Record::json`](crate::Record::json) returns such errors by
/// itself. Any other error counts as one that may pass.
///
/// Its text and its causes are those of the error that it marks.
///
/// ```
/// use shard_worker::{BoxError, ProcessError, Record};
///
/// fn amount(record: &Record) -> Result<u64, BoxError> {
///     let text = std::str::from_utf8(&record.data).map_err(ProcessError::permanent)?;
///     Ok(text.parse::<u64>().map_err(ProcessError::permanent)?)
/// }
/// ```
pub struct ProcessError {
    source: BoxError,
}

impl ProcessError {
    /// Marks an error as permanent.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self { source: error.into() }
    }

    /// Whether an error, or one of its causes, is marked as permanent.
    pub fn is_permanent(error: &(dyn Error + 'static)) -> bool {
        std::iter::successors(Some(error), |&error| error.source())
            .take(MAX_CAUSES)
            .any(|error| error.is::<Self>() || error.downcast_ref().is_some_and(DecodeError::is_permanent))
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(formatter)
    }
}

impl fmt::Debug for ProcessError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "permanent: {:?}", self.source)
    }
}

impl Error for ProcessError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// The texts of an error, without the payload of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorTexts {
    pub(crate) error: String,
    /// The texts of its causes, the nearest first. A text that the one before it contains is left out.
    pub(crate) causes: Vec<String>,
}

impl ErrorTexts {
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let (text, mut next) = text_and_cause(error);
        let error = shortened(text);
        let mut causes: Vec<String> = Vec::new();
        for _ in 0..MAX_CAUSES {
            let Some(cause) = next else { break };
            let (text, further) = text_and_cause(cause);
            next = further;
            let text = shortened(text);
            if !causes.last().unwrap_or(&error).contains(&text) {
                causes.push(text);
            }
        }
        Self { error, causes }
    }
}

/// The text of an error and its cause. The text of a JSON decoder may quote the payload, so its class and place stand for it;
/// other decoders are not known, so theirs is left out.
fn text_and_cause<'a>(error: &'a (dyn Error + 'static)) -> (String, Option<&'a (dyn Error + 'static)>) {
    if let Some(ProcessError { source }) = error.downcast_ref() {
        return text_and_cause(&**source);
    }
    if let Some(json) = error.downcast_ref::<serde_json::Error>() {
        let (line, column) = (json.line(), json.column());
        return (format!("JSON {:?} error at line {line} column {column}", json.classify()), None);
    }
    let cause = match error.downcast_ref::<DecodeError>() {
        Some(_) => error.source().filter(|source| source.is::<serde_json::Error>()),
        None => error.source(),
    };
    (error.to_string(), cause)
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        None => text,
        Some((end, _)) => format!("{} …", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    /// An error with a cause.
    #[derive(Debug)]
    struct Outer(&'static str, BoxError);

    impl fmt::Display for Outer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.1)
        }
    }

    fn record(data: &'static str) -> Record {
        Record {
            sequence_number: 7u128.into(),
            sub_sequence_number: 0,
            partition_key: None,
            data: data.into(),
            approximate_arrival: None,
        }
    }

    #[test]
    fn permanence_is_found_below_other_errors() {
        let json: BoxError = record("\"secret\"").json::<u8>().unwrap_err().into();
        assert!(ProcessError::is_permanent(&*json));
        let own = record("text").decode(|_| Err::<(), _>("the registry is away")).unwrap_err();
        assert!(!ProcessError::is_permanent(&own), "another decoder may fail for a while");
        let marked = record("text").decode(|_| Err::<(), _>(ProcessError::permanent("no schema 9")));
        assert!(ProcessError::is_permanent(&marked.unwrap_err()));
        let nested: BoxError = Outer("order 5 refused", ProcessError::permanent("no customer").into()).into();
        assert!(ProcessError::is_permanent(&*nested));
        let plain: BoxError = "the database is away".into();
        assert!(!ProcessError::is_permanent(&*plain));
    }

    #[test]
    fn texts_keep_the_causes_without_the_payload() {
        let json: BoxError = record("\"secret\"").json::<u8>().unwrap_err().into();
        let nested: BoxError = Outer("order refused", ProcessError::permanent(json).into()).into();
        let texts = ErrorTexts::of(&*nested);
        assert_eq!(texts.error, "order refused");
        assert_eq!(
            texts.causes,
            ["the payload of record 7/0 cannot be decoded", "JSON Data error at line 1 column 8"]
        );
        let own: BoxError = record("text").decode(|_| Err::<(), _>("quotes text")).unwrap_err().into();
        assert_eq!(ErrorTexts::of(&*own).causes, [""; 0], "another decoder may quote the payload");
        let bare: BoxError = serde_json::from_str::<u8>("\"secret\"").unwrap_err().into();
        assert_eq!(ErrorTexts::of(&*bare).error, "JSON Data error at line 1 column 8");
    }

    #[test]
    fn texts_are_bounded_and_say_nothing_twice() {
        let mut error: BoxError = "x".repeat(MAX_TEXT_CHARS + 1).into();
        for _ in 0..2 * MAX_CAUSES {
            error = Outer("again", error).into();
        }
        assert_eq!(ErrorTexts::of(&*error), ErrorTexts { error: "again".to_owned(), causes: Vec::new() });
        let long: BoxError = Outer("short", "x".repeat(MAX_TEXT_CHARS + 1).into()).into();
        assert_eq!(ErrorTexts::of(&*long).causes[0].chars().count(), MAX_TEXT_CHARS + 2);
        let shown: BoxError = ProcessError::permanent("no customer").into();
        assert_eq!(format!("{shown:?} / {shown}"), "permanent: \"no customer\" / no customer");
    }
}
