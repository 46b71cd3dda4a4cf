//! The decoded answer of `GetRecords`. Its records are slices of one buffer.

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::types::ChildShard;
use bytes::Bytes;
use bytestring::ByteString;
use lease_store::SequenceNumber;
use shard_worker::Record;

use super::decode_error::{DecodeError, Malformed};

/// How deep unknown members may nest; bounds the stack.
pub(super) const MAX_DEPTH: usize = 32;

/// The most records of an answer, well above the 10,000 of the API; bounds the memory that a body can make us reserve.
pub(super) const MAX_RECORDS: usize = 1 << 16;

/// The longest body that is read, in bytes. Fits the 10 MB of the API in base64 with 10,000 of the longest partition keys (256
/// characters of up to 12 bytes when escaped).
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The fault of an answer without the member `Records`, which every answer of Kinesis has. It comes from something else: another
/// service, a proxy, or an emulator in trouble.
pub(super) const NO_RECORDS: &str = "the answer has no member `Records`";

/// A decoded answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) records: Vec<Record>,
    /// The next iterator; `None` or empty: the shard may have ended.
    pub(crate) next_iterator: Option<String>,
    pub(crate) millis_behind_latest: Option<i64>,
    /// The children, at the end of a shard.
    pub(crate) children: Vec<ChildShard>,
}

/// The members of a record, before validation.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RecordParts {
    pub(super) sequence_number: Bytes,
    pub(super) arrival_millis: Option<i64>,
    pub(super) data: Bytes,
    pub(super) partition_key: Option<Bytes>,
}

impl RecordParts {
    /// Less than the size of any record: the name of the sequence number and one digit.
    pub(super) const MIN_BYTES: usize = 17;

    /// Validates the members. `malformed` adds the offset to a fault.
    pub(super) fn into_record(
        self,
        malformed: impl Fn(&'static str) -> Malformed,
    ) -> Result<Record, DecodeError> {
        let sequence_number = ByteString::try_from(self.sequence_number)
            .map_err(|_| malformed("the sequence number is not UTF-8"))?;
        let partition_key = match self.partition_key.filter(|key| !key.is_empty()) {
            Some(key) => {
                Some(ByteString::try_from(key).map_err(|_| malformed("the partition key is not UTF-8"))?)
            }
            None => None,
        };
        Ok(Record::new(SequenceNumber::new(sequence_number).map_err(DecodeError::SequenceNumber)?, self.data)
            .with_partition_key(partition_key)
            .with_arrival(self.arrival_millis.and_then(system_time_of_millis)))
    }
}

fn system_time_of_millis(millis: i64) -> Option<SystemTime> {
    let distance = Duration::from_millis(millis.unsigned_abs());
    if millis >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    }
}
