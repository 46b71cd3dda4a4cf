//! Which stream a lease table belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stream, told apart from every other, and from one of the same name that was deleted and created again.
///
/// Positions of one stream mean nothing in another: reading on from them would skip records or fail for ever. So the
/// identity is noted in the rows, and a table of another stream is refused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StreamIdentity {
    /// The Amazon resource name of the stream.
    pub arn: String,
    /// When it was created, in seconds since 1970; the KCL's *creation epoch*.
    pub creation_epoch_seconds: u64,
}

impl fmt::Display for StreamIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (created at {} s after 1970)", self.arn, self.creation_epoch_seconds)
    }
}
