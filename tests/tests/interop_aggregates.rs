//! Aggregates that the real libraries of other producers made, through splits and merges. Run by `cargo xtask aggregates`, which
//! installs the libraries.
//!
//! `aws-kinesis-agg` for Node.js sorts its table of partition keys if they look like numbers, and so gives records the keys of
//! others. A filter by hash key would drop such records even on a stream that never changed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use end_to_end_tests::fleet::{Member, member, setup};
use fastrand::Rng;
use kinesis_streaming::lease_store::{HashKey, HashKeyRange};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{AggregateFilter, KPL_PARTITION_KEY, RecordDistribution, hash_key_of};
use serde_json::{Value, json};
use test_support::{LIMIT, wait_until};

/// The folder of the libraries.
const DIRECTORY_VARIABLE: &str = "AGGREGATORS_DIR";

/// How many records an aggregate has.
const PER_AGGREGATE: usize = 10;

/// The seed of the shards that automatic distribution chooses.
const SEED: u64 = 15;

/// The installed libraries. `None`: they are left out, which is printed.
fn libraries() -> Option<[Library; 2]> {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE).map(PathBuf::from) else {
        println!("LEFT OUT: aggregates by other producers, because {DIRECTORY_VARIABLE} is not set");
        return None;
    };
    Some([
        Library {
            program: "node",
            script: "aggregate.js",
            path: ("NODE_PATH", directory.join("node_modules")),
        },
        Library {
            program: "python3",
            script: "aggregate.py",
            path: ("PYTHONPATH", directory.join("python")),
        },
    ])
}

/// A library of a producer.
#[derive(Debug)]
struct Library {
    program: &'static str,
    script: &'static str,
    /// The variable with the folder of its packages.
    path: (&'static str, PathBuf),
}

/// What a producer puts.
#[derive(Debug, Clone)]
struct Aggregate {
    key: String,
    hash_key: Option<HashKey>,
    data: Vec<u8>,
}

/// Keys that look like numbers, keys that do not, and keys of many letters.
fn key(number: usize) -> String {
    match number % 3 {
        0 => (1000 - number).to_string(),
        1 => format!("key-{number}"),
        _ => format!("schlüssel-{number}"),
    }
}

/// Every fourth record has an explicit hash key.
fn hash_key(number: usize) -> Option<HashKey> {
    number.is_multiple_of(4).then(|| hash_key_of(&format!("hash-{number}")))
}

impl Library {
    /// Aggregates these numbers in their order.
    fn aggregates(&self, numbers: impl IntoIterator<Item = usize>, per_aggregate: usize) -> Vec<Aggregate> {
        let line = |number: usize| {
            let hash_key = hash_key(number).map(|hash_key| hash_key.to_string());
            json!({"key": key(number), "hash": hash_key, "data": number.to_string()}).to_string() + "\n"
        };
        let input = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "{}-{:?}",
            self.script,
            std::thread::current().id()
        ));
        fs::write(&input, numbers.into_iter().map(line).collect::<String>()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("producers").join(self.script);
        let output = Command::new(self.program)
            .arg(script)
            .arg(per_aggregate.to_string())
            .env(self.path.0, &self.path.1)
            .stdin(Stdio::from(File::open(&input).unwrap()))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{} failed: {}", self.script, output.status);
        String::from_utf8(output.stdout).unwrap().lines().map(aggregate).collect()
    }
}

fn aggregate(line: &str) -> Aggregate {
    let line: Value = serde_json::from_str(line).unwrap();
    let hexadecimal = line["data"].as_str().unwrap();
    let digits = (0..hexadecimal.len()).step_by(2);
    Aggregate {
        key: line["key"].as_str().unwrap().to_owned(),
        hash_key: line["hash"].as_str().map(|hash_key| hash_key.parse().unwrap()),
        data: digits.map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap()).collect(),
    }
}

/// Puts as these producers do: once, by the key of the first record. With automatic distribution the service chooses the shard.
fn put(stream: &InMemoryStream, aggregates: Vec<Aggregate>, distribution: RecordDistribution, rng: &mut Rng) {
    for Aggregate { key, hash_key, data } in aggregates {
        let by_key = hash_key.unwrap_or_else(|| hash_key_of(&key));
        let put = match distribution {
            RecordDistribution::Automatic => {
                stream.put_with_hash_key(HashKey(rng.u128(..)), None::<String>, data)
            }
            _ => stream.put_with_hash_key(by_key, Some(key), data),
        };
        put.unwrap();
    }
}

fn each_once(numbers: Range<usize>) -> BTreeMap<String, usize> {
    numbers.map(|number| (number.to_string(), 1)).collect()
}

fn filtered(member: &Member) -> u64 {
    member.handle.status().shards.iter().map(|shard| shard.progress.filtered_records).sum()
}

