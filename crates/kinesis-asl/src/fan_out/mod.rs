//! Enhanced fan-out: the service pushes the records of a shard over a subscription.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `settings.rs` | polling or fan-out, and the choice of the consumer |
//! | `consumer.rs` | a registered consumer, and the next step for its state: pure |
//! | `registration.rs` | finds, registers, awaits, lists and removes consumers |
//! | `policy.rs` | when to subscribe, renew, back off, poll and return to fan-out: pure |
//! | `starting_position.rs`, `event.rs` | the start of a subscription, and the contents of an event: pure |
//! | `failure.rs` | classifies the errors of a subscription |
//! | `connections.rs` | one TLS state for all subscriptions of a stream, and a connection for each |
//! | `subscription.rs`, `backpressure.rs` | one session of `SubscribeToShard`; an event stays on the connection until memory is reserved |
//! | `framing.rs` | the size of the event that is arriving: pure |
//! | `messages.rs` | takes the events out of the stream that the SDK reads, and decodes them: pure |
//! | `source.rs` | reads a shard over many sessions |
//! | `shared.rs`, `status.rs` | shared by all shards of a stream: settings, consumer and counters |

mod backpressure;
pub(crate) mod connections;
pub(crate) mod consumer;
mod event;
mod failure;
mod framing;
mod messages;
mod policy;
mod registration;
pub(crate) mod settings;
pub(crate) mod shared;
pub(crate) mod source;
mod starting_position;
pub(crate) mod status;
mod subscription;
