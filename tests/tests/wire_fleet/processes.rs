//! The processes of the wire runs, their input, and their journals.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_kinesis::types::{Shard, StreamStatus};
use end_to_end_tests::local_servers::Endpoints;
use end_to_end_tests::programs::program;
use examples::{JournalLine, WordTotals};
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Consistency, LeaseStore as _};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::{APPLICATION, FAILOVER_TIME, LIMIT, STREAM, Volume};

/// A receiver process and its journal.
pub(crate) struct Counter {
    pub(crate) name: String,
    pub(crate) process: Child,
}

impl Counter {
    pub(crate) fn start(index: usize, endpoints: &Endpoints, directory: &Path) -> Self {
        let name = format!("counter-{index}");
        let process = logging_program("kinesis_word_count", &name, directory)
            .args(["--stream", STREAM, "--application", APPLICATION, "--worker-id", &name])
            .args(["--endpoint-url", &endpoints.kinesis, "--dynamodb-endpoint-url", &endpoints.dynamodb])
            .args(["--receivers", "1", "--failover-time-ms", &FAILOVER_TIME.as_millis().to_string()])
            .arg("--journal")
            .arg(directory.join(format!("{name}.journal")))
            .spawn()
            .unwrap();
        Self { name, process }
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.process.id().expect("the process runs").to_string();
        assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
    }

    pub(crate) async fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM").await;
        tokio::time::timeout(LIMIT, self.process.wait())
            .await
            .expect("the process ends after SIGTERM")
            .unwrap()
            .code()
    }
}

/// Waits until these processes hold all unfinished leases in even shares and no lease has changed its owner for the
/// fail-over time.
pub(crate) async fn wait_until_balanced(endpoints: &Endpoints, counters: &[Counter]) {
    let store = DynamoDbLeaseStore::new(endpoints.dynamodb_client(), APPLICATION).unwrap();
    let started_at = Instant::now();
    let (mut owners_before, mut since) = (BTreeMap::new(), Instant::now());
    loop {
        // Before the table exists the fleet is not balanced.
        let mut leases = store.list(Consistency::Strong).await.unwrap_or_default().leases;
        leases.retain(|lease| !lease.is_finished());
        let owners: BTreeMap<String, String> = leases
            .iter()
            .filter_map(|lease| Some((lease.shard_id.to_string(), lease.owner.as_ref()?.to_string())))
            .collect();
        // Each process runs one receiver, named after it.
        let held =
            |counter: &Counter| owners.values().filter(|owner| owner.starts_with(&counter.name)).count();
        let loads: Vec<usize> = counters.iter().map(held).collect();
        let is_even = loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1;
        let all_are_held = !leases.is_empty() && loads.iter().sum::<usize>() == leases.len();
        if !all_are_held || !is_even || owners != owners_before {
            (owners_before, since) = (owners, Instant::now());
        } else if since.elapsed() > FAILOVER_TIME {
            println!("   balanced with {loads:?} leases after {:.1} s", started_at.elapsed().as_secs_f64());
            return;
        }
        assert!(started_at.elapsed() < LIMIT, "the fleet does not become balanced: {owners_before:?}");
        sleep(Duration::from_millis(250)).await;
    }
}

pub(crate) fn producer(endpoints: &Endpoints, volume: &Volume, input: &Path, directory: &Path) -> Child {
    logging_program("word_producer", "producer", directory)
        .args(["--stream", STREAM, "--endpoint-url", &endpoints.kinesis])
        .args(["--record-bytes", &volume.record_bytes.to_string()])
        .args(["--records-per-second", &volume.records_per_second.to_string()])
        .arg("--input")
        .arg(input)
        .arg("--totals")
        .arg(directory.join("totals.json"))
        .spawn()
        .unwrap()
}

/// One of the example programs, with its log in a file.
pub(crate) fn logging_program(program_name: &str, name: &str, directory: &Path) -> Command {
    let log = fs::File::create(directory.join(format!("{name}.log"))).unwrap();
    let mut command = program(program_name);
    command.stdout(log.try_clone().unwrap()).stderr(Stdio::from(log));
    command
}

pub(crate) fn fresh_directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wire-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Real text: the readmes, licences and change logs of the crates in the cargo registry.
pub(crate) fn real_text(bytes: usize) -> Vec<u8> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).unwrap();
    let mut files = Vec::new();
    collect_text(&home.join("registry/src"), 4, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no readmes under {}", home.display());
    let texts: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let mut all = Vec::new();
    // Repeats the text if it is too short: words repeat anyway, and each record is distinct.
    for text in texts.iter().cycle() {
        if all.len() >= bytes {
            break;
        }
        all.extend_from_slice(text);
        all.push(b'\n');
    }
    all
}

