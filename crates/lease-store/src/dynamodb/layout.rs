//! How rows are keyed: by shard alone, or by stream and shard.

use std::fmt;

use crate::{ShardId, StoreError};

/// One stream of a KCL application that reads many streams into one table: the KCL's serialised *stream identifier*,
/// `account:stream:creationEpoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiStreamKey(String);

impl MultiStreamKey {
    /// The identifier of a stream: its account (digits), its name, and when it was created, in seconds since 1970.
    ///
    /// # Errors
    /// `Invalid` when the account is not made of digits, or the name is empty or holds a colon.
    pub fn new(account_id: &str, stream_name: &str, creation_epoch_seconds: u64) -> Result<Self, StoreError> {
        let is_account = !account_id.is_empty() && account_id.bytes().all(|byte| byte.is_ascii_digit());
        if !is_account || stream_name.is_empty() || stream_name.contains(':') {
            return Err(StoreError::invalid(format!(
                "stream {stream_name:?} of account {account_id:?} makes no key of a multi-stream table: the account \
                 must be digits, and the name must not be empty or hold a colon"
            )));
        }
        Ok(Self(format!("{account_id}:{stream_name}:{creation_epoch_seconds}")))
    }

    /// The identifier as it stands in the rows.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MultiStreamKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How the rows of a table are keyed. An application has one layout for good; the KCL converts none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowLayout {
    /// The key is the shard id.
    SingleStream,
    /// The key is the stream identifier, a colon and the shard id; both stand in attributes of their own too.
    MultiStream(MultiStreamKey),
}

impl RowLayout {
    /// The key of a shard's row.
    pub(super) fn lease_key(&self, shard_id: &ShardId) -> String {
        match self {
            Self::SingleStream => shard_id.as_str().to_owned(),
            Self::MultiStream(stream) => format!("{stream}:{shard_id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_kcl_stream_identifier() {
        let key = MultiStreamKey::new("123456789012", "orders", 1_700_000_000).unwrap();
        assert_eq!(key.as_str(), "123456789012:orders:1700000000");
        let layout = RowLayout::MultiStream(key);
        assert_eq!(
            layout.lease_key(&ShardId::numbered(4)),
            "123456789012:orders:1700000000:shardId-000000000004"
        );
        for (account_id, stream_name) in [("", "orders"), ("12a", "orders"), ("12", ""), ("12", "a:b")] {
            assert!(
                MultiStreamKey::new(account_id, stream_name, 0).is_err(),
                "{account_id:?} {stream_name:?}"
            );
        }
    }
}
