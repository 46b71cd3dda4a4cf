//! How `GetRecords` is called, and the memory of what a server does not speak.

use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Encoding;

/// So many failures in CBOR, with no records in between that could be read, and JSON is asked for.
const MAX_FAILURES_IN_A_ROW: u32 = 3;

/// What a request in CBOR came to, as far as that says whether the server speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempted {
    /// There were records, and they could be read.
    Records,
    /// There were none: a server that writes records wrong gives such answers too.
    Nothing,
    /// The answer could not be read.
    Malformed,
    /// The server failed, as some do on requests that they do not understand.
    Failed,
}

/// How records are asked for and read.
///
/// Whatever was asked for, an answer is read in the encoding in which it comes. In every format a read is tried once,
/// whatever the client is configured to: each attempt counts among the five reads in a second that a shard allows, and
/// whoever reads repeats it in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GetRecordsFormat {
    /// In CBOR (`application/x-amz-cbor-1.1`), as the AWS SDK for Java reads Kinesis: payloads come as bytes, which is a
    /// quarter less to receive and costs the least to read. A server that does not speak it is remembered, and asked in JSON
    /// from then on. The default.
    #[default]
    Cbor,
    /// In JSON, read by this crate.
    Json,
    /// In JSON, asked for and read by the AWS SDK alone: the reference, at several times the cost.
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

/// The format in use: the one of the setting, or JSON once a server was found not to speak CBOR.
#[derive(Debug)]
pub(super) struct FormatMemory {
    setting: GetRecordsFormat,
    has_fallen_back: AtomicBool,
    failures_in_a_row: AtomicU32,
    /// Records in CBOR were read: the server speaks it.
    has_been_read: AtomicBool,
    announced: Once,
}

impl FormatMemory {
    pub(super) fn new(setting: GetRecordsFormat) -> Self {
        Self {
            setting,
            has_fallen_back: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            has_been_read: AtomicBool::new(false),
            announced: Once::new(),
        }
    }

    /// The encoding to ask for; `None`: the SDK's business.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        match self.setting {
            GetRecordsFormat::Sdk => None,
            GetRecordsFormat::Cbor if !self.has_fallen_back.load(Ordering::Relaxed) => Some(Encoding::Cbor),
            GetRecordsFormat::Cbor | GetRecordsFormat::Json => Some(Encoding::Json),
        }
    }

    /// Logs the format, the first time.
    pub(super) fn announce(&self, stream: &str) {
        self.announced.call_once(|| tracing::info!(stream, format = %self.setting, "records are read"));
    }

    /// From now on JSON is asked for. Logged the first time.
    pub(super) fn fall_back(&self, stream: &str, reason: &str) {
        if !self.has_fallen_back.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                stream,
                reason,
                format = %GetRecordsFormat::Json,
                "the server does not speak CBOR; records are read in another format from now on"
            );
        }
    }

    /// What came of a request in CBOR. A server that cannot be understood is asked in JSON in the end, since a fault that
    /// stays would stop the shard; and so is one that fails on every request, as long as it has not been understood once.
    pub(super) fn note_cbor(&self, stream: &str, attempted: Attempted) {
        let reason = match attempted {
            Attempted::Records => {
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                self.has_been_read.store(true, Ordering::Relaxed);
                return;
            }
            Attempted::Nothing => return,
            Attempted::Failed if self.has_been_read.load(Ordering::Relaxed) => return,
            Attempted::Failed => "requests fail",
            Attempted::Malformed => "answers cannot be read",
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
    fn only_cbor_falls_back_and_remembers_it() {
        let memory = FormatMemory::new(GetRecordsFormat::Cbor);
        assert_eq!(memory.encoding(), Some(Encoding::Cbor));
        memory.fall_back("words", "as the test wants it");
        assert_eq!(memory.encoding(), Some(Encoding::Json));
        for (setting, expected) in
            [(GetRecordsFormat::Json, Some(Encoding::Json)), (GetRecordsFormat::Sdk, None)]
        {
            let memory = FormatMemory::new(setting);
            assert_eq!(memory.encoding(), expected);
        }
    }

    #[test]
    fn failures_without_records_in_between_end_in_json() {
        use Attempted::{Failed, Malformed, Nothing, Records};
        for (attempts, expected) in [
            (&[Malformed, Malformed, Records, Malformed, Malformed][..], Encoding::Cbor),
            (&[Malformed, Nothing, Malformed, Nothing, Malformed], Encoding::Json),
            (&[Failed, Failed, Nothing, Failed], Encoding::Json),
            // A server that was understood has outages.
            (&[Records, Failed, Failed, Failed, Failed], Encoding::Cbor),
            (&[Records, Malformed, Malformed, Malformed], Encoding::Json),
        ] {
            let memory = FormatMemory::new(GetRecordsFormat::Cbor);
            for attempted in attempts {
                memory.note_cbor("words", *attempted);
            }
            assert_eq!(memory.encoding(), Some(expected), "{attempts:?}");
        }
    }
}
