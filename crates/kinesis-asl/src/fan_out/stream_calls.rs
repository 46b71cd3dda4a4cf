//! What an application may ask of a stream that is read by fan-out.

use std::sync::Arc;

use shard_worker::SourceError;

use super::{FanOut, FanOutStatus, RetrievalMode, StreamConsumer};
use crate::stream::KinesisStream;

impl KinesisStream {
    /// The same stream, read in this way. Clones made afterwards share the consumer.
    ///
    /// The mode is taken as it is; [`RetrievalMode::faults`] says what is wrong with it, and
    /// [`KinesisAsl::connect`](crate::KinesisAsl::connect) refuses one with faults.
    #[must_use]
    pub fn with_retrieval(mut self, mode: RetrievalMode) -> Self {
        self.fan_out = match mode {
            RetrievalMode::Polling => None,
            RetrievalMode::FanOut(settings) => Some(Arc::new(FanOut::new(settings, self.fork_rng()))),
        };
        self
    }

    /// How the stream is read.
    pub fn retrieval(&self) -> RetrievalMode {
        match &self.fan_out {
            None => RetrievalMode::Polling,
            Some(fan_out) => RetrievalMode::FanOut(fan_out.settings.clone()),
        }
    }

    /// Makes sure that there is a consumer to subscribe as, and waits until it is active: 60 s at the most. `None`: the
    /// stream is polled.
    ///
    /// Nobody has to call this, since the first shard that is read does the same; it is for a program that wants to say
    /// at its start what it runs as, or to fail early.
    ///
    /// # Errors
    /// `Invalid` when the consumer of a given ARN does not exist; `Unavailable` when it does not become active in time, or
    /// the stream has all the consumers it may have; those of the calls.
    pub async fn ensure_consumer(&self) -> Result<Option<StreamConsumer>, SourceError> {
        match &self.fan_out {
            None => Ok(None),
            Some(fan_out) => Ok(Some(fan_out.registration.ensure(self).await?)),
        }
    }

    /// To be called when the last receiver of this process has ended. Deregisters the consumer if
    /// [`deregister_at_end`](crate::FanOutSettings::deregister_at_end) is set and it was registered through this value or a
    /// clone of it, and says whether it did. Other processes that still use it are interrupted, and register it again.
    ///
    /// # Errors
    /// Those of the call; the consumer may then still be there.
    pub async fn end_retrieval(&self) -> Result<bool, SourceError> {
        match &self.fan_out {
            Some(fan_out) if fan_out.settings.deregister_at_end => {
                fan_out.registration.deregister(self).await
            }
            _ => Ok(false),
        }
    }

    /// How the subscriptions of this process are going; `None`: the stream is polled.
    pub fn fan_out_status(&self) -> Option<FanOutStatus> {
        let fan_out = self.fan_out.as_ref()?;
        Some(fan_out.counters.status(fan_out.registration.consumer().map(|consumer| consumer.arn)))
    }
}
