//! Enhanced fan-out: the real readers of `kinesis-asl`, and an AWS client whose connection ends in the model.
//!
//! Requests and answers are what goes over the wire, and the client is that of the SDK; only the connection is ours. It has no
//! socket and no clock but the virtual one, so the same seed gives the same trace here too.
//!
//! | file | what |
//! | --- | --- |
//! | `service.rs` | the registered consumer, and who has a subscription |
//! | `connection.rs` | the way of one process to it: what becomes of each request |
//! | `answers.rs` | what each operation answers |
//! | `session.rs` | the events of one subscription, and what goes wrong with them |
//! | `wire.rs` | how all that is written: JSON and the frames of an event stream |
//! | `reader.rs` | the reader of `kinesis-asl`, watched |

mod answers;
mod connection;
mod reader;
mod service;
mod session;
mod wire;

pub use service::Service;

/// Whether the scenario `fan-out` can be run.
pub const IS_AVAILABLE: bool = true;
