//! From a record source to batches, in this order.
//!
//! | file | content |
//! | --- | --- |
//! | `prefetch` | reserves memory and reads, at most one batch ahead |
//! | `read_guard` | checks each answer, by `data_loss`, `retention` and `run_until`, which are pure |
//! | `unpack` | de-aggregates, and drops records that were read before |
//! | `batching` | closes batches; pure |
//! | `rate_limit` | when a batch may be delivered; pure |

pub(crate) mod batching;
pub(crate) mod data_loss;
pub(crate) mod prefetch;
pub(crate) mod rate_limit;
pub(crate) mod read_guard;
pub(crate) mod retention;
pub(crate) mod run_until;
pub(crate) mod stream_clock;
pub(crate) mod stream_retention;
pub(crate) mod unpack;
