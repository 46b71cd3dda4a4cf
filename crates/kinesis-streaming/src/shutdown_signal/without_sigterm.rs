//! Systems without SIGTERM: Ctrl-C alone.

use std::io;

use super::ShutdownSignal;

/// Installed when it is first waited for.
pub(super) struct Handlers;

impl Handlers {
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn received(self) -> io::Result<ShutdownSignal> {
        tokio::signal::ctrl_c().await.map(|()| ShutdownSignal::Interrupt)
    }
}
