//! Acknowledgement: which of the delivered records are done, and how far that goes without a gap.
//!
//! | file | what |
//! | --- | --- |
//! | [`window`] | what is delivered and not acknowledged, in order; pure |
//! | [`places`] | the positions of many records in little memory; pure |
//! | [`deliveries`] | the window of one shard, shared between its worker and the handles |
//! | [`handles`] | what the application acknowledges with |

mod deliveries;
mod handles;
mod places;
mod window;

pub(crate) use deliveries::{Delivered, Deliveries, Failure, WindowLimits};
pub use handles::{Acknowledgement, RecordAcknowledgement};

#[doc(hidden)]
pub use window::{Advance, Window};
