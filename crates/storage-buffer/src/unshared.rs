//! Copies of sequence numbers that keep no response buffer in memory.

use lease_store::SequenceNumber;

/// A copy with memory of its own: a sequence number is otherwise a slice of the response it came in.
pub(crate) trait Unshared {
    fn unshared(&self) -> Self;
}

impl Unshared for SequenceNumber {
    fn unshared(&self) -> Self {
        Self::new(self.as_str().to_owned()).unwrap_or_else(|_| self.clone())
    }
}
