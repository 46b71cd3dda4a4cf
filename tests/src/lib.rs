//! What the end-to-end tests share.

pub mod journal;
#[cfg(feature = "wire")]
pub mod local_servers;

pub use journal::{Delivered, Journal};
