//! Items for the models, the fuzz targets and the simulations of this repository. Not an API: they change without notice.

pub use crate::lease_state::{LeaseState, NextWrite, ReadBack, UnsettledWrite};

#[cfg(feature = "dynamodb")]
pub use crate::dynamodb::internals::{Item, Rows, Update};

impl LeaseState {
    /// Writes to the row that may have been applied, or may still be.
    pub fn unsettled(&self) -> &[UnsettledWrite] {
        &self.unsettled
    }
}
