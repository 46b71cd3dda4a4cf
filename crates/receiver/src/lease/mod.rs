//! One held lease: its renewal, its release, the watchdog over its shard, and the task that ties them to the worker.

pub(crate) mod release;
pub(crate) mod renewal;
pub(crate) mod shard_task;
mod supervisor;
