//! The messages of the line protocol: one JSON object on each line.
//!
//! | file | content |
//! | --- | --- |
//! | `outgoing` | messages to the child, written into a buffer |
//! | `incoming` | lines of the child as messages |
//! | `checkpoint` | a checkpoint request, and the words for failed ones |
//! | `lines` | bytes of a pipe as lines of limited length |
//! | `json_text` | JSON strings in ASCII |
//! | `flat_object` | the first JSON object of a line |

pub(crate) mod checkpoint;
pub(crate) mod flat_object;
pub(crate) mod incoming;
pub(crate) mod json_text;
pub(crate) mod lines;
pub(crate) mod outgoing;

pub use self::checkpoint::{CheckpointFault, CheckpointRequest};
pub use self::incoming::{FromChild, parse_line};
pub use self::lines::{LineSplitter, MAX_LINE_BYTES};
pub use self::outgoing::{ChildRecord, ToChild, write_process_records};
