//! Enhanced fan-out: the real readers of `kinesis-asl` with an AWS client whose connection ends in the model.
//!
//! The SDK's own client sends real requests and parses real answers; only the connection is simulated. It uses no
//! socket and no clock but the virtual one, so the same seed gives the same trace.
//!
//! | file | what |
//! | --- | --- |
//! | `service.rs` | the registered consumer and the subscriptions of each shard |
//! | `connection.rs` | the HTTP connection of one process, with its faults |
//! | `answers.rs` | the answer to each operation |
//! | `session.rs` | the events of one subscription, with their faults |
//! | `wire.rs` | the JSON of answers and the frames of an event stream |
//! | `reader.rs` | the reader of `kinesis-asl`, with its reads recorded |

mod answers;
mod connection;
mod reader;
mod service;
mod session;
mod wire;

pub use service::Service;
