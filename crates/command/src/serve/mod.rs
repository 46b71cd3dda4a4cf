//! `kinesis-streaming serve`: watches an application in the background, for browsers, scrapers, probes and scalers. Reads only.

mod changes;
mod metrics;
mod pace;
mod published;
mod routes;
mod timeline;
mod watcher;

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use self::published::Published;
use self::watcher::WatchSettings;
use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, CommandErrorKind, output_error, usage};
use crate::load::ScaleGoal;
use crate::look::Observer;
use crate::terminal::print;
use crate::time_argument::parse_duration;

/// The shortest wait between two looks.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The longest wait between two looks. A verdict needs several of them.
const MAX_INTERVAL: Duration = Duration::from_secs(120);

/// How long open connections may take to end after the signal to stop.
const MAX_STOP_TIME: Duration = Duration::from_secs(5);

/// The arguments of `kinesis-streaming serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// The address to listen at; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    listen: SocketAddr,

    /// The wait between two looks; it becomes longer where a scan costs more than one read unit a second for 100 leases
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    interval: Duration,

    /// Does not read one record of each shard and minute, so that no lag is known
    #[arg(long)]
    no_probes: bool,

    #[command(flatten)]
    goal: ScaleGoal,
}

/// Runs until it is told to stop.
pub(crate) async fn run(arguments: ServeArguments) -> Result<(), CommandError> {
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&arguments.interval) {
        return Err(usage(format!(
            "--interval {:?} must be {MIN_INTERVAL:?} to {MAX_INTERVAL:?}",
            arguments.interval
        )));
    }
    let observer = Observer::open(&arguments.application).await?;
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        let message = format!("the address {} cannot be used: {error}; set --listen", arguments.listen);
        CommandError::new(CommandErrorKind::Unavailable, message).with_source(error)
    })?;
    let address = listener.local_addr().map_err(output_error)?;
    let settings = WatchSettings {
        application: arguments.application.application.clone(),
        interval: arguments.interval,
        probes: !arguments.no_probes,
        goal: arguments.goal,
    };
    let (publish, published) = watch::channel(Arc::new(Published::default()));
    let watching = tokio::spawn(watcher::watch(observer, settings, publish));
    print(format!("watching {}: http://{address}/\n", arguments.application.application).as_bytes())?;
    let (stopping, mut stopped) = watch::channel(false);
    let stop = async move {
        if kinesis_streaming::shutdown_signal().await.is_err() {
            // No handler: the signals end the process by themselves.
            std::future::pending::<()>().await;
        }
        // Ends the event streams, which would keep the server open.
        watching.abort();
        stopping.send_replace(true);
    };
    let serving = axum::serve(listener, routes::router(published)).with_graceful_shutdown(stop);
    let too_long = async {
        // An error means that the server has stopped already.
        let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
        sleep(MAX_STOP_TIME).await;
    };
    let served = tokio::select! {
        served = serving.into_future() => served,
        () = too_long => Ok(()),
    };
    served.map_err(|error| {
        CommandError::new(CommandErrorKind::Unavailable, format!("the server ended: {error}"))
            .with_source(error)
    })
}
