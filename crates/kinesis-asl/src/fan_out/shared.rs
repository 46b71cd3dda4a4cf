//! The part of enhanced fan-out that all shards of a stream share: settings, consumer, counters and TLS state.

use fastrand::Rng;

use super::connections::Connections;
use super::registration::Registration;
use super::settings::FanOutSettings;
use super::status::{Counters, FanOutStatus};

/// What the shards of one stream that is read by fan-out share.
#[derive(Debug)]
pub(crate) struct FanOut {
    settings: FanOutSettings,
    registration: Registration,
    counters: Counters,
    connections: Connections,
}

impl FanOut {
    pub(crate) fn new(settings: FanOutSettings, rng: Rng) -> Self {
        let registration = Registration::new(settings.consumer.clone(), settings.consumer_tags.clone(), rng);
        let (counters, connections) = (Counters::default(), Connections::default());
        Self { settings, registration, counters, connections }
    }

    pub(crate) fn settings(&self) -> &FanOutSettings {
        &self.settings
    }

    pub(crate) fn registration(&self) -> &Registration {
        &self.registration
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    pub(crate) fn status(&self) -> FanOutStatus {
        self.counters.status(self.registration.consumer().map(|consumer| consumer.arn))
    }
}
