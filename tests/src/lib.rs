//! What the end-to-end tests share.

pub mod journal;

pub use journal::{Delivered, Journal};
