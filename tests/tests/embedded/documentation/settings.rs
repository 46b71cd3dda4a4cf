//! The settings of a receiver, its storage buffer and its state, as tables in `docs/configuration.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::DEFAULT_PROCESSING_RETRY;
use serde_json::Value;

use super::source::{Field, fields, first_sentence, function_doc, values};
use super::stated::{agrees, clauses, value};
use super::{check_part, read};

/// What the KCL calls a setting. Settings that are not named here have no counterpart.
const KCL: [(&str, &str); 21] = [
    ("application", "`applicationName`"),
    ("worker_id", "`workerIdentifier`"),
    ("initial_position", "`initialPositionInStreamExtended`, default `LATEST`"),
    ("failover_time", "`failoverTimeMillis`, default 10 s"),
    ("max_leases", "`maxLeasesForWorker`, no limit"),
    ("max_lease_moves", "`maxLeasesToStealAtOneTime`, default 1"),
    ("shard_sync_interval", "`leasesRecoveryAuditorExecutionFrequencyMillis`, default 120 s"),
    ("drain_time", "`gracefulLeaseHandoffTimeoutMillis` (3.x), default 30 s"),
    ("deaggregates", "always"),
    ("calls_for_empty_reads", "`callProcessRecordsEvenForEmptyRecordList`, default `false`"),
    ("aggregate_filter", "as `ALWAYS`, and by whole aggregates"),
    ("processing_retry", "`taskBackoffTimeMillis`, default 500 ms; a failed batch is skipped"),
    ("stream_name", "`streamTracker`"),
    ("lease_table", "`tableName`"),
    ("idle_time_between_reads", "`idleTimeBetweenReadsInMillis`, default 1.5 s"),
    ("operation_timeout", "`kinesisRequestTimeout`, default 30 s"),
    ("retrieval", "`retrievalSpecificConfig`, default fan-out"),
    ("consumer", "`consumerName` or `consumerArn`"),
    ("with_billing_mode", "`billingMode`, default on demand"),
    ("with_deletion_protection", "`leaseTableDeletionProtectionEnabled`, default off"),
    ("METRICS_INTERVAL", "`metricsBufferTimeMillis`, default 10 s"),
];

/// Units that neither the type nor the name of a setting shows.
const UNITS: [(&str, &str); 4] = [
    ("max_leases", "leases"),
    ("max_lease_moves", "leases"),
    ("max_restarts", "restarts"),
    ("keep", "snapshots"),
];

/// Statements about defaults in prose, with the value that they describe. `None`: they are about something else.
const PROSE: [(&str, &str, Option<&str>); 7] = [
    (
        "application",
        "It is by default also the name of the lease table, so 3 to 255 letters, digits, `_`, `.` and `-` (the rule of DynamoDB)",
        None,
    ),
    // The number that stands for no limit.
    ("max_leases", "By default without a limit, which is left out of a file", Some("18446744073709551615")),
    ("data_loss_policy", "By default a shard that has most likely lost records is halted", Some("Fail")),
    ("lost_state", "by default it does not start", Some("Refuse")),
    (
        "failure",
        "By default the shard is halted and no record is skipped",
        Some("FailureSettings {last_resort: Halt,attempts: 12,time_limit: None,divides: None,}"),
    ),
    (
        "processing_retry",
        "by default from 200 ms up to 30 s",
        Some("RetryPolicy {max_attempts: None,wait: Exponential {first: 200ms,longest: 30s,},}"),
    ),
    (
        "checkpoint_retry",
        "by default 8 attempts over about ten seconds",
        Some("RetryPolicy {max_attempts: Some(8,),wait: Exponential {first: 200ms,longest: 5s,},}"),
    ),
];

/// The name in the KCL.
pub(super) fn kcl(setting: &str) -> &'static str {
    KCL.iter().find(|(name, _)| *name == setting).map_or("–", |(_, kcl)| kcl)
}

