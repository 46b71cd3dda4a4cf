//! The encoding setting of `GetRecords`, and the memory of a fall-back to JSON.

use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::encoding::Encoding;

/// The number of CBOR failures, without decoded records in between, after which JSON is requested.
const MAX_FAILURES_IN_A_ROW: u32 = 3;

/// The outcome of a CBOR request, as evidence of whether the server supports CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CborOutcome {
    /// The answer had records, and they were decoded.
    Records,
    /// The answer had no records. No evidence: a server whose encoding of records is wrong sends such answers too.
    NoRecords,
    /// The answer could not be decoded.
    Malformed,
    /// The server failed; some servers do so on requests that they do not understand.
    Failed,
}

/// The encoding of `GetRecords` requests, and the parser of its answers.
///
/// An answer is decoded in the encoding in which it arrives, even if another one was requested. In every format a read is
/// attempted once, regardless of the client's retry settings. Each attempt counts towards the five reads a second that a shard
/// allows, and the worker retries a failed read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GetRecordsFormat {
    /// CBOR (`application/x-amz-cbor-1.1`), as in the AWS SDK for Java: payloads are bytes, which saves a quarter of the traffic
    /// and is the cheapest to decode. If a server does not support CBOR, later requests use JSON. The default.
    #[default]
    Cbor,
    /// JSON, decoded by this crate.
    Json,
    /// JSON, requested and decoded by the AWS SDK alone, at several times the CPU cost.
    Sdk,
}

impl fmt::Display for GetRecordsFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cbor => "CBOR",
            Self::Json => "JSON",
            Self::Sdk => "JSON by the AWS SDK",
        })
    }
}

/// The format in use: that of the setting, or JSON once the server turned out not to support CBOR.
#[derive(Debug)]
pub(super) struct FormatMemory {
    setting: GetRecordsFormat,
    has_fallen_back: AtomicBool,
    failures_in_a_row: AtomicU32,
    /// Whether records in CBOR were decoded, so the server supports CBOR.
    has_decoded_records: AtomicBool,
    logged: Once,
}

impl FormatMemory {
    pub(super) fn new(setting: GetRecordsFormat) -> Self {
        Self {
            setting,
            has_fallen_back: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            has_decoded_records: AtomicBool::new(false),
            logged: Once::new(),
        }
    }

    /// The encoding to request; `None`: the SDK chooses.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        match self.setting {
            GetRecordsFormat::Sdk => None,
            GetRecordsFormat::Cbor if !self.has_fallen_back.load(Ordering::Relaxed) => Some(Encoding::Cbor),
            GetRecordsFormat::Cbor | GetRecordsFormat::Json => Some(Encoding::Json),
        }
    }

    /// Logs the format at the first call.
    pub(super) fn log_once(&self, stream: &str) {
        self.logged
            .call_once(|| tracing::info!(stream, format = %self.setting, "reading records in this format"));
    }

    /// Switches to JSON, and logs that once.
    pub(super) fn fall_back(&self, stream: &str, reason: &str) {
        if !self.has_fallen_back.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                stream,
                reason,
                format = %GetRecordsFormat::Json,
                "the server does not support CBOR, reading records in JSON from now on"
            );
        }
    }

    /// Records the outcome of a CBOR request, and falls back to JSON after several failures in a row. Otherwise a server whose
    /// CBOR cannot be decoded would stop the shard for good. Server errors count only until the first records were decoded.
    pub(super) fn record_cbor_outcome(&self, stream: &str, outcome: CborOutcome) {
        let reason = match outcome {
            CborOutcome::Records => {
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                self.has_decoded_records.store(true, Ordering::Relaxed);
                return;
            }
            CborOutcome::NoRecords => return,
            CborOutcome::Failed if self.has_decoded_records.load(Ordering::Relaxed) => return,
            CborOutcome::Failed => "CBOR requests fail",
            CborOutcome::Malformed => "CBOR answers cannot be decoded",
        };
        if self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILURES_IN_A_ROW {
            self.fall_back(stream, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fall_back_to_json_is_remembered() {
        let memory = FormatMemory::new(GetRecordsFormat::Cbor);
        assert_eq!(memory.encoding(), Some(Encoding::Cbor));
        memory.fall_back("words", "test");
        assert_eq!(memory.encoding(), Some(Encoding::Json));
        for (setting, expected) in
            [(GetRecordsFormat::Json, Some(Encoding::Json)), (GetRecordsFormat::Sdk, None)]
        {
            let memory = FormatMemory::new(setting);
            assert_eq!(memory.encoding(), expected);
        }
    }

    #[test]
    fn consecutive_cbor_failures_end_in_json() {
        use CborOutcome::{Failed, Malformed, NoRecords, Records};
        for (attempts, expected) in [
            (&[Malformed, Malformed, Records, Malformed, Malformed][..], Encoding::Cbor),
            (&[Malformed, NoRecords, Malformed, NoRecords, Malformed], Encoding::Json),
            (&[Failed, Failed, NoRecords, Failed], Encoding::Json),
            // The server supports CBOR, so its failures are outages.
            (&[Records, Failed, Failed, Failed, Failed], Encoding::Cbor),
            (&[Records, Malformed, Malformed, Malformed], Encoding::Json),
        ] {
            let memory = FormatMemory::new(GetRecordsFormat::Cbor);
            for outcome in attempts {
                memory.record_cbor_outcome("words", *outcome);
            }
            assert_eq!(memory.encoding(), Some(expected), "{attempts:?}");
        }
    }
}
