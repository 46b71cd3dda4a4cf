//! How `GetRecords` is called, and the memory of what a server does not speak.

use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Encoding;

/// So many answers in CBOR that cannot be read, one after another, and JSON is asked for.
const MAX_MALFORMED_IN_A_ROW: u32 = 3;

/// How records are asked for and read.
///
/// Whatever was asked for, an answer is read in the encoding in which it comes. In the formats of this crate a failed call
/// is repeated as often as the client is configured to, and each attempt counts among the five reads in a second that a
/// shard allows; by the SDK it is tried once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GetRecordsFormat {
    /// In CBOR (`application/x-amz-cbor-1.1`): payloads come as bytes, which is a third less to receive and costs the
    /// least to read. A server that does not speak it is remembered, and asked in JSON from then on. The AWS SDK for Java
    /// reads Kinesis so; this crate has not been tried against AWS itself yet, so it has to be chosen.
    Cbor,
    /// In JSON, read by this crate.
    Json,
    /// In JSON, asked for and read by the AWS SDK alone: the reference, at several times the cost. The default.
    #[default]
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
    malformed_in_a_row: AtomicU32,
    announced: Once,
}

impl FormatMemory {
    pub(super) fn new(setting: GetRecordsFormat) -> Self {
        Self {
            setting,
            has_fallen_back: AtomicBool::new(false),
            malformed_in_a_row: AtomicU32::new(0),
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

    /// An answer in CBOR could be read, or not: a server that cannot be understood is asked in JSON in the end, since a
    /// fault that stays would stop the shard.
    pub(super) fn note_cbor(&self, stream: &str, is_sound: bool) {
        if is_sound {
            self.malformed_in_a_row.store(0, Ordering::Relaxed);
        } else if self.malformed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_MALFORMED_IN_A_ROW {
            self.fall_back(stream, "answers cannot be read");
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
    fn malformed_answers_in_a_row_end_in_json() {
        let memory = FormatMemory::new(GetRecordsFormat::Cbor);
        for is_sound in [false, false, true, false, false] {
            memory.note_cbor("words", is_sound);
        }
        assert_eq!(memory.encoding(), Some(Encoding::Cbor));
        memory.note_cbor("words", false);
        assert_eq!(memory.encoding(), Some(Encoding::Json));
    }
}
