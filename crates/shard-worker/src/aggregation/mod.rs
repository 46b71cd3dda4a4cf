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
//! | file | content |
//! | --- | --- |
//! | [`wire`] | the part of the protobuf encoding that the format uses |
//! | [`aggregate`] | detects, verifies and iterates an aggregate |
//! | [`digests`] | MD5 of many messages, side by side |
//! | [`deaggregate`] | a record in, its sub-records out |
//! | [`filter_rule`] | where sub-records of another shard are filtered |
//! | [`hash_filter`] | which sub-records belong to another shard |
//! | [`aggregator`] | records in, an aggregate out |

pub(crate) mod aggregate;
pub(crate) mod aggregator;
pub(crate) mod deaggregate;
mod digests;
pub(crate) mod filter_rule;
pub(crate) mod hash_filter;
mod wire;
