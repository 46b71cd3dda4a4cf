//! Stores that wrap another store and add faults, a rate limit or counters, for tests and simulations.

mod counting;
mod faulty;
mod throttled;

pub use counting::{CountingLeaseStore, StoreCalls};
pub use faulty::{FaultRates, FaultyLeaseStore};
pub use throttled::ThrottledLeaseStore;
