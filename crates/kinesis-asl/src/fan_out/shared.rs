//! The part of enhanced fan-out that all shards of a stream share: settings, consumer and counters.

use fastrand::Rng;

use super::registration::Registration;
use super::settings::FanOutSettings;
use super::status::{Counters, FanOutStatus};

/// Settings, consumer and counters of one stream that is read by fan-out.
#[derive(Debug)]
pub(crate) struct FanOut {
    settings: FanOutSettings,
    registration: Registration,
    counters: Counters,
}

impl FanOut {
    pub(crate) fn new(settings: FanOutSettings, rng: Rng) -> Self {
        let registration = Registration::new(settings.consumer.clone(), settings.consumer_tags.clone(), rng);
        Self { settings, registration, counters: Counters::default() }
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

    pub(crate) fn status(&self) -> FanOutStatus {
        self.counters.status(self.registration.consumer().map(|consumer| consumer.arn))
    }
}
