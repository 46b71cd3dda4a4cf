//! The name of a worker.

use std::fmt;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// The longest accepted worker id, in bytes. It bounds the size of a row; the KCL has no such rule.
const MAX_LENGTH_BYTES: usize = 256;

/// The name of a worker (the KCL's *worker identifier*), unique among the running workers of an application.
///
/// A lease row names its owner by this id. If a worker has the same id after a restart, it takes its own leases back at
/// once. Never empty: in the table an absent owner means unowned.
///
/// ```
/// use lease_store::WorkerId;
///
/// let worker_id = WorkerId::new("orders-7f9c")?;
/// assert_eq!(worker_id.as_str(), "orders-7f9c");
/// assert!(WorkerId::new("").is_err());
/// # Ok::<(), lease_store::StoreError>(())
/// ```
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
