//! The stream to which the rows of a lease table belong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies a stream, also after a stream of the same name was deleted and created again.
///
/// A position of one stream means nothing in another one: resuming from it would skip records or fail permanently. So
/// the rows hold the identity, and a worker refuses a table of another stream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StreamIdentity {
    /// The Amazon resource name of the stream.
    pub arn: String,
    /// The creation time, in seconds since 1970; the KCL's *creation epoch*.
    pub creation_epoch_seconds: u64,
}

impl fmt::Display for StreamIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (created at {} s after 1970)", self.arn, self.creation_epoch_seconds)
    }
}
