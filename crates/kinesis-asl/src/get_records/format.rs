//! The encoding setting of `GetRecords`, and the memory of a fall-back to JSON.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::encoding::Encoding;

/// The number of CBOR failures, without decoded records in between, after which JSON is requested.
const MAX_FAILURES_IN_A_ROW: u32 = 3;

/// How long records are read in JSON before CBOR is tried again. A stray answer of a proxy can look like a server without CBOR.
const FALL_BACK_TIME: Duration = Duration::from_secs(10 * 60);

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum GetRecordsFormat {
    /// CBOR (`application/x-amz-cbor-1.1`), as in the AWS SDK for Java: payloads are bytes, which saves a quarter of the traffic
    /// and is the cheapest to decode. If a server seems not to support CBOR, requests use JSON for ten minutes. The default.
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

/// The format in use: that of the setting, or JSON for a while when the server seems not to support CBOR.
#[derive(Debug)]
pub(super) struct FormatMemory {
    setting: GetRecordsFormat,
    /// Until when JSON is requested instead of CBOR. `None`: CBOR is requested.
    fallen_back_until: Mutex<Option<Instant>>,
    /// Whether a fall-back was logged as a warning.
    has_warned: AtomicBool,
    failures_in_a_row: AtomicU32,
    /// Whether records in CBOR were decoded, so the server supports CBOR.
    has_decoded_records: AtomicBool,
    logged: Once,
}

impl FormatMemory {
    pub(super) fn new(setting: GetRecordsFormat) -> Self {
        Self {
            setting,
            fallen_back_until: Mutex::default(),
            has_warned: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            has_decoded_records: AtomicBool::new(false),
            logged: Once::new(),
        }
    }

    /// The encoding to request; `None`: the SDK chooses.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        match self.setting {
            GetRecordsFormat::Sdk => None,
            GetRecordsFormat::Cbor if !self.is_fallen_back(Instant::now()) => Some(Encoding::Cbor),
            GetRecordsFormat::Cbor | GetRecordsFormat::Json => Some(Encoding::Json),
        }
    }

    /// Logs the format at the first call.
    pub(super) fn log_once(&self, stream: &str) {
        self.logged
            .call_once(|| tracing::info!(stream, format = %self.setting, "reading records in this format"));
    }

    fn is_fallen_back(&self, now: Instant) -> bool {
        let until = *self.fallen_back_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }

    /// Switches to JSON for a while, and logs that: the first time as a warning.
    pub(super) fn fall_back(&self, stream: &str, reason: &str) {
        let now = Instant::now();
        if self.is_fallen_back(now) {
            return;
        }
        *self.fallen_back_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + FALL_BACK_TIME);
        // When CBOR is tried again, one failure is enough to return to JSON.
        self.failures_in_a_row.store(MAX_FAILURES_IN_A_ROW - 1, Ordering::Relaxed);
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(
                stream,
                reason,
                "CBOR failed again, reading records in JSON for another {FALL_BACK_TIME:?}"
            );
        } else {
            tracing::warn!(
                stream,
                reason,
                format = %GetRecordsFormat::Json,
                "the server seems not to support CBOR, reading records in JSON; CBOR is tried again after {FALL_BACK_TIME:?}"
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

    #[tokio::test(start_paused = true)]
    async fn fall_back_to_json_ends_after_a_while() {
        let memory = FormatMemory::new(GetRecordsFormat::Cbor);
        assert_eq!(memory.encoding(), Some(Encoding::Cbor));
        memory.fall_back("words", "test");
        assert_eq!(memory.encoding(), Some(Encoding::Json));
        tokio::time::advance(FALL_BACK_TIME - Duration::from_secs(1)).await;
        assert_eq!(memory.encoding(), Some(Encoding::Json));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(memory.encoding(), Some(Encoding::Cbor), "CBOR is tried again");
        memory.record_cbor_outcome("words", CborOutcome::Malformed);
        assert_eq!(memory.encoding(), Some(Encoding::Json), "one more failure leads back to JSON");
        tokio::time::advance(FALL_BACK_TIME).await;
        memory.record_cbor_outcome("words", CborOutcome::Records);
        memory.record_cbor_outcome("words", CborOutcome::Malformed);
        assert_eq!(memory.encoding(), Some(Encoding::Cbor), "decoded records clear the failures");
    }

    #[test]
    fn other_formats_are_those_of_the_setting() {
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