pub(crate) fn collect_text(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_uppercase());
        if path.is_dir() && depth > 0 {
            collect_text(&path, depth - 1, files);
        } else if path.is_file()
            && ["README", "LICENSE", "CHANGELOG", "COPYING"].iter().any(|kind| name.starts_with(kind))
        {
            files.push(path);
        }
    }
}

pub(crate) async fn create_stream(endpoints: &Endpoints, shard_count: i32) {
    let client = endpoints.kinesis_client();
    client.create_stream().stream_name(STREAM).shard_count(shard_count).send().await.unwrap();
    wait_until_active(endpoints).await;
}

pub(crate) async fn wait_until_active(endpoints: &Endpoints) {
    let client = endpoints.kinesis_client();
    let deadline = Instant::now() + LIMIT;
    loop {
        let summary = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if summary.stream_description_summary.unwrap().stream_status == StreamStatus::Active {
            return;
        }
        assert!(Instant::now() < deadline, "the stream does not become active");
        sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn split_and_merge(endpoints: &Endpoints) {
    let client = endpoints.kinesis_client();
    let shards = client.list_shards().stream_name(STREAM).send().await.unwrap().shards.unwrap();
    let range = |shard: &Shard| {
        let range = shard.hash_key_range.as_ref().unwrap();
        (range.starting_hash_key.parse::<u128>().unwrap(), range.ending_hash_key.parse::<u128>().unwrap())
    };
    let (start, end) = range(&shards[0]);
    client
        .split_shard()
        .stream_name(STREAM)
        .shard_to_split(&shards[0].shard_id)
        .new_starting_hash_key((start + (end - start) / 2 + 1).to_string())
        .send()
        .await
        .unwrap();
    wait_until_active(endpoints).await;
    client
        .merge_shards()
        .stream_name(STREAM)
        .shard_to_merge(&shards[2].shard_id)
        .adjacent_shard_to_merge(&shards[3].shard_id)
        .send()
        .await
        .unwrap();
    wait_until_active(endpoints).await;
}

/// The journals of all receiver processes. A line that a killed process wrote in part is skipped.
pub(crate) fn journals(directory: &Path) -> BTreeMap<PathBuf, Vec<JournalLine>> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let journals = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (path, lines)
    };
    journals.map(read).collect()
}

pub(crate) type RecordId = (String, String, u64);

pub(crate) fn record_id(line: &JournalLine) -> RecordId {
    (line.shard_id.clone(), line.sequence_number.clone(), line.sub_sequence_number)
}

/// Waits until this many different records are in the journals.
pub(crate) async fn wait_for_records(directory: &Path, count: usize) {
    let started_at = Instant::now();
    let mut seen = HashSet::new();
    loop {
        for lines in journals(directory).values() {
            seen.extend(lines.iter().map(record_id));
        }
        if seen.len() >= count {
            println!("   {} records after {:.1} s", seen.len(), started_at.elapsed().as_secs_f64());
            return;
        }
        let logs = directory.display();
        assert!(started_at.elapsed() < LIMIT, "only {} of {count} records; logs are in {logs}", seen.len());
        sleep(Duration::from_millis(250)).await;
    }
}

#[derive(Deserialize)]
pub(crate) struct ProducerTotals {
    pub(crate) records: usize,
    pub(crate) words: WordTotals,
}

/// Compares the words of all different records with the totals of the producer. Returns a summary, and the number of
/// redeliveries.
pub(crate) fn check_words(directory: &Path) -> (String, usize) {
    let put: ProducerTotals =
        serde_json::from_slice(&fs::read(directory.join("totals.json")).unwrap()).unwrap();
    let (mut counted, mut seen, mut again) = (WordTotals::default(), HashSet::new(), 0);
    for line in journals(directory).into_values().flatten() {
        if seen.insert(record_id(&line)) {
            counted.add_text(&line.text);
        } else {
            again += 1;
        }
    }
    assert_eq!(seen.len(), put.records, "records");
    let differences = put.words.differences(&counted);
    assert!(differences.is_empty(), "words differ: {:?}", differences.iter().take(5).collect::<Vec<_>>());
    (format!("{} records, {} words, all counted", put.records, put.words.words()), again)
}

/// Records of a terminated process that another process delivered after its end.
pub(crate) fn redelivered_after_termination(
    directory: &Path,
    name: &str,
    when_terminated: &BTreeMap<PathBuf, usize>,
) -> Vec<RecordId> {
    let journals = journals(directory);
    let own = journals.iter().find(|(path, _)| path.file_stem().is_some_and(|stem| stem == name)).unwrap().1;
    let own: HashSet<RecordId> = own.iter().map(record_id).collect();
    let later =
        journals.iter().flat_map(|(path, lines)| &lines[when_terminated.get(path).copied().unwrap_or(0)..]);
    later.map(record_id).filter(|id| own.contains(id)).collect()
}
