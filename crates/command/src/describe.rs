//! `kinesis-streaming describe`: workers, shards, lag and verdicts, once or again and again.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fleet_view::{FleetView, History, LookRefusal};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, CommandErrorKind};
use crate::look::gap::Gap;
use crate::look::recording::Recording;
use crate::look::{LookOptions, Looked, Observer};
use crate::terminal::{Terminal, print_json, wrapped};
use crate::time_argument::parse_duration;

/// The shortest wait between two looks. Shorter ones would cost read units and show nothing new.
const MIN_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The arguments of `kinesis-streaming describe`.
#[derive(Debug, Args)]
pub(crate) struct DescribeArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// Looks again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,

    /// Looks for this long, such as 30s, and shows the last look; verdicts need several looks
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "watch")]
    over: Option<Duration>,

    /// The wait between two looks
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    interval: Duration,

    /// How long each look may measure the lag of shards by reading one record of each; 0s: not at all
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "400ms")]
    probe_time: Duration,

    /// Ends with exit code 1 if the verdict is an alarm
    #[arg(long)]
    fail_on_alarm: bool,

    /// Prints one line of JSON for each look
    #[arg(long)]
    json: bool,

    /// Appends each look to this file, as one line of JSON: with the looks, a verdict can be examined later and elsewhere
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// The JSON of a look.
#[derive(Debug, Serialize)]
struct Description<'a> {
    #[serde(flatten)]
    view: &'a FleetView,
    /// What could not be read.
    gaps: &'a [Gap],
}

/// Runs the command.
pub(crate) async fn run(arguments: DescribeArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let options = LookOptions::for_display(arguments.probe_time);
    let interval = arguments.interval.max(MIN_LOOK_INTERVAL);
    let started_at = Instant::now();
    let mut history = History::new();
    let mut recording = match &arguments.record {
        Some(path) => Some(Recording::append_to(path).await?),
        None => None,
    };
    loop {
        let looked_at = Instant::now();
        let looked = observer.look(options).await?;
        if let Some(recording) = &mut recording {
            recording.add(&looked.look).await?;
        }
        add(&mut history, &looked)?;
        let next = looked_at + interval;
        let is_last = !arguments.watch && arguments.over.is_none_or(|over| next > started_at + over);
        if arguments.watch || is_last {
            let view = FleetView::of(&history);
            let view =
                view.ok_or_else(|| CommandError::new(CommandErrorKind::Invalid, "there is no look"))?;
            show(&view, &looked.gaps, &arguments)?;
            if is_last {
                return judged(&view, arguments.fail_on_alarm);
            }
        }
        tokio::select! {
            () = sleep_until(next) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Adds a look. One at another stream begins a new history: the stream was deleted and created again.
pub(crate) fn add(history: &mut History, looked: &Looked) -> Result<(), CommandError> {
    match history.add(&looked.look) {
        // The wall clock was set back; the next look is newer.
        Ok(()) | Err(LookRefusal::NotNewer) => Ok(()),
        Err(LookRefusal::OfAnother) => {
            *history = History::new();
            history.add(&looked.look).map_err(too_large)
        }
        Err(refusal) => Err(too_large(refusal)),
    }
}

fn too_large(refusal: LookRefusal) -> CommandError {
    CommandError::new(CommandErrorKind::Invalid, refusal.to_string()).with_source(refusal)
}

fn show(view: &FleetView, gaps: &[Gap], arguments: &DescribeArguments) -> Result<(), CommandError> {
    if arguments.json {
        return print_json(&Description { view, gaps });
    }
    let terminal = Terminal::of_process();
    let mut lines = view.lines(terminal.width());
    if !gaps.is_empty() {
        lines.push(String::new());
        lines.extend(gaps.iter().flat_map(|gap| wrapped(&format!("- {gap}"), terminal.width())));
    }
    terminal.show(&lines, arguments.watch)
}

fn judged(view: &FleetView, fail_on_alarm: bool) -> Result<(), CommandError> {
    let has_error = view.verdict.signs.iter().any(fleet_view::Sign::is_error);
    if fail_on_alarm && (view.verdict.verdict.is_alarm() || has_error) {
        return Err(CommandError::new(CommandErrorKind::BadAnswer, ""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fleet_view::{Look, StreamSummary};
    use lease_store::StreamIdentity;

    use super::*;

    /// seglo/kafka-lag-exporter #197: after a topic was created again, its old numbers are shown.
    #[test]
    fn a_stream_created_again_begins_a_new_history() {
        let looked = |at, creation_epoch_seconds| {
            let arn = "arn:aws:kinesis:eu-west-1:111122223333:stream/words".to_owned();
            let stream = StreamSummary {
                name: "words".to_owned(),
                identity: StreamIdentity { arn, creation_epoch_seconds },
                status: "ACTIVE".to_owned(),
                retention_millis: 86_400_000,
            };
            let look = Look {
                taken_at_millis: at,
                application: "words".to_owned(),
                stream: Some(stream),
                ..Look::default()
            };
            Looked { look, gaps: Vec::new(), read_units: 0.0, rows: 0, probed: 0 }
        };
        let mut history = History::new();
        add(&mut history, &looked(1_000, 7)).unwrap();
        add(&mut history, &looked(2_000, 7)).unwrap();
        assert_eq!(history.looks(), 2);
        add(&mut history, &looked(3_000, 8)).unwrap();
        assert_eq!(history.looks(), 1);
        // The clock of this machine was set back.
        add(&mut history, &looked(2_500, 8)).unwrap();
        assert_eq!(history.looks(), 1);
    }
}
