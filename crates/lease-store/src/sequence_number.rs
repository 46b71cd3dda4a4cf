//! Sequence numbers: decimal text with numeric order.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// The most digits a sequence number can have (Kinesis API: `0|([1-9]\d{0,128})`).
const MAX_DIGITS: usize = 129;

/// The number that Kinesis assigns to a record. It only grows within a shard and its descendants.
///
/// A sequence number has up to 129 decimal digits. No integer type is that wide, so it is kept as text. Without leading
/// zeros the longer number is the larger one, and for equal lengths the order of the text is the numeric order. Cloning
/// shares the text, which may be a slice of a larger buffer.
///
/// ```
/// use lease_store::SequenceNumber;
///
/// let (one, other): (SequenceNumber, SequenceNumber) = ("4959".parse()?, "14959".parse()?);
/// assert!(one < other, "the order is that of numbers, not of texts");
/// # Ok::<(), lease_store::StoreError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SequenceNumber(ByteString);

impl SequenceNumber {
    /// Checks and wraps a sequence number.
    ///
    /// # Errors
    /// `Invalid` when the text is not canonical decimal or has more than 129 digits.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, StoreError> {
        let text = text.into();
        // This runs for every record. The fold has no early exit, so the compiler can check many bytes in one step.
        let digits = text.bytes().fold(true, |so_far, byte| so_far & byte.is_ascii_digit());
        let digits_only = !text.is_empty() && digits;
        let canonical = text.len() == 1 || !text.starts_with('0');
        if !digits_only || !canonical || text.len() > MAX_DIGITS {
            return Err(StoreError::invalid(format!(
                "sequence number {:?} must be decimal without leading zeros and at most {MAX_DIGITS} digits long",
                &*text
            )));
        }
        Ok(Self(text))
    }

    /// The decimal text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.as_bytes().cmp(other.0.as_bytes()))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<u128> for SequenceNumber {
    fn from(number: u128) -> Self {
        Self(number.to_string().into())
    }
}

impl FromStr for SequenceNumber {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl TryFrom<String> for SequenceNumber {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl From<SequenceNumber> for String {
    fn from(sequence_number: SequenceNumber) -> Self {
        sequence_number.as_str().to_owned()
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_is_numeric(left: u128, right: u128) {
            prop_assert_eq!(SequenceNumber::from(left).cmp(&SequenceNumber::from(right)), left.cmp(&right));
        }

        #[test]
        fn canonical_text_round_trips(text in "0|[1-9][0-9]{0,128}") {
            let sequence_number = SequenceNumber::new(text.clone()).unwrap();
            prop_assert_eq!(sequence_number.as_str(), text);
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC{0,140}") {
            let canonical = text == "0"
                || (!text.is_empty() && text.len() <= MAX_DIGITS && !text.starts_with('0')
                    && text.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(SequenceNumber::new(text).is_ok(), canonical);
        }
    }

    #[test]
    fn compares_beyond_128_bits() {
        let smaller = SequenceNumber::new("9".repeat(56)).unwrap();
        let larger = SequenceNumber::new(format!("1{}", "0".repeat(56))).unwrap();
        assert!(smaller < larger);
    }

    #[test]
    fn leading_zeros_and_130_digits_are_refused() {
        assert!(SequenceNumber::new("00").is_err());
        assert!(SequenceNumber::new("012").is_err());
        assert!(SequenceNumber::new("1".repeat(MAX_DIGITS + 1)).is_err());
    }
}
