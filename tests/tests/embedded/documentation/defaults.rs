//! Every default with a number in a doc comment of the crates is compared with the code: those of settings in `settings.rs`, those of
//! constants with the constant, and the others one by one here.

use std::fs;
use std::path::{Path, PathBuf};

use kinesis_streaming::checkpointer::RetryPolicy;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::DEFAULT_PROCESSING_RETRY;

use super::settings::{Documented, receiver, state, storage};
use super::stated::{agrees, clauses};
use super::{file, read};

/// All settings types of this build.
fn all_settings() -> Vec<Documented> {
    let settings = [receiver(), storage(), state()].into_iter();
    #[cfg(feature = "wire")]
    let settings = settings.chain(super::aws_settings::all());
    settings.collect()
}

/// Statements that are not about a default of this library.
const OF_OTHERS: [(&str, &str); 5] = [
    ("stream_client.rs", "AWS default: 1000"),
    ("fan_out/backpressure.rs", "with the default client"),
    // What a value of a properties file means.
    ("properties/resolve.rs", "The keys that make `retrievalMode = DEFAULT` poll"),
    ("properties/effective.rs", "a `false` or 0 that Java never applies"),
    ("properties/settings.rs", "`DEFAULT` polls when a polling key is set"),
];

/// A doc comment on one line, and the code after it.
struct Comment {
    path: PathBuf,
    doc: String,
    code: String,
}

/// All doc comments of the crates.
fn comments() -> Vec<Comment> {
    let mut found = Vec::new();
    let mut folders = vec![file("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && is_source(&path) {
                found.extend(of_file(&path));
            }
        }
    }
    found
}

fn is_source(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "src")
}

fn of_file(path: &Path) -> Vec<Comment> {
    let text = fs::read_to_string(path).unwrap();
    let (mut found, mut doc, mut is_example) = (Vec::new(), String::new(), false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("/// ```") || line.starts_with("//! ```") {
            is_example = !is_example;
            continue;
        }
        if is_example {
            continue;
        }
        match line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) {
            Some(part) => doc = format!("{doc} {}", part.trim()).trim().to_owned(),
            None if doc.is_empty() || (line.starts_with("#[") && !line.starts_with("#[default]")) => {}
            None => {
                let doc = std::mem::take(&mut doc);
                found.push(Comment { path: path.to_owned(), doc, code: line.to_owned() });
            }
        }
    }
    found
}

/// The value of a constant: numbers, products, and the usual constructors around them.
fn constant(code: &str) -> Option<String> {
    let (_, value) = code.strip_prefix("pub ").unwrap_or(code).strip_prefix("const ")?.split_once(" = ")?;
    let value = value.trim_end_matches(';');
    if let Some((unit, number)) = value.strip_prefix("Duration::from_").and_then(|rest| rest.split_once('('))
    {
        let unit = match unit {
            "secs" => "s",
            "millis" => "ms",
            _ => return None,
        };
        return Some(format!("{}{unit}", product(number.trim_end_matches(')'))?));
    }
    if let Some((_, number)) = value.split_once("::MIN.saturating_add(") {
        let number = number.trim_end_matches(')');
        let (number, less) = number.split_once(" - ").unwrap_or((number, "0"));
        return Some((product(number)? + 1 - product(less)?).to_string());
    }
    product(value).map(|number| number.to_string())
}

fn product(text: &str) -> Option<u128> {
    text.split('*').map(|factor| factor.trim().replace('_', "").parse::<u128>().ok()).product()
}

/// Numbers with their units in a text: `128 MiB`, `10 s`, `100,000`.
fn numbers(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_start_matches('(')).collect();
    let starts = words.iter().enumerate().filter(|(_, word)| word.starts_with(|c: char| c.is_ascii_digit()));
    starts
        .map(|(index, word)| {
            let unit =
                words.get(index + 1).map_or("", |unit| unit.trim_end_matches(['.', ',', ';', ':', ')']));
            let is_unit = matches!(unit, "s" | "ms" | "min" | "minutes" | "KiB" | "MiB" | "GiB");
            let number = word.trim_end_matches(['.', ',', ';', ':', ')']);
            if is_unit { format!("{number} {unit}") } else { number.to_owned() }
        })
        .collect()
}

