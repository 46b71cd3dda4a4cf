//! A storage buffer: receives a stream ahead of processing, at one of Spark's storage levels.
//!
//! A [`StorageBuffer`] wraps a stream. Each shard that is opened through it is received in the background into blocks. The
//! blocks wait in memory, in a local store and in a replica store, and the shard's reader serves them in order.
//! Acknowledgement, retries and checkpoints work as without a buffer: the position of a shard follows the records that were
//! processed, never those that were received. So no guarantee depends on a block: a lost block is read again from the stream.
//!
//! | topic | items |
//! | --- | --- |
//! | the buffer | [`StorageBuffer`], [`StorageSettings`], [`StorageUsage`] |
//! | which blocks are kept where | [`StorageLevel`], [`BlockStores`] |
//! | errors | [`StorageError`], [`StorageErrorKind`] |
// Items for `internals` are public in private modules.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod backfill;
mod block;
mod block_edge;
mod block_name;
mod block_queue;
mod block_stores;
mod buffer;
mod capacity;
mod error;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod reader;
mod settings;
mod shard_buffer;
mod storage_level;
mod unshared;
mod usage;
mod writer;

pub use block_stores::BlockStores;
pub use buffer::StorageBuffer;
pub use error::{StorageError, StorageErrorKind};
pub use settings::StorageSettings;
pub use storage_level::StorageLevel;
pub use usage::StorageUsage;
