//! The figures: tables, ratios of CPU time, and the check of counted figures.

use std::fmt::Write as _;

use kinesis_streaming::prelude::BoxError;
use serde_json::{Value, json};

use super::comparisons::{Comparison, Kind};
use crate::shape::Shape;

/// Most allocations per record on the hot path, on average over full answers.
const MAX_ALLOCATIONS_PER_RECORD: f64 = 0.05;

/// Most allocations of an answer of 1,000 records: the call, with the handle of its connection and the wait for its bytes, the
/// batch, and their bookkeeping. None of them depends on the number of records.
const MAX_ALLOCATIONS_PER_ANSWER: f64 = 100.0;

/// Fewest shards over which the fixed cost of a process is spread.
const MANY_SHARDS: u64 = 64;

/// Most bytes allocated per byte of payload, in CBOR at 1 KB. The body is read into a buffer of 1.15 bytes and copied
/// once; the records themselves take the rest. An answer that is read ahead when the measurement ends counts too: two short
/// runs gave 2.30 and 2.53.
const MAX_ALLOCATED_PER_PAYLOAD: f64 = 2.75;

/// Largest heap of an idle shard, in bytes.
const MAX_IDLE_HEAP_BYTES: f64 = 64.0 * 1024.0;

/// The loops over the SDK alone, with which the others are compared.
const THE_SDKS: [&str; 2] = ["sdk-loop", "sdk-fan-out"];

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Value>,
}

/// Converts a number for display.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn as_f64(number: u64) -> f64 {
    number as f64
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or(f64::NAN)
}

impl Report {
    pub(crate) fn rows(&self) -> &[Value] {
        &self.rows
    }

    /// Adds and prints the figures of a comparison.
    pub(crate) fn add_comparison(&mut self, comparison: &Comparison, figures: impl Iterator<Item = Value>) {
        let figures: Vec<Value> = figures.collect();
        let reference =
            figures.iter().find(|figures| THE_SDKS.iter().any(|sdk| figures["contender"] == **sdk));
        let reference = reference.map_or(f64::NAN, |figures| per_unit(comparison, figures));
        let mut rows = Vec::new();
        for figures in figures {
            let ratio = per_unit(comparison, &figures) / reference;
            let row = match comparison.kind {
                Kind::Time | Kind::Tls | Kind::FanOut => time_row(comparison, &figures, ratio),
                Kind::Count => count_row(comparison, &figures),
                Kind::Latency => json!({
                    "p50_millis": figures["latency_millis"]["p50"], "p99_millis": figures["latency_millis"]["p99"],
                    "max_millis": figures["latency_millis"]["max"], "records": figures["latency_millis"]["count"],
                }),
            };
            rows.push(self.add(
                comparison.kind,
                comparison.shape,
                comparison.shards,
                figures["contender"].as_str().unwrap_or(""),
                row,
            ));
        }
        print_table(&rows);
    }

    /// Adds one row: comparison, contender, and figures.
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        shape: Shape,
        shards: u64,
        contender: &str,
        figures: Value,
    ) -> Value {
        let mut row = json!({
            "kind": kind.to_string(), "shape": shape.letter(), "shards": shards, "contender": contender,
        });
        if let (Some(row), Value::Object(figures)) = (row.as_object_mut(), figures) {
            row.extend(figures);
        }
        self.rows.push(row.clone());
        row
    }

    pub(crate) fn print(rows: &[Value]) {
        print_table(rows);
    }

    fn find(&self, kind: Kind, shape: Shape, shards: u64, contender: &str, figure: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| {
            row["kind"] == kind.to_string()
                && row["shape"] == shape.letter()
                && row["shards"] == shards
                && row["contender"] == contender
                && row[figure].is_number()
        })?;
        row[figure].as_f64()
    }

    /// Prints the ratios that have a threshold, and whether they meet it. CPU time never fails the run.
    pub(crate) fn print_ratios(&self) {
        println!("\nratios of CPU time in this run, with their thresholds");
        let line = |what: String, ratio: Option<f64>, threshold: f64| {
            let Some(ratio) = ratio else { return };
            let verdict = if ratio <= threshold { "pass" } else { "FAIL" };
            println!("{what:<64} {ratio:>6.3}  threshold {threshold:<5} {verdict}");
        };
        let per_read = "cpu_micros_per_read";
        let ratio_of = |kind, shape, shards, left: &str, right: &str| {
            let of = |who: &str| self.find(kind, shape, shards, who, per_read);
            Some(of(left)? / of(right)?)
        };
        let ratio = |shape, shards, left: &str, right: &str| ratio_of(Kind::Time, shape, shards, left, right);
        for format in ["cbor", "json"] {
            let (pipeline, limit) = (format!("pipeline-{format}"), format!("limit-{format}"));
            for (shape, threshold) in [(Shape::A, 0.40), (Shape::B, 0.30), (Shape::C, 0.40)] {
                for shards in [16, 256] {
                    let what = format!("{pipeline} to the SDK loop, {}, {shards} shards", shape.letter());
                    line(what, ratio(shape, shards, &pipeline, "sdk-loop"), threshold);
                    let what = format!("{pipeline} to {limit}, {}, {shards} shards", shape.letter());
                    line(what, ratio(shape, shards, &pipeline, &limit), 1.5);
                }
            }
            for shards in [16, 256, 2048] {
                let what = format!("{pipeline} to the SDK loop, empty reads, {shards} shards");
                line(what, ratio(Shape::E, shards, &pipeline, "sdk-loop"), 0.5);
            }
        }
        for shards in [16, 256] {
            for (shape, threshold) in [(Shape::A, 0.40), (Shape::B, 0.30), (Shape::C, 0.40)] {
                let what =
                    format!("pipeline-cbor to the SDK loop over TLS, {}, {shards} shards", shape.letter());
                line(what, ratio_of(Kind::Tls, shape, shards, "pipeline-cbor", "sdk-loop"), threshold);
                let what = format!("pipeline-fan-out to the SDK loop, {}, {shards} shards", shape.letter());
                line(what, ratio_of(Kind::FanOut, shape, shards, "pipeline-fan-out", "sdk-fan-out"), 0.6);
            }
        }
        for (shape, threshold) in [(Shape::A, 0.15), (Shape::B, 0.10), (Shape::C, 0.45)] {
            let what = format!("pipeline-cbor to kcl-rs, {}, 16 shards", shape.letter());
            line(what, ratio(shape, 16, "pipeline-cbor", "kcl-rs"), threshold);
        }
        let memory = |who: &str, shards| self.find(Kind::Count, Shape::E, shards, who, "rss_per_shard");
        let to_kcl =
            memory("pipeline-cbor", 2048).zip(memory("kcl-rs", 256)).map(|(ours, theirs)| ours / theirs);
        line("memory of an idle shard, pipeline-cbor to kcl-rs".to_owned(), to_kcl, 0.2);
    }

    /// # Errors
    /// A counted figure exceeds its threshold: which one, and by how much.
    pub(crate) fn check_counted(&self) -> Result<(), BoxError> {
        let mut faults = String::new();
        for row in &self.rows {
            if row["kind"] != Kind::Count.to_string()
                || !row["contender"].as_str().unwrap_or("").starts_with("pipeline-")
            {
                continue;
            }
            if row["contender"] == "pipeline-sdk" {
                continue;
            }
            let mut check = |figure: &str, threshold: f64| {
                let found = number(row, figure);
                if found > threshold {
                    let _ = writeln!(faults, "{figure} is {found:.4}, above {threshold}: {row}");
                }
            };
            if row["shards"].as_u64() >= Some(MANY_SHARDS) {
                check("heap_per_idle_shard", MAX_IDLE_HEAP_BYTES);
            }
            if row["shape"] == "b" {
                check("allocations_per_record", MAX_ALLOCATIONS_PER_RECORD);
            }
            if row["shape"] == "a" {
                check("allocations_per_record", MAX_ALLOCATIONS_PER_ANSWER / 1000.0);
            }
            if row["shape"] == "a" && row["contender"] == "pipeline-cbor" && row["shards"] != 2048 {
                check("allocated_per_payload", MAX_ALLOCATED_PER_PAYLOAD);
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(format!("counted figures exceed their thresholds:\n{faults}").into())
        }
    }
}

