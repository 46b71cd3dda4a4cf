//! The name of a fleet member.

use std::fmt;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::StoreError;

/// The longest worker id we take, in bytes; a bound for the rows, not a rule of the KCL.
const MAX_LENGTH_BYTES: usize = 256;

/// The name of a fleet member (the KCL's *worker identifier*), unique among the running members of an application.
///
/// It stands in a lease row as the owner. A name that is the same after a restart lets the worker have its own leases
/// back at once. Never empty: in the table an absent owner means unowned.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(ByteString);

impl WorkerId {
    /// Checks and wraps a worker id.
    ///
    /// # Errors
    /// `Invalid` when the text is empty or longer than 256 bytes.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, StoreError> {
        let text = text.into();
        if text.is_empty() || text.len() > MAX_LENGTH_BYTES {
            return Err(StoreError::invalid(format!(
                "worker id {:?} must be 1 to {MAX_LENGTH_BYTES} bytes long",
                &*text
            )));
        }
        Ok(Self(text))
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WorkerId {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        Self::new(text)
    }
}

impl From<WorkerId> for String {
    fn from(worker_id: WorkerId) -> Self {
        worker_id.as_str().to_owned()
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
