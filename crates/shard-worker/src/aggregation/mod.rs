//! Many records in one: the aggregation format of the Kinesis Producer Library (KPL).
//!
//! ```text
//! F3 89 9A C2 │ protobuf message │ MD5 digest of the message, 16 bytes
//!
//! message:    1 = partition key (text), repeated: a table
//!             2 = explicit hash key (decimal text), repeated: a table
//!             3 = record, repeated:  1 = index of its partition key, 2 = index of its explicit hash key (optional),
//!                                    3 = payload, 4 = tags (ignored)
//! ```
//!
//! | what | where |
//! | --- | --- |
//! | the protobuf encoding, as far as the format needs it | `wire` |
//! | an aggregate: found, verified, walked through | `aggregate` |
//! | a record in, its sub-records out | [`deaggregate`] |
//! | which sub-records are another shard's business | `hash_filter` |
//! | records in, an aggregate out | [`Aggregator`] |

mod aggregate;
mod aggregator;
mod deaggregate;
mod hash_filter;
mod wire;

pub(crate) use aggregate::has_magic;
pub use aggregator::{AggregatedRecord, Aggregator};
pub use deaggregate::{Deaggregated, MIN_SUB_RECORD_BYTES, deaggregate};
pub use hash_filter::hash_key_of;
