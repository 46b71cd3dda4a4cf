//! What the end-to-end tests share.

pub mod fleet;
pub mod hooked_store;
#[cfg(feature = "wire")]
pub mod interop;
pub mod journal;
#[cfg(feature = "wire")]
pub mod local_servers;
#[cfg(feature = "wire")]
pub mod programs;

pub use hooked_store::HookedStore;
pub use journal::{Delivered, Journal};