/// A settings type with its defaults: the values in `{:#?}` form, and as JSON where it is read from files.
pub(super) struct Documented {
    pub(super) source: &'static str,
    pub(super) structure: &'static str,
    pub(super) debug: String,
    pub(super) json: Option<Value>,
}

impl Documented {
    pub(super) fn fields(&self) -> Vec<(Field, String)> {
        let mut values: BTreeMap<String, String> = values(&self.debug);
        let fields = fields(&read(self.source), self.structure);
        assert!(!fields.is_empty(), "{} has no fields", self.structure);
        let of = |field: Field| {
            let value = values.remove(&field.name);
            let value = value.unwrap_or_else(|| panic!("no value of {}::{}", self.structure, field.name));
            (field, value)
        };
        fields.into_iter().map(of).collect()
    }

    /// The table of the reference.
    pub(super) fn table(&self) -> String {
        let fields = self.fields();
        let has_keys = fields.iter().any(|(field, _)| field.key.is_some());
        let mut table = String::from(if has_keys {
            "| setting | in a file | type | unit | default | KCL | meaning |\n| --- | --- | --- | --- | --- | --- | --- |\n"
        } else {
            "| setting | type | unit | default | KCL | meaning |\n| --- | --- | --- | --- | --- | --- |\n"
        });
        for (field, value) in fields {
            let key = field.key.as_ref().map(|key| format!("`{key}` | ")).unwrap_or_default();
            let unit = unit(&field);
            let in_file = field.key.as_ref().and_then(|key| self.json.as_ref()?.get(key)?.as_str());
            writeln!(
                table,
                "| `{}` | {key}`{}` | {unit} | {} | {} | {} |",
                field.name,
                field.kind,
                shown(&value, unit, in_file),
                kcl(&field.name),
                meaning(&field.doc)
            )
            .unwrap();
        }
        table
    }

    /// Compares every default that a doc comment states with the value of the code.
    pub(super) fn check_stated_defaults(&self) -> usize {
        let mut stated = 0;
        for (field, actual) in self.fields() {
            for clause in clauses(&field.doc) {
                let place = format!("{}::{}: \"{clause}\"", self.structure, field.name);
                let prose = PROSE.iter().find(|(name, text, _)| *name == field.name && *text == clause);
                if let Some((_, _, described)) = prose {
                    assert!(
                        described.is_none_or(|described| described == actual),
                        "{place}, but it is {actual}"
                    );
                } else {
                    let value = value(&clause);
                    let value = value.unwrap_or_else(|| {
                        panic!("{place}: state it as `VALUE by default`, or add it to PROSE")
                    });
                    assert!(agrees(value, &actual), "{place}, but it is {actual}");
                }
                stated += 1;
            }
        }
        stated
    }
}

/// The first sentence, without the default, which has a column.
fn meaning(doc: &str) -> String {
    let sentence = first_sentence(doc);
    match sentence.rsplit_once("; ") {
        Some((meaning, rest)) if rest.contains("default") => format!("{meaning}."),
        _ => sentence,
    }
}

fn unit(field: &Field) -> &'static str {
    let (name, kind) = (field.name.as_str(), field.kind.as_str());
    if let Some((_, unit)) = UNITS.iter().find(|(found, _)| *found == name) {
        return unit;
    }
    let is_number =
        ["u32", "u64", "usize", "NonZeroU64", "NonZeroUsize"].iter().any(|number| kind.contains(number));
    if kind.contains("Duration") {
        return if field.key.as_ref().is_some_and(|key| key.ends_with("_ms")) { "ms" } else { "time" };
    }
    if !is_number {
        return "–";
    }
    let suffixes = [("_bytes", "bytes"), ("_records", "records"), ("_percent", "percent")];
    let per_second = [("_records_per_second", "records a second"), ("_bytes_per_second", "bytes a second")];
    let unit = suffixes.iter().chain(&per_second).find(|(suffix, _)| name.ends_with(suffix));
    unit.unwrap_or_else(|| panic!("the unit of {name} is not known; add it to UNITS")).1
}

