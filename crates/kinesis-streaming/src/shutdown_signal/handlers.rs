//! The handlers of SIGTERM and SIGINT on Unix.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ShutdownSignal;

/// The installed handlers.
pub(super) struct Handlers {
    terminate: Signal,
    interrupt: Signal,
}

impl Handlers {
    pub(super) fn install() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt })
    }

    pub(super) async fn received(mut self) -> io::Result<ShutdownSignal> {
        tokio::select! {
            _ = self.terminate.recv() => Ok(ShutdownSignal::Terminate),
            _ = self.interrupt.recv() => Ok(ShutdownSignal::Interrupt),
        }
    }
}
