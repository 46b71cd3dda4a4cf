//! One held lease: its take, its renewal, its release, the watchdog over its shard, and the task that ties them to the worker.

pub(crate) mod lag;
pub(crate) mod orders;
pub(crate) mod release;
pub(crate) mod renewal;
pub(crate) mod shard_task;
mod supervisor;
pub(crate) mod take;
pub(crate) mod token_floor;
pub(crate) mod unwritten;