/// A default for people.
fn shown(debug: &str, unit: &str, in_file: Option<&str>) -> String {
    const MIB: u64 = 1 << 20;
    if let Some(text) =
        in_file.filter(|text| !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()))
    {
        return format!("`{text}`");
    }
    match (debug, debug.parse::<u64>()) {
        ("None" | "{}" | "\"\"", _) => "none".to_owned(),
        ("0ns", _) => "0".to_owned(),
        (_, Ok(u64::MAX)) => "no limit".to_owned(),
        (_, Ok(bytes)) if unit == "bytes" && bytes > 0 && bytes % MIB == 0 => {
            format!("{bytes} ({} MiB)", bytes / MIB)
        }
        (_, Ok(number)) => number.to_string(),
        _ if unit == "ms" || unit == "time" => match debug.strip_suffix("ms") {
            Some(number) => format!("{number} ms"),
            None => format!("{} s", debug.trim_end_matches('s')),
        },
        _ => format!("`{}`", on_one_line(debug)),
    }
}

/// A value in `{:#?}` form whose lines were joined, as `{:?}` shows it.
fn on_one_line(debug: &str) -> String {
    let text = debug.replace(",)", ")").replace(",}", "}").replace(',', ", ");
    text.replace('{', "{ ").replace('}', " }").replace("{  }", "{}")
}

pub(super) fn receiver() -> Documented {
    let defaults = ConsumerSettings::default();
    Documented {
        source: "crates/receiver/src/settings.rs",
        structure: "ConsumerSettings",
        debug: format!("{defaults:#?}"),
        json: Some(serde_json::to_value(defaults).unwrap()),
    }
}

pub(super) fn storage() -> Documented {
    let defaults = StorageSettings::default();
    Documented {
        source: "crates/storage-buffer/src/settings.rs",
        structure: "StorageSettings",
        debug: format!("{defaults:#?}"),
        json: Some(serde_json::to_value(defaults).unwrap()),
    }
}

pub(super) fn state() -> Documented {
    Documented {
        source: "crates/processor-state/src/settings.rs",
        structure: "StateSettings",
        debug: format!("{:#?}", StateSettings::default()),
        json: None,
    }
}

/// Parts of the builder that are no plain data, with their defaults.
fn components() -> String {
    const BUILDER: &str = "crates/receiver/src/builder.rs";
    let source = read(BUILDER);
    let policy = format!("`FailurePolicy::halt()`, {} attempts", FailurePolicy::DEFAULT_ATTEMPTS);
    assert_eq!(format!("{:?}", FailurePolicy::default()), format!("{:?}", FailurePolicy::halt()));
    let mut table = String::from("| setting | default | KCL | meaning |\n| --- | --- | --- | --- |\n");
    let processing = format!("`{DEFAULT_PROCESSING_RETRY:?}`");
    let checkpoint = format!("`{:?}`", RetryPolicy::default());
    for (name, default) in [
        ("failure_policy", policy),
        ("processing_retry", processing),
        ("checkpoint_retry", checkpoint),
        ("byte_budget", "a new one of `max_buffered_bytes`".to_owned()),
        ("seed", "a random one".to_owned()),
    ] {
        let meaning = first_sentence(&function_doc(&source, name));
        writeln!(table, "| `{name}` | {default} | {} | {meaning} |", kcl(name)).unwrap();
    }
    table
}

#[test]
fn configuration_reference_matches_the_code() {
    check_part("receiver", &receiver().table());
    check_part("components", &components());
    check_part("storage", &storage().table());
    check_part("state", &state().table());
}

#[test]
fn defaults_in_docs_of_settings_are_the_real_ones() {
    let stated: usize = [receiver(), storage(), state()].iter().map(Documented::check_stated_defaults).sum();
    assert!(stated >= 15, "only {stated} stated defaults were found");
}
