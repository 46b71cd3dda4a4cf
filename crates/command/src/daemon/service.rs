//! Runs the consumer with its children until a signal, a failed child or an error ends it.

use std::sync::Arc;

use kinesis_streaming::kinesis_asl::{KinesisAsl, MetricsTask};
use kinesis_streaming::prelude::StopReport;
use kinesis_streaming::{
    Consumer, ConsumerError, ConsumerHandle, FleetMetrics, ShutdownSignal, shutdown_signal,
};
use multilang::child::{ChildLimits, ProcessLauncher, StreamOutput};
use multilang::conversation::SessionLimits;
use multilang::processor::{ChildFailure, ChildProcessorOptions, ChildProcessors, RestartPolicy};
use multilang::properties::{ChildFailurePolicy, DaemonSettings};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

use super::OUTPUT_TIME;
use super::exit_status::{Ending, Stop};
use super::metrics::MetricsChoice;
use super::signals::second_signal;

/// How many final failures wait to be read. The first one ends the daemon.
const MAX_WAITING_FAILURES: usize = 1;

type Running = JoinHandle<Result<StopReport, ConsumerError>>;

/// Runs the consumer until something ends it.
pub(super) async fn run(settings: &DaemonSettings, aws: &KinesisAsl) -> Ending {
    let (failed, mut failures) = mpsc::channel(MAX_WAITING_FAILURES);
    let output = match StreamOutput::start(settings.child_stdout) {
        Ok(output) => Arc::new(output),
        Err(error) => {
            return Ending::Failed(format!("cannot start a thread for the output of children: {error}"));
        }
    };
    let processors = processors(settings, output.clone(), move |failure| {
        if failure.is_final {
            // A failure before this one ends the daemon already.
            let _ = failed.try_send(failure.error.to_string());
        }
    });
    let consumer = match consumer(settings, aws, processors) {
        Ok(consumer) => consumer,
        Err(error) => return Ending::Failed(error),
    };
    let handle = consumer.handle();
    let metrics = match publisher(settings, aws, &handle) {
        Ok(metrics) => metrics,
        Err(error) => return Ending::Failed(error),
    };
    let mut running = tokio::spawn(consumer.run());
    let mut cause = tokio::select! {
        biased;
        ended = &mut running => return Ending::Failed(ended_by_itself(ended)),
        // `None`: the consumer dropped its processors, and so is about to end.
        Some(failure) = failures.recv() => Ending::ChildFailed(failure, Stop::InOrder),
        signal = shutdown_signal() => match signal {
            Ok(signal) => Ending::Signalled(signal, Stop::InOrder),
            Err(error) => return Ending::Failed(format!("cannot wait for signals: {error}")),
        },
    };
    match &cause {
        Ending::Signalled(signal, _) => {
            tracing::info!(%signal, grace = ?settings.shutdown_grace, "asking the children to shut down");
        }
        _ => {
            tracing::info!(grace = ?settings.shutdown_grace, "a child failed, asking the other children to shut down");
        }
    }
    handle.stop();
    let first = match &cause {
        Ending::Signalled(signal, _) => Some(*signal),
        _ => None,
    };
    let stop = stop(settings, &mut running, first).await;
    if let Ending::Signalled(_, of_cause) | Ending::ChildFailed(_, of_cause) = &mut cause {
        *of_cause = stop;
    }
    if let Some(metrics) = metrics.filter(|_| matches!(stop, Stop::InOrder | Stop::Incomplete)) {
        metrics.stop().await;
    }
    // Write the last output of the children, unless its reader makes no progress.
    let _ = timeout(OUTPUT_TIME, output.flush()).await;
    cause
}

fn processors(
    settings: &DaemonSettings,
    output: Arc<StreamOutput>,
    on_failure: impl Fn(ChildFailure) + Send + Sync + 'static,
) -> ChildProcessors {
    let launcher = Arc::new(ProcessLauncher::new(settings.command.clone(), output.clone()));
    let mut limits = ChildLimits::default();
    limits.session = SessionLimits::new(settings.answer_time);
    limits.exit_time = settings.child_exit_time;
    let restarts = match settings.child_failure {
        ChildFailurePolicy::Restart { limit } => RestartPolicy::new(limit),
        _ => RestartPolicy::NEVER,
    };
    let options = ChildProcessorOptions::new(limits, restarts, fresh_seed());
    ChildProcessors::new(launcher, output, options, on_failure)
}

/// Each process draws its own waits.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    fastrand::Rng::new().u64(..)
}

fn consumer(
    settings: &DaemonSettings,
    aws: &KinesisAsl,
    processors: ChildProcessors,
) -> Result<Consumer, String> {
    let leases = aws.lease_store(&settings.application).map_err(|error| error.to_string())?;
    Consumer::builder()
        .settings(settings.receiver_settings())
        .source(aws.stream())
        .lease_store(leases)
        .processors(processors)
        .build()
        .map_err(|error| error.to_string())
}

/// The namespace of the metrics is the name of the application, also when the table has another name.
fn publisher(
    settings: &DaemonSettings,
    aws: &KinesisAsl,
    handle: &ConsumerHandle,
) -> Result<Option<MetricsTask>, String> {
    let Some(choice) = MetricsChoice::of(settings) else { return Ok(None) };
    let publisher = aws.cloudwatch(&settings.application).map_err(|error| error.to_string())?;
    let mut metrics = FleetMetrics::new(handle.clone());
    let task = publisher.publish_every(settings.metrics_interval, move || choice.apply(metrics.sample()));
    Ok(Some(task))
}

/// Waits for the end of a stop: until the stated time is over, or a second signal arrives.
async fn stop(settings: &DaemonSettings, running: &mut Running, first: Option<ShutdownSignal>) -> Stop {
    tokio::select! {
        biased;
        ended = running => match ended {
            Ok(Ok(report)) => {
                let is_cut_off = report.shards.iter().any(|(_, outcome)| outcome.is_none());
                match (is_cut_off, report.unwritten.is_empty()) {
                    (true, _) => Stop::Late,
                    (false, true) => Stop::InOrder,
                    (false, false) => Stop::Incomplete,
                }
            }
            ended => {
                tracing::error!(error = ended_by_itself(ended), "the consumer failed while it stopped");
                Stop::Incomplete
            }
        },
        () = sleep(settings.shutdown_grace) => Stop::Late,
        second = second_signal(first) => Stop::Interrupted(second),
    }
}

fn ended_by_itself(ended: Result<Result<StopReport, ConsumerError>, JoinError>) -> String {
    match ended {
        Ok(Ok(_)) => "the consumer ended although nothing asked it to".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => format!("the consumer ended: {error}"),
    }
}
