//! The metrics of a whole application, in the text format of Prometheus. Pure.
//!
//! [`METRICS`] is the one list: `docs/metrics.md` is checked against it, and so are the alert rules and the dashboard.

use std::fmt::Write as _;

use fleet_view::{FleetView, TimeToLoss, Verdict};

use crate::load::Load;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    Gauge,
    Counter,
}

impl MetricKind {
    fn text(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// A metric as it is documented.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: MetricKind,
    /// The unit. Counts have none.
    pub(crate) unit: &'static str,
    /// The labels besides `application`, which each metric has.
    pub(crate) labels: &'static [&'static str],
    pub(crate) meaning: &'static str,
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind: MetricKind::Gauge, unit, labels, meaning }
}

const fn counter(name: &'static str, unit: &'static str, meaning: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, unit, labels: &[], meaning }
}

/// All metrics of `serve`.
pub(crate) const METRICS: [Metric; 23] = [
    gauge(
        SHARD_LAG,
        "seconds",
        &["shard"],
        "Age of the first record after the stored position; absent when not known",
    ),
    gauge(MAX_LAG, "seconds", &[], "The greatest lag of a shard; absent when no lag is known"),
    gauge(
        SHARD_LOSS,
        "seconds",
        &["shard"],
        "Time until the first waiting record is lost at the present pace; absent when no loss is in sight",
    ),
    gauge(
        FIRST_LOSS,
        "seconds",
        &[],
        "Time until the first record of any shard is lost at the present pace; absent when no loss is in sight",
    ),
    gauge(SHARD_VERDICT, "", &["shard", "verdict"], "1 for the verdict about the shard"),
    gauge(SHARDS, "", &["verdict"], "Number of shards with this verdict"),
    gauge(VERDICT, "", &["verdict"], "1 for the verdict about the application, 0 for all others"),
    gauge(
        SHARD_STILL,
        "seconds",
        &["shard"],
        "How long records have been waiting without a move of the position; absent when none is known to wait",
    ),
    gauge(
        LEASE_SILENT,
        "seconds",
        &["shard"],
        "How long the lease has not been renewed; absent when the lease has no owner",
    ),
    gauge(WORKERS, "", &[], "Number of workers that own leases of unfinished shards"),
    gauge(WORKER_LEASES, "", &["worker"], "Number of unfinished shards whose leases the worker owns"),
    gauge(WANTED_WORKERS, "", &[], "Number of workers that the load wants"),
    gauge(WAITING_SHARDS, "", &[], "Number of shards in which records wait, or may wait"),
    gauge(FINDINGS, "", &["severity"], "Number of findings about the table; severity is error or warning"),
    gauge(
        GAPS,
        "",
        &[],
        "Number of parts of the last look that could not be read, as by a missing permission",
    ),
    gauge(
        RETENTION,
        "seconds",
        &[],
        "How long the stream keeps records; absent when the stream could not be described",
    ),
    gauge(LAST_LOOK, "seconds since 1970", &[], "When the table was last read"),
    gauge(LOOK_DURATION, "seconds", &[], "How long the last look took"),
    gauge(TABLE_ROWS, "", &[], "Number of rows in the table"),
    counter(LOOKS, "", "Number of looks"),
    counter(FAILED_LOOKS, "", "Number of looks that failed because the table could not be read"),
    counter(READ_UNITS, "read units", "Read units that the looks cost, as the table reported them"),
    counter(PROBES, "", "Number of shards whose lag was measured by reading one record"),
];

