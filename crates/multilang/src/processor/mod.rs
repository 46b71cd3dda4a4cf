//! Record processors that are children: the adapter between the shard worker and the conversation.
//!
//! A batch is deferred when it is delivered, and a checkpoint of the child acknowledges it: the position of the shard moves
//! only as far as the child has checkpointed. When a child fails, all unacknowledged batches are dropped, which makes the
//! shard worker read them again with a new child that starts at the last checkpoint.
//!
//! A shard worker that runs such processors must not limit unacknowledged records, because most children checkpoint once in
//! a minute, and only while they process a batch: set `max_unacknowledged_records` and `max_unacknowledged_bytes` to their
//! maximum. The records themselves are dropped once the child has answered the batch; only handles remain.
//!
//! | file | content |
//! | --- | --- |
//! | `positions` | what a checkpoint request means, within the delivered range; pure |
//! | `unacknowledged` | the batches that wait for a checkpoint of the child |
//! | `faults` | the word for a checkpoint that was not written; pure |
//! | `restarts` | how often and when a failed child is started again; pure |
//! | `factory` | creates the processors |
//! | `shared` | what they share; it remembers the checkpoint and the failures of a shard across them |
//! | `child_processor` | the processor of one shard |
//! | `child_task` | the task that owns a child, so that a cancelled call does not break its line |

pub(crate) mod child_processor;
pub(crate) mod child_task;
pub(crate) mod factory;
pub(crate) mod faults;
pub(crate) mod positions;
pub(crate) mod restarts;
pub(crate) mod shared;
pub(crate) mod unacknowledged;

pub use self::factory::ChildProcessors;
pub use self::positions::CheckpointRange;
pub use self::restarts::RestartPolicy;
pub use self::shared::{ChildFailure, ChildProcessorOptions};