/// The statements that are neither about a setting nor about a constant, and whether the code agrees.
fn one_by_one() -> Vec<(&'static str, &'static str, bool)> {
    let settings = ConsumerSettings::default();
    let (processing, checkpoint) =
        (format!("{DEFAULT_PROCESSING_RETRY:?}"), format!("{:?}", RetryPolicy::default()));
    let processing = processing.contains("first: 200ms") && processing.contains("longest: 30s");
    let position: ShardPosition =
        serde_json::from_str(r#"{"AFTER_SEQUENCE_NUMBER": {"sequence_number": "17"}}"#).unwrap();
    let sub_sequence_number = match position {
        ShardPosition::After { sub_sequence_number, .. } => sub_sequence_number,
        _ => u64::MAX,
    };
    let contains = |path: &str, text: &str| read(path).contains(text);
    vec![
        ("kinesis-asl/src/lease_table.rs", "(10 s by default)", settings.failover_time.as_secs() == 10),
        (
            "lease-store/src/table_settings.rs",
            "of the last 35 days; off by default",
            !TableSettings::default().point_in_time_recovery,
        ),
        (
            "shard-worker/src/failure/failure_settings.rs",
            "12 by default",
            FailureSettings::default().attempts.get() == 12,
        ),
        (
            "kinesis-asl/src/stream.rs",
            "between two reads of its shard: 1 s by default",
            contains(
                "crates/kinesis-asl/src/settings.rs",
                "DEFAULT_IDLE_TIME_BETWEEN_READS: Duration = Duration::from_secs(1);",
            ),
        ),
        (
            "kinesis-asl/src/stream.rs",
            "in percent (1 to 100); 100 by default",
            contains("crates/kinesis-asl/src/stream_client.rs", "share_percent: 100,"),
        ),
        (
            "kinesis-asl/src/stream.rs",
            "By default the bytes of an answer delay the next read",
            contains("crates/kinesis-asl/src/stream_client.rs", "counts_bytes: true,"),
        ),
        (
            "multilang/src/child/running.rs",
            "after its input was closed; 30 s by default",
            contains("crates/multilang/src/child/running.rs", "exit_time: Duration::from_secs(30)"),
        ),
        ("shard-worker/src/shard_context.rs", "from 200 ms up to 30 s", processing),
        ("receiver/src/builder.rs", "by default from 200 ms up to 30 s", processing),
        ("receiver/src/builder.rs", "by default 8 attempts", checkpoint.contains("max_attempts: Some(8)")),
        (
            "receiver/src/united_stream.rs",
            "1 by default",
            contains("crates/receiver/src/united_stream.rs", "batches_per_shard: NonZeroUsize::MIN"),
        ),
        ("receiver/src/shards/initial_position.rs", "0 by default, the first one", sub_sequence_number == 0),
        (
            "shard-worker/src/in_memory_stream/mod.rs",
            "the default is 10,000",
            contains(
                "crates/shard-worker/src/in_memory_stream/mod.rs",
                "const MAX_BATCH_RECORDS: usize = 10_000;",
            ),
        ),
    ]
}

#[test]
fn defaults_in_doc_comments_are_the_real_ones() {
    let of_settings: Vec<String> =
        all_settings().iter().flat_map(Documented::fields).map(|(field, _)| field.doc).collect();
    let one_by_one = one_by_one();
    let mut used = vec![false; one_by_one.len()];
    let (mut constants, mut faults) = (0, Vec::new());
    for Comment { path, doc, code } in comments() {
        let place = path.display();
        let is_aws = cfg!(not(feature = "wire")) && path.to_string_lossy().contains("kinesis-asl");
        if of_settings.contains(&doc) || (is_aws && code.starts_with("pub ") && code.ends_with(',')) {
            continue;
        }
        let of_others = OF_OTHERS.iter().any(|(of, text)| path.ends_with(of) && doc.contains(text));
        for sentence in doc.split_inclusive(". ") {
            if clauses(sentence).is_empty() || numbers(sentence).is_empty() || of_others {
                continue;
            }
            let entries = one_by_one.iter().enumerate();
            let entries = entries.filter(|(_, (of, text, _))| path.ends_with(of) && doc.contains(text));
            let mut is_compared = false;
            for (index, (_, text, agrees)) in entries {
                if !agrees {
                    faults.push(format!("{place}: \"{text}\" is not the default of the code"));
                }
                (used[index], is_compared) = (true, true);
            }
            if is_compared {
                continue;
            }
            if let Some(actual) = constant(&code) {
                if !numbers(sentence).iter().any(|number| agrees(number, &actual)) {
                    faults.push(format!("{place}: \"{sentence}\", but the constant is {actual}"));
                }
                constants += 1;
            } else {
                faults.push(format!(
                    "{place}: nothing compares \"{sentence}\" with the code: add it to `one_by_one`"
                ));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(constants >= 2, "only {constants} constants were found");
    let unused: Vec<_> =
        one_by_one.iter().zip(used).filter(|(_, used)| !used).map(|(entry, _)| entry.1).collect();
    assert_eq!(unused, Vec::<&str>::new(), "these statements are gone from the doc comments");
}

#[test]
fn variant_that_is_called_the_default_is_the_default() {
    let mut checked = 0;
    for Comment { path, doc, code } in comments() {
        let is_called = doc.ends_with("The default.");
        if is_called {
            assert_eq!(code, "#[default]", "{}: \"{doc}\"", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 2, "only {checked} variants are called the default");
}

#[test]
fn constants_and_numbers_are_read() {
    assert_eq!(constant("const X: u64 = 8 * 1024;").as_deref(), Some("8192"));
    assert_eq!(
        constant("pub const X: Duration = Duration::from_secs(24 * 60 * 60);").as_deref(),
        Some("86400s")
    );
    assert_eq!(
        constant("pub const X: NonZeroU64 = NonZeroU64::MIN.saturating_add(99_999);").as_deref(),
        Some("100000")
    );
    assert_eq!(
        constant("pub const X: NonZeroU64 = NonZeroU64::MIN.saturating_add(2 * 3 - 1);").as_deref(),
        Some("6")
    );
    assert_eq!(constant("fn x() {}"), None);
    assert_eq!(numbers("bytes: 128 MiB; or 1,000."), ["128 MiB", "1,000"]);
}