const SHARD_LAG: &str = "kinesis_fleet_shard_lag_seconds";
const MAX_LAG: &str = "kinesis_fleet_max_lag_seconds";
const SHARD_LOSS: &str = "kinesis_fleet_shard_loss_in_seconds";
const FIRST_LOSS: &str = "kinesis_fleet_first_loss_in_seconds";
const SHARD_VERDICT: &str = "kinesis_fleet_shard_verdict";
const SHARDS: &str = "kinesis_fleet_shards";
const VERDICT: &str = "kinesis_fleet_verdict";
const SHARD_STILL: &str = "kinesis_fleet_shard_still_seconds";
const LEASE_SILENT: &str = "kinesis_fleet_lease_silent_seconds";
const WORKERS: &str = "kinesis_fleet_workers";
const WORKER_LEASES: &str = "kinesis_fleet_worker_leases";
const WANTED_WORKERS: &str = "kinesis_fleet_wanted_workers";
const WAITING_SHARDS: &str = "kinesis_fleet_waiting_shards";
const FINDINGS: &str = "kinesis_fleet_findings";
const GAPS: &str = "kinesis_fleet_gaps";
const RETENTION: &str = "kinesis_fleet_retention_seconds";
const LAST_LOOK: &str = "kinesis_fleet_last_look_timestamp_seconds";
const LOOK_DURATION: &str = "kinesis_fleet_look_duration_seconds";
const TABLE_ROWS: &str = "kinesis_fleet_table_rows";
const LOOKS: &str = "kinesis_fleet_looks_total";
const FAILED_LOOKS: &str = "kinesis_fleet_failed_looks_total";
const READ_UNITS: &str = "kinesis_fleet_read_units_total";
const PROBES: &str = "kinesis_fleet_probes_total";

/// What the watcher counts itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) looks: u64,
    pub(crate) failed_looks: u64,
    pub(crate) read_units: f64,
    pub(crate) probes: u64,
    pub(crate) rows: usize,
    pub(crate) gaps: usize,
    pub(crate) look_millis: u64,
}

/// The text of all metrics. Without a view only the counts are known.
pub(crate) fn exposition(
    application: &str,
    view: Option<&FleetView>,
    load: Option<&Load>,
    counts: &Counts,
) -> String {
    let mut page = Page { application: escaped(application), text: String::new() };
    if let Some(view) = view {
        shards(&mut page, view);
        fleet(&mut page, view);
    }
    if let Some(load) = load {
        page.one(WORKERS, load.workers);
        page.one(WANTED_WORKERS, load.wanted_workers);
        page.one(WAITING_SHARDS, load.waiting_shards);
    }
    if counts.looks > counts.failed_looks {
        page.one(GAPS, counts.gaps);
        page.one(LOOK_DURATION, seconds(counts.look_millis));
        page.one(TABLE_ROWS, counts.rows);
    }
    page.one(LOOKS, counts.looks);
    page.one(FAILED_LOOKS, counts.failed_looks);
    page.one(READ_UNITS, counts.read_units);
    page.one(PROBES, counts.probes);
    page.text
}

/// The metrics of each shard, one after the other: the format wants all samples of a metric together.
fn shards(page: &mut Page, view: &FleetView) {
    let each = || view.verdict.shards.iter();
    page.head(SHARD_LAG);
    for (shard, verdict) in each() {
        page.optional(SHARD_LAG, shard.as_str(), verdict.behind_millis);
    }
    page.head(SHARD_LOSS);
    for (shard, verdict) in each() {
        let at_pace = match verdict.time_to_loss {
            TimeToLoss::In { at_pace_millis, .. } => at_pace_millis,
            TimeToLoss::Unknown | TimeToLoss::NothingWaits => None,
        };
        page.optional(SHARD_LOSS, shard.as_str(), at_pace);
    }
    page.head(SHARD_STILL);
    for (shard, verdict) in each() {
        page.optional(SHARD_STILL, shard.as_str(), verdict.still_millis);
    }
    page.head(LEASE_SILENT);
    for (shard, verdict) in each().filter(|(_, verdict)| verdict.verdict != Verdict::Ended) {
        page.optional(LEASE_SILENT, shard.as_str(), verdict.silent_millis);
    }
    page.head(SHARD_VERDICT);
    for (shard, verdict) in each() {
        let labels = [("shard", shard.as_str()), ("verdict", label(verdict.verdict))];
        page.sample(SHARD_VERDICT, &labels, 1);
    }
}

