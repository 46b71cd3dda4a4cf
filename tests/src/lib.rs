//! What the end-to-end tests share.

pub mod counted_stream;
pub mod fleet;
pub mod hooked_store;
#[cfg(feature = "wire")]
pub mod interop;
pub mod journal;
pub mod kcl_peer;
#[cfg(feature = "wire")]
pub mod local_servers;
#[cfg(feature = "wire")]
pub mod programs;
#[cfg(feature = "wire")]
pub mod proxy;

pub use counted_stream::CountedStream;
pub use hooked_store::HookedStore;
pub use journal::{Delivered, Journal};
pub use kcl_peer::KclPeer;
