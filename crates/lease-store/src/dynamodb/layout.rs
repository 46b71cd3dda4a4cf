//! The keys of rows: the shard alone, or stream and shard.

use std::fmt;

use crate::error::StoreError;
use crate::shard_id::ShardId;
use crate::stream_identity::StreamIdentity;

/// The parts of an ARN: `arn`, partition, service, region, account and resource.
const ARN_PARTS: usize = 6;

/// One stream of a KCL application that keeps the leases of many streams in one table: the KCL's serialised *stream
/// identifier*, `account:stream:creationEpoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultiStreamKey(String);

impl MultiStreamKey {
    /// The identifier of a stream: its account (digits), its name, and its creation time in seconds since 1970.
    ///
    /// # Errors
    /// `Invalid` when the account is not all digits, or the name is empty or contains a colon.
    pub fn new(account_id: &str, stream_name: &str, creation_epoch_seconds: u64) -> Result<Self, StoreError> {
        let is_account = !account_id.is_empty() && account_id.bytes().all(|byte| byte.is_ascii_digit());
        if !is_account || stream_name.is_empty() || stream_name.contains(':') {
            return Err(StoreError::invalid(format!(
                "stream {stream_name:?} of account {account_id:?} cannot be a key of a multi-stream table: the account \
                 must be digits, and the name must not be empty or contain a colon"
            )));
        }
        Ok(Self(format!("{account_id}:{stream_name}:{creation_epoch_seconds}")))
    }

    /// The identifier of a stream by its ARN and its creation time.
    ///
    /// # Errors
    /// `Invalid` when the ARN is not that of a stream, `arn:partition:kinesis:region:account:stream/name`.
    pub fn of_stream(stream: &StreamIdentity) -> Result<Self, StoreError> {
        let parts: Vec<&str> = stream.arn.splitn(ARN_PARTS, ':').collect();
        let name = parts.get(ARN_PARTS - 1).and_then(|resource| resource.strip_prefix("stream/"));
        match (parts.get(ARN_PARTS - 2), name) {
            (Some(account), Some(name)) => Self::new(account, name, stream.creation_epoch_seconds),
            _ => Err(StoreError::invalid(format!(
                "{:?} is not the ARN of a stream, so it gives no key of a multi-stream table; name the key of the stream \
                 (with_stream_key)",
                stream.arn
            ))),
        }
    }

    /// The identifier in a row, as it is.
    pub(super) fn of_row(identifier: &str) -> Self {
        Self(identifier.to_owned())
    }

    /// The text of the identifier, as in the rows.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MultiStreamKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The layout of the keys in a table. It is fixed for an application: neither this library nor the KCL converts a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowLayout {
    /// The key is the shard id.
    SingleStream,
    /// The key is the stream identifier, a colon and the shard id. Both are also attributes of their own.
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
    fn a_key_follows_from_arn_and_creation_time() {
        let key = |arn: &str| {
            let stream = StreamIdentity { arn: arn.to_owned(), creation_epoch_seconds: 1_700_000_000 };
            MultiStreamKey::of_stream(&stream)
        };
        let orders = key("arn:aws-cn:kinesis:cn-north-1:123456789012:stream/orders").unwrap();
        assert_eq!(orders.as_str(), "123456789012:orders:1700000000");
        for arn in
            ["orders", "arn:aws:kinesis:eu-west-1:12:orders", "arn:aws:kinesis:eu-west-1::stream/orders"]
        {
            assert!(key(arn).is_err(), "{arn}");
        }
    }

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
