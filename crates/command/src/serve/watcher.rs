//! The background task of the server: looks again and again, and publishes what it saw.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use fleet_view::{FleetView, History};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::metrics::{Counts, exposition};
use super::pace::next_interval;
use super::published::{Published, page_state};
use super::timeline::Timeline;
use crate::describe::add;
use crate::exit_code::{CommandError, CommandErrorKind};
use crate::load::{Load, ScaleGoal};
use crate::look::{LookOptions, Observer};

/// How long one look may probe shards.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// The longest wait after failed looks.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The settings of the watcher.
#[derive(Debug, Clone)]
pub(crate) struct WatchSettings {
    pub(crate) application: String,
    /// The wait between two looks, if the budget of read units allows it.
    pub(crate) interval: Duration,
    /// Whether shards are probed for their lag.
    pub(crate) probes: bool,
    pub(crate) goal: ScaleGoal,
}

/// Looks until the task is dropped.
pub(crate) async fn watch(
    mut observer: Observer,
    settings: WatchSettings,
    publish: watch::Sender<Arc<Published>>,
) {
    let mut watcher = Watcher::new(settings);
    let probe_time = if watcher.settings.probes { PROBE_TIME } else { Duration::ZERO };
    let options = LookOptions::for_display(probe_time);
    loop {
        let started_at = Instant::now();
        let looked = match observer.look(options).await {
            Ok(looked) => {
                watcher.counts.rows = looked.rows;
                watcher.counts.gaps = looked.gaps.len();
                watcher.counts.read_units += looked.read_units;
                watcher.counts.probes += looked.probed as u64;
                let elapsed = started_at.elapsed().as_millis();
                watcher.counts.look_millis = u64::try_from(elapsed).unwrap_or(u64::MAX);
                add(&mut watcher.history, &looked).map(|()| looked)
            }
            Err(error) => Err(error),
        };
        watcher.counts.looks += 1;
        let wait = match looked {
            Ok(looked) => {
                watcher.failures_in_row = 0;
                let published = watcher.seen(&looked.gaps);
                publish.send_replace(Arc::new(published.unwrap_or_else(|error| watcher.failed(&error))));
                next_interval(watcher.settings.interval, looked.rows, looked.read_units)
            }
            Err(error) => {
                watcher.counts.failed_looks += 1;
                watcher.failures_in_row = watcher.failures_in_row.saturating_add(1);
                eprintln!("kinesis-streaming: the look failed: {error}");
                let published = watcher.failed(&error);
                publish.send_replace(Arc::new(published));
                watcher.settings.interval * (1 << watcher.failures_in_row.min(4))
            }
        };
        let wait = if watcher.failures_in_row > 0 { wait.min(MAX_RETRY_INTERVAL) } else { wait };
        sleep(wait.saturating_sub(started_at.elapsed())).await;
    }
}

#[derive(Debug)]
struct Watcher {
    settings: WatchSettings,
    history: History,
    timeline: Timeline,
    counts: Counts,
    failures_in_row: u32,
    newest: Published,
}

impl Watcher {
    fn new(settings: WatchSettings) -> Self {
        Self {
            settings,
            history: History::new(),
            timeline: Timeline::default(),
            counts: Counts::default(),
            failures_in_row: 0,
            newest: Published::default(),
        }
    }

    /// Publishes a look.
    fn seen(&mut self, gaps: &[crate::look::gap::Gap]) -> Result<Published, CommandError> {
        let invalid = |error: serde_json::Error| {
            CommandError::new(CommandErrorKind::Invalid, format!("the look has no form in JSON: {error}"))
        };
        let view = FleetView::of(&self.history);
        let view = view.ok_or_else(|| CommandError::new(CommandErrorKind::Invalid, "there is no look"))?;
        self.timeline.add(&view);
        let load = Load::of(&view, &self.settings.goal);
        let metrics = exposition(&self.settings.application, Some(&view), Some(&load), &self.counts);
        self.newest = Published {
            looks: self.counts.looks,
            metrics: Bytes::from(metrics),
            state: page_state(&view, &load, gaps).map_err(invalid)?,
            past: serde_json::to_vec(&self.timeline).map(Bytes::from).map_err(invalid)?,
            load: serde_json::to_vec(&load).map(Bytes::from).map_err(invalid)?,
            fault: None,
            attempted_at: Some(Instant::now()),
        };
        Ok(self.newest.clone())
    }

    /// Publishes a failure: the page keeps the last look, the metrics keep the counts alone, so that no scraper takes an old lag
    /// for a new one.
    fn failed(&mut self, error: &CommandError) -> Published {
        self.newest.looks = self.counts.looks;
        self.newest.fault = Some(error.to_string());
        self.newest.attempted_at = Some(Instant::now());
        self.newest.load = Bytes::new();
        self.newest.metrics = Bytes::from(exposition(&self.settings.application, None, None, &self.counts));
        self.newest.clone()
    }
}