/// Splits a shard, merges two others, and splits again while records arrive.
async fn reads_all_through_reshards(library: &Library, distribution: RecordDistribution) {
    let (stream, store, journal) = setup(4);
    stream.set_distribution(Some(distribution));
    let mut rng = Rng::with_seed(SEED);
    let member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, library.aggregates(0..200, PER_AGGREGATE), distribution, &mut rng);
    journal.wait_for(200, LIMIT).await;

    let open = stream.open_shards();
    stream.split(&open[0]).unwrap();
    stream.merge(&open[2], &open[3]).unwrap();
    put(&stream, library.aggregates(200..400, PER_AGGREGATE), distribution, &mut rng);
    journal.wait_for(400, LIMIT).await;

    for shard_id in stream.open_shards() {
        stream.split(&shard_id).unwrap();
    }
    put(&stream, library.aggregates(400..600, PER_AGGREGATE), distribution, &mut rng);
    journal.wait_for(600, LIMIT).await;
    tokio::time::sleep(LIMIT).await; // long enough for any redelivery
    assert_eq!(journal.times(), each_once(0..600), "{library:?}, {distribution:?}");
    assert_eq!(filtered(&member), 0);
    journal.check_order();
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn other_producers_lose_nothing_by_partition_key() {
    for library in libraries().into_iter().flatten() {
        reads_all_through_reshards(&library, RecordDistribution::ByPartitionKey).await;
    }
}

#[tokio::test(start_paused = true)]
async fn other_producers_lose_nothing_on_automatic_streams() {
    for library in libraries().into_iter().flatten() {
        reads_all_through_reshards(&library, RecordDistribution::Automatic).await;
    }
}

/// The filter of the KCL: these aggregates are the ones that it loses.
#[tokio::test(start_paused = true)]
async fn a_filter_of_all_records_loses_these_aggregates() {
    for library in libraries().into_iter().flatten() {
        let (stream, store, journal) = setup(4);
        let builder = member("a", &stream, &store, &journal).aggregate_filter(AggregateFilter::Always);
        let member = Member::start(builder);
        let aggregates = library.aggregates(0..200, PER_AGGREGATE);
        put(&stream, aggregates, RecordDistribution::ByPartitionKey, &mut Rng::with_seed(SEED));
        wait_until("all records are read", || journal.count() as u64 + filtered(&member) == 200).await;
        assert!(filtered(&member) > 50, "{library:?}: {}", filtered(&member));
    }
}

/// Puts one aggregate as the KPL does, and returns the range of the shard that took it.
async fn put_as_kpl(stream: &InMemoryStream, aggregate: &Aggregate, to: HashKey) -> HashKeyRange {
    let put = stream.put_with_hash_key(to, Some(KPL_PARTITION_KEY), aggregate.data.clone()).unwrap();
    let shards = stream.list_shards(&ShardFilter::All).await.unwrap();
    shards.into_iter().find(|shard| shard.shard_id == put.0).unwrap().hash_key_range.unwrap()
}

/// The KPL does not know of the split, and fills an aggregate with the records of the parent. From the answer it learns which child
/// took it, and puts the records of the other child again.
#[tokio::test(start_paused = true)]
async fn records_put_again_after_a_reshard_are_left_out() {
    // Without the keys that look like numbers, whose records the library for Node.js gives to other shards.
    let numbers = |range: Range<usize>| range.filter(|number| number % 3 != 0).collect::<Vec<_>>();
    let hash_of = |number: usize| hash_key(number).unwrap_or_else(|| hash_key_of(&key(number)));
    for library in libraries().into_iter().flatten() {
        let (stream, store, journal) = setup(1);
        let member = Member::start(member("a", &stream, &store, &journal));
        let before = numbers(0..90);
        for aggregate in library.aggregates(before.iter().copied(), PER_AGGREGATE) {
            put_as_kpl(&stream, &aggregate, HashKey(0)).await;
        }
        journal.wait_for(before.len(), LIMIT).await;
        stream.split(&stream.open_shards()[0]).unwrap();

        let after = numbers(90..300);
        let mut misplaced: BTreeMap<HashKey, Vec<usize>> = BTreeMap::new();
        let stale = library.aggregates(after.iter().copied(), PER_AGGREGATE);
        for (chunk, aggregate) in after.chunks(PER_AGGREGATE).zip(&stale) {
            let taken_by = put_as_kpl(&stream, aggregate, hash_of(chunk[0])).await;
            for number in chunk.iter().filter(|number| !taken_by.contains(hash_of(**number))) {
                misplaced.entry(taken_by.start()).or_default().push(*number);
            }
        }
        let mut put_again = 0;
        // Those that one child took in error belong to the other one.
        for numbers in misplaced.into_values() {
            put_again += numbers.len() as u64;
            for aggregate in library.aggregates(numbers.iter().copied(), PER_AGGREGATE) {
                put_as_kpl(&stream, &aggregate, hash_of(numbers[0])).await;
            }
        }
        let all: BTreeSet<usize> = before.into_iter().chain(after).collect();
        journal.wait_for(all.len(), LIMIT).await;
        tokio::time::sleep(LIMIT).await; // long enough for any redelivery
        let expected: BTreeMap<String, usize> = all.iter().map(|number| (number.to_string(), 1)).collect();
        assert_eq!(journal.times(), expected, "{library:?}");
        assert!(put_again > 50, "{library:?}: the aggregates hold records of both children: {put_again}");
        assert_eq!(filtered(&member), put_again, "{library:?}");
    }
}
