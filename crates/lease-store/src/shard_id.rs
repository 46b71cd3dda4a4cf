//! The name of a shard.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// The longest shard id that the Kinesis API accepts, in bytes.
const MAX_LENGTH_BYTES: usize = 128;

/// The name of a shard, unique within its stream, such as `shardId-000000000004`.
///
/// One to 128 letters, digits, `_`, `.` and `-`, as the Kinesis API requires. In a single-stream lease table it is
/// also the key of the lease row. Cloning shares the text.
///
/// ```
/// use lease_store::ShardId;
///
/// let shard_id: ShardId = "shardId-000000000007".parse()?;
/// assert_eq!(shard_id, ShardId::numbered(7));
/// # Ok::<(), lease_store::StoreError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShardId(ByteString);

impl ShardId {
    /// Checks and wraps a shard id.
    ///
    /// # Errors
    /// `Invalid` when the text is empty, longer than 128 bytes, or has another character.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, StoreError> {
        let text = text.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > MAX_LENGTH_BYTES || !text.bytes().all(allowed) {
            return Err(StoreError::invalid(format!(
                "shard id {:?} must be 1 to {MAX_LENGTH_BYTES} letters, digits, '_', '.' or '-'",
                &*text
            )));
        }
        Ok(Self(text))
    }

    /// The id that Kinesis assigns to the shard with this number: `shardId-` and at least twelve digits.
    pub fn numbered(number: u64) -> Self {
        Self(format!("shardId-{number:012}").into())
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShardId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl TryFrom<String> for ShardId {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl From<ShardId> for String {
    fn from(shard_id: ShardId) -> Self {
        shard_id.as_str().to_owned()
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_ids_of_the_api_only() {
        let longest = "a".repeat(MAX_LENGTH_BYTES);
        for text in ["shardId-000000000000", "a", "_.-", longest.as_str()] {
            assert_eq!(ShardId::new(text).unwrap().as_str(), text);
        }
        for number in [0, 17, u64::MAX] {
            let numbered = ShardId::numbered(number);
            assert_eq!(ShardId::new(numbered.as_str()).unwrap(), numbered);
        }
        let too_long = "a".repeat(MAX_LENGTH_BYTES + 1);
        for text in ["", " ", "shard 1", "shard/1", "shardé", too_long.as_str()] {
            assert!(ShardId::new(text).is_err(), "{text:?}");
        }
    }
}
