//! Enhanced fan-out: the service pushes the records of a shard over a subscription of our own.
//!
//! | file | what |
//! | --- | --- |
//! | `settings.rs` | polling or fan-out, and as which consumer |
//! | `consumer.rs` | what a registered consumer is, and what follows from its state: pure |
//! | `registration.rs` | finds, registers, awaits, lists and removes consumers |
//! | `policy.rs` | when to subscribe, renew, back off, poll and come back: pure |
//! | `place.rs`, `event.rs` | where a subscription starts, and what an event says: pure |
//! | `failure.rs` | the one place where an error of a subscription gets its meaning |
//! | `subscription.rs`, `gate.rs` | one session of `SubscribeToShard`, and how an event waits until there is memory for it |
//! | `source.rs` | a shard read over many sessions |
//! | `status.rs`, `stream_calls.rs` | what others see and may ask for |

mod consumer;
mod event;
mod failure;
mod gate;
mod place;
mod policy;
mod registration;
mod settings;
mod source;
mod status;
mod stream_calls;
mod subscription;

pub use consumer::{ConsumerStatus, StreamConsumer};
pub use settings::{ConsumerChoice, FanOutSettings, RetrievalMode};
pub use status::FanOutStatus;

pub(crate) use source::FanOutSource;

use registration::Registration;
use status::Counters;

/// What all shards of a stream that is read by fan-out share.
#[derive(Debug)]
pub(crate) struct FanOut {
    settings: FanOutSettings,
    registration: Registration,
    counters: Counters,
}

impl FanOut {
    pub(crate) fn new(settings: FanOutSettings, rng: fastrand::Rng) -> Self {
        let registration = Registration::new(settings.consumer.clone(), rng);
        Self { settings, registration, counters: Counters::default() }
    }
}
