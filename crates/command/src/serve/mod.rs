//! `kinesis-streaming serve`: watches an application in the background, for browsers, scrapers, probes and scalers. It reads only,
//! unless changes are allowed.

mod changes;
mod guard;
mod metrics;
mod orders;
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

use self::guard::{Guard, MIN_TOKEN_BYTES};
use self::orders::Orders;
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

    /// Lets the page pause, resume, release and reset; needs a --listen address of this machine alone, or a token
    #[arg(long)]
    allow_changes: bool,

    /// The token that each change needs, at least 16 characters; better given by the environment, where no list of programs shows it
    #[arg(long, env = "KINESIS_STREAMING_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,

    #[command(flatten)]
    goal: ScaleGoal,
}

impl ServeArguments {
    /// Who may change something.
    fn guard(&self) -> Result<Guard, CommandError> {
        match (&self.token, self.allow_changes) {
            (_, false) => Ok(Guard::Closed),
            (Some(token), true) if token.len() < MIN_TOKEN_BYTES || !token.is_ascii() => Err(usage(format!(
                "the token must have at least {MIN_TOKEN_BYTES} characters, all of them ASCII"
            ))),
            (Some(token), true) => Ok(Guard::Token(token.clone())),
            (None, true) if self.listen.ip().is_loopback() => Ok(Guard::Loopback),
            (None, true) => Err(usage(format!(
                "--allow-changes at {} would let everybody in the network change the application; listen at 127.0.0.1, or set a \
                 token in KINESIS_STREAMING_TOKEN",
                self.listen
            ))),
        }
    }
}

/// Runs until it is told to stop.
pub(crate) async fn run(arguments: ServeArguments) -> Result<(), CommandError> {
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&arguments.interval) {
        return Err(usage(format!(
            "--interval {:?} must be {MIN_INTERVAL:?} to {MAX_INTERVAL:?}",
            arguments.interval
        )));
    }
    let guard = arguments.guard()?;
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
    let orders = Orders::new(guard, arguments.application.clone());
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
    let serving = axum::serve(listener, routes::router(published, orders)).with_graceful_shutdown(stop);
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
