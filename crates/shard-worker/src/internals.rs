//! Items that are public only for benchmarks. They have no stable API.

pub use crate::acknowledgement::window::{Advance, Window};
