//! Stores that wrap another store: to add faults, a rate limit or counters, for tests and simulations, and to share one of any type.

mod counting;
mod faulty;
mod shared;
mod throttled;

pub use counting::{CountingLeaseStore, StoreCalls};
pub use faulty::{FaultRates, FaultyLeaseStore};
pub use shared::SharedLeaseStore;
pub use throttled::ThrottledLeaseStore;
