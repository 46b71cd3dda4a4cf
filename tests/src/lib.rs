//! What the end-to-end tests share.

pub mod fleet;
pub mod journal;
#[cfg(feature = "wire")]
pub mod local_servers;
#[cfg(feature = "wire")]
pub mod programs;

pub use journal::{Delivered, Journal};
