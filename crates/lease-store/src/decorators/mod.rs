//! Stores around stores: faults, limits and counts for tests, budgets and simulations.

mod counting;
mod faulty;
mod throttled;

pub use counting::{CountingLeaseStore, StoreCalls};
pub use faulty::{FaultRates, FaultyLeaseStore};
pub use throttled::ThrottledLeaseStore;
