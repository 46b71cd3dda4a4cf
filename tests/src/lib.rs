//! Support for the end-to-end tests that needs the receiver or AWS. The rest is in the package `test-support`.

#[cfg(feature = "wire")]
pub mod aws_check;
#[cfg(feature = "wire")]
pub mod daemon;
pub mod fleet;
#[cfg(feature = "wire")]
pub mod interop;
pub mod kcl_peer;
#[cfg(feature = "wire")]
pub mod local_servers;
#[cfg(feature = "wire")]
pub mod programs;
#[cfg(feature = "wire")]
pub mod proxy;
