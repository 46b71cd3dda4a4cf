//! Waits for the signal that asks a process to stop: SIGTERM or Ctrl-C.

use std::fmt;
use std::io;

use tokio::task::JoinHandle;

#[cfg(unix)]
mod handlers;
#[cfg(not(unix))]
#[path = "shutdown_signal/without_sigterm.rs"]
mod handlers;

use self::handlers::Handlers;

/// The signal that asked the process to stop.
///
/// ```
/// use kinesis_streaming::prelude::*;
///
/// assert_eq!(ShutdownSignal::Terminate.to_string(), "SIGTERM");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShutdownSignal {
    /// SIGTERM: Kubernetes, ECS, systemd and `docker stop` send it, and kill the process after a grace period.
    Terminate,
    /// Ctrl-C (SIGINT).
    Interrupt,
}

impl fmt::Display for ShutdownSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "Ctrl-C",
        })
    }
}

/// Completes at the first SIGTERM or Ctrl-C after its first poll. From then on these signals no longer end the process by
/// themselves, and further ones have no effect.
///
/// ```no_run
/// # async fn example(consumer: kinesis_streaming::Consumer) -> Result<(), kinesis_streaming::prelude::BoxError> {
/// let handle = consumer.handle();
/// let running = tokio::spawn(consumer.run());
/// println!("{}: stopping", kinesis_streaming::shutdown_signal().await?);
/// handle.stop_and_wait().await;
/// # drop(running);
/// # Ok(()) }
/// ```
///
/// # Errors
/// That of the operating system, when no handler can be installed.
pub async fn shutdown_signal() -> io::Result<ShutdownSignal> {
    Handlers::install()?.received().await
}

/// Installs the handlers, and spawns a task that calls `stop` at the first SIGTERM or Ctrl-C and logs the signal. Must be called
/// inside a tokio runtime.
///
/// ```no_run
/// # async fn example(consumer: kinesis_streaming::Consumer) -> Result<(), kinesis_streaming::prelude::BoxError> {
/// let handle = consumer.handle();
/// kinesis_streaming::stop_on_signal(move || handle.stop());
/// let report = consumer.run().await?;
/// # drop(report);
/// # Ok(()) }
/// ```
///
/// A stop of a consumer takes up to its `drain_time` and 7 s; see
/// [`ConsumerSettings`](crate::ConsumerSettings). If no handler can be installed, that is logged as an error, and the signals
/// end the process as before.
pub fn stop_on_signal(stop: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    // A signal after this call is not lost, also before the task is polled.
    let handlers = Handlers::install();
    tokio::spawn(async move {
        let received = match handlers {
            Ok(handlers) => handlers.received().await,
            Err(error) => Err(error),
        };
        match received {
            Ok(signal) => {
                tracing::info!(%signal, "stopping");
                stop();
            }
            Err(error) => {
                tracing::error!(%error, "cannot wait for SIGTERM and Ctrl-C, they end the process without a graceful stop");
            }
        }
    })
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// Sends a signal to this process.
    async fn send(signal: &'static str) {
        let pid = std::process::id().to_string();
        let status = tokio::task::spawn_blocking(move || {
            std::process::Command::new("kill").args([signal, &pid]).status()
        });
        assert!(status.await.unwrap().unwrap().success());
    }

    #[tokio::test]
    async fn sigterm_and_ctrl_c_stop_a_consumer() {
        // Keeps the process alive while a task of the loop ends.
        let _kept = Handlers::install().unwrap();
        for (name, expected) in [("-TERM", ShutdownSignal::Terminate), ("-INT", ShutdownSignal::Interrupt)] {
            let waiting = Handlers::install().unwrap().received();
            let (stopped, was_stopped) = tokio::sync::oneshot::channel();
            let task = stop_on_signal(move || stopped.send(()).unwrap());
            send(name).await;
            assert_eq!(waiting.await.unwrap(), expected);
            was_stopped.await.unwrap();
            task.await.unwrap();
        }
    }
}
