//! Retires connections that carry no more bytes.
//!
//! A pool keeps a connection until it breaks. A connection whose packets a firewall or a load balancer drops never breaks, and
//! over HTTP/2 all calls of a process share one. So each time-out retires the connection that it happened on: calls under way
//! stay on it, the next call opens another one. The SDK does not, since a timed-out attempt skips its own check.

use aws_sdk_kinesis::config::ConfigBag;
use aws_sdk_kinesis::config::interceptors::FinalizerInterceptorContextRef;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use aws_smithy_runtime_api::client::result::ConnectorError;

/// Excludes a connection from further calls. Does nothing if the call had no connection yet, or its HTTP client does not report
/// it.
pub(crate) fn retire(connection: &CaptureSmithyConnection) {
    if let Some(connection) = connection.get() {
        tracing::debug!(?connection, "a call timed out, its connection is not used again");
        connection.poison();
    }
}

/// The connection of the current attempt, as the SDK captures it.
pub(crate) fn of_attempt(config: &ConfigBag) -> Option<CaptureSmithyConnection> {
    config.load::<CaptureSmithyConnection>().cloned()
}

/// Retires the connection of an attempt that ended by a time-out. For the hook `read_after_attempt`.
pub(crate) fn retire_if_silent(context: &FinalizerInterceptorContextRef<'_>, config: &ConfigBag) {
    if let Some(Err(error)) = context.output_or_error()
        && shows_silence(error)
        && let Some(connection) = of_attempt(config)
    {
        retire(&connection);
    }
}

fn shows_silence<E: std::fmt::Debug>(error: &OrchestratorError<E>) -> bool {
    error.is_timeout_error() || error.as_connector_error().is_some_and(ConnectorError::is_timeout)
}