fn fleet(page: &mut Page, view: &FleetView) {
    let verdict = &view.verdict;
    if let Some(behind) = verdict.behind_millis {
        page.one(MAX_LAG, seconds(behind));
    }
    if let Some((_, left)) = &verdict.first_loss {
        page.one(FIRST_LOSS, seconds(*left));
    }
    page.head(SHARDS);
    for one in Verdict::ALL {
        let count = verdict.counts.get(&one).copied().unwrap_or_default();
        page.sample(SHARDS, &[("verdict", label(one))], count);
    }
    page.head(VERDICT);
    for one in Verdict::ALL {
        page.sample(VERDICT, &[("verdict", label(one))], u8::from(one == verdict.verdict));
    }
    page.head(WORKER_LEASES);
    for worker in &view.snapshot.workers {
        page.sample(WORKER_LEASES, &[("worker", worker.worker_id.as_str())], worker.shards.len());
    }
    page.head(FINDINGS);
    let errors = verdict.signs.iter().filter(|sign| sign.is_error()).count();
    for (severity, count) in [("error", errors), ("warning", verdict.signs.len() - errors)] {
        page.sample(FINDINGS, &[("severity", severity)], count);
    }
    if let Some(stream) = &view.snapshot.stream {
        page.one(RETENTION, seconds(stream.retention_millis));
    }
    page.one(LAST_LOOK, seconds(view.snapshot.taken_at_millis));
}

/// The verdict as a label: its words with `_` between them.
fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::CatchingUp => "catching_up",
        Verdict::FallingBehind => "falling_behind",
        other => other.text(),
    }
}

/// Milliseconds as seconds, with three decimals at most.
fn seconds(millis: u64) -> String {
    match millis % 1_000 {
        0 => (millis / 1_000).to_string(),
        rest => format!("{}.{rest:03}", millis / 1_000),
    }
}

/// A label value in the text format.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Page {
    application: String,
    text: String,
}

impl Page {
    /// The two lines before the samples of a metric.
    fn head(&mut self, name: &str) {
        let Some(metric) = METRICS.iter().find(|metric| metric.name == name) else { return };
        // Writing to a string cannot fail.
        let unit = if metric.unit.is_empty() { String::new() } else { format!(" ({})", metric.unit) };
        let _ = writeln!(self.text, "# HELP {name} {}{unit}", metric.meaning);
        let _ = writeln!(self.text, "# TYPE {name} {}", metric.kind.text());
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let listed = METRICS.iter().find(|metric| metric.name == name).map(|metric| metric.labels);
        debug_assert!(
            listed.is_some_and(|listed| labels.iter().map(|(label, _)| label).eq(listed)),
            "{name} has the labels of the list"
        );
        let _ = write!(self.text, "{name}{{application=\"{}\"", self.application);
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn optional(&mut self, name: &str, shard: &str, millis: Option<u64>) {
        if let Some(millis) = millis {
            self.sample(name, &[("shard", shard)], seconds(millis));
        }
    }

    /// A metric with one sample.
    fn one(&mut self, name: &str, value: impl std::fmt::Display) {
        self.head(name);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        assert_eq!(seconds(61_000), "61");
        assert_eq!(seconds(1_001), "1.001");
        assert_eq!(seconds(20), "0.020");
    }

    #[test]
    fn labels_are_escaped() {
        let text = exposition("a\"b\\c\nd", None, None, &Counts::default());
        assert!(text.contains("application=\"a\\\"b\\\\c\\nd\"} 0"), "{text}");
    }

    #[test]
    fn names_end_with_their_unit() {
        for metric in METRICS {
            let is_counter = metric.kind == MetricKind::Counter;
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_seconds"),
                metric.unit.starts_with("seconds"),
                "{}",
                metric.name
            );
        }
    }

    /// The page of metrics lists each metric as it is here, and no other one.
    #[test]
    fn documented_metrics_are_those_of_the_list() {
        let page = include_str!("../../../../docs/metrics.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `kinesis_fleet_")).collect();
        let expected: Vec<String> = METRICS
            .iter()
            .map(|metric| {
                let labels: Vec<String> =
                    ["application"].iter().chain(metric.labels).map(|label| format!("`{label}`")).collect();
                let unit = if metric.unit.is_empty() { "count" } else { metric.unit };
                let (name, kind) = (metric.name, metric.kind.text());
                format!("| `{name}` | {kind} | {unit} | {} | {} |", labels.join(", "), metric.meaning)
            })
            .collect();
        assert_eq!(rows, expected, "docs/metrics.md must have these rows:\n{}", expected.join("\n"));
    }
}