/// Returns the CPU time that is compared: of the whole stream, or of one read of an idle shard.
fn per_unit(comparison: &Comparison, figures: &Value) -> f64 {
    let nanos = number(figures, "cpu_nanos");
    if comparison.shape.records() == 0 { nanos / number(figures, "reads") } else { nanos }
}

fn time_row(comparison: &Comparison, figures: &Value, ratio: f64) -> Value {
    let seconds = number(figures, "cpu_nanos") / 1e9;
    let answers = as_f64(comparison.answers * comparison.shards);
    let (records, bytes) =
        (as_f64(comparison.shape.user_records()) * answers, as_f64(comparison.shape.user_bytes()) * answers);
    if comparison.shape.records() == 0 {
        return json!({
            "cpu_micros_per_read": seconds * 1e6 / number(figures, "reads"), "reads": figures["reads"], "to_sdk_loop": ratio,
            "rss_per_shard": rss_per_shard(comparison, figures),
        });
    }
    json!({
        "cpu_s_per_gb": seconds / bytes * 1e9,
        "cpu_s_per_million_records": seconds / records * 1e6,
        "cpu_micros_per_read": seconds * 1e6 / answers,
        "to_sdk_loop": ratio,
        "reads": figures["reads"],
        "rss_max_mb": number(figures, "rss_max") / 1e6,
    })
}

fn rss_per_shard(comparison: &Comparison, figures: &Value) -> f64 {
    (number(figures, "rss") - number(figures, "rss_before")) / as_f64(comparison.shards)
}

fn count_row(comparison: &Comparison, figures: &Value) -> Value {
    let allocations = number(figures, "allocations");
    if comparison.shape.records() == 0 {
        return json!({
            "allocations_per_read": allocations / number(figures, "counted_reads"),
            "heap_per_idle_shard": number(figures, "heap_bytes") / as_f64(comparison.shards),
            "rss_per_shard": rss_per_shard(comparison, figures),
        });
    }
    // With one answer per shard there is nothing after the first one.
    let counted = number(figures, "counted_records");
    let user = as_f64(comparison.shape.user_records()) / as_f64(comparison.shape.records());
    json!({
        "allocations_per_record": allocations / counted / user,
        "allocated_per_payload": number(figures, "allocated_bytes")
            / (counted * user * as_f64(comparison.shape.payload_bytes())),
        "heap_max_mb": number(figures, "heap_max_bytes") / 1e6,
    })
}

fn print_table(rows: &[Value]) {
    for row in rows {
        let Some(members) = row.as_object() else { continue };
        let mut line = format!("  {:<16}", row["contender"].as_str().unwrap_or(""));
        for (name, value) in members {
            if ["kind", "shape", "shards", "contender"].contains(&name.as_str()) || value.is_null() {
                continue;
            }
            let shown = value.as_f64().map_or_else(|| value.to_string(), shown);
            let _ = write!(line, "  {name} {shown}");
        }
        println!("{line}");
    }
}

/// Formats a number with its significant digits.
fn shown(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => format!("{number:.0}"),
        10.0..1000.0 => format!("{number:.1}"),
        0.1..10.0 => format!("{number:.3}"),
        _ => format!("{number:.5}"),
    }
}
