//! Acknowledgement: which delivered records are done, and how far the position of the shard may move.
//!
//! | file | content |
//! | --- | --- |
//! | [`window`] | the unacknowledged records, in order; pure |
//! | [`packed_positions`] | the positions of many records in little memory; pure |
//! | [`record_batch`] | a batch, and one delivery of it |
//! | [`tracker`] | the side of the worker |
//! | [`handles`] | the side of the application |

pub(crate) mod handles;
mod packed_positions;
pub(crate) mod record_batch;
pub(crate) mod tracker;
// Public for `internals`; without that feature nothing outside reaches it.
#[cfg_attr(not(feature = "internals"), allow(unreachable_pub))]
pub(crate) mod window;
