//! A stream, its servers, and daemons with children: the stage of the tests of the daemon.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it
#![allow(missing_debug_implementations)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::journal::{Entry, Event, entries};
use crate::interop::lease_rows::{LeaseRows, lease_rows};
use crate::interop::producer::put_padded_numbers;
use crate::interop::resharding::create_stream;
use crate::interop::wait_for;
use crate::local_servers::{Endpoints, InProcessServers, REGION};
use crate::programs::{built, program};

/// The limit for each step of a test.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The time without a renewal after which a lease may be taken: long, so that a busy machine loses no lease. A test of a fail-over sets
/// a shorter one.
pub const FAILOVER_MILLIS: u64 = 10_000;

/// The most records of a put.
const RECORDS_PER_PUT: usize = 500;

const STREAM: &str = "numbers";

/// A stream of numbers and the application that reads it.
pub struct Scene {
    /// The servers.
    pub endpoints: Endpoints,
    /// Where the files of the test are.
    pub directory: PathBuf,
    /// The name of the application, which is also that of the lease table.
    pub application: String,
    put: usize,
    _servers: InProcessServers,
}

/// A running daemon.
pub struct Daemon {
    /// Its process.
    pub process: Child,
    log: PathBuf,
    journal: PathBuf,
}

impl Scene {
    /// Fresh servers with a stream of this many shards.
    pub async fn new(name: &str, shards: i32) -> Self {
        let servers = InProcessServers::start_for_java().await.unwrap();
        let endpoints = servers.endpoints().clone();
        create_stream(&endpoints, STREAM, shards).await;
        let directory = built("daemon_child").ancestors().nth(2).unwrap().join(format!("tmp/daemon-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        Self { endpoints, directory, application: format!("daemon-{name}"), put: 0, _servers: servers }
    }

    /// The name of the stream.
    pub fn stream(&self) -> &'static str {
        STREAM
    }

    /// Puts this many further numbers.
    pub async fn put(&mut self, count: usize) {
        self.put_padded(count, 0).await;
    }

    /// Puts this many further numbers in records of at least this many bytes.
    pub async fn put_padded(&mut self, count: usize, bytes: usize) {
        let client = self.endpoints.kinesis_client();
        let end = self.put + count;
        while self.put < end {
            let next = end.min(self.put + RECORDS_PER_PUT);
            put_padded_numbers(&client, STREAM, self.put..next, bytes).await;
            self.put = next;
        }
    }

    /// The numbers that were put: all below this.
    pub fn count(&self) -> usize {
        self.put
    }

    /// Writes a properties file whose children have this script. Later lines replace earlier ones.
    pub fn properties(&self, worker: &str, script: &str, lines: &str) -> PathBuf {
        let child =
            format!("{} {} {script}", built("daemon_child").display(), self.journal(worker).display());
        self.properties_of(worker, &child, lines)
    }

    /// Writes a properties file with children of this command.
    pub fn properties_of(&self, worker: &str, child: &str, lines: &str) -> PathBuf {
        let Self { endpoints: Endpoints { kinesis, dynamodb }, application, .. } = self;
        let text = format!(
            "executableName = {child}\napplicationName = {application}\nstreamName = {STREAM}\nworkerId = {worker}\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\nregionName = {REGION}\nkinesisEndpoint = {kinesis}\n\
             dynamoDBEndpoint = {dynamodb}\ninitialPositionInStream = TRIM_HORIZON\nretrievalMode = POLLING\n\
             metricsLevel = NONE\nfailoverTimeMillis = {FAILOVER_MILLIS}\nidleTimeBetweenReadsInMillis = 250\n{lines}\n"
        );
        let path = self.directory.join(format!("{worker}.properties"));
        fs::write(&path, text).unwrap();
        path
    }

    fn journal(&self, worker: &str) -> PathBuf {
        self.directory.join(format!("{worker}.journal"))
    }

    /// Starts a daemon whose children have this script.
    pub fn start(&self, worker: &str, script: &str, lines: &str) -> Daemon {
        let properties = self.properties(worker, script, lines);
        let mut command = program("kinesis-streaming");
        command.args(["daemon", "--properties-file"]).arg(properties);
        self.spawn(worker, command)
    }

    /// Starts a daemon by this command.
    pub fn spawn(&self, worker: &str, mut command: Command) -> Daemon {
        let log = self.directory.join(format!("{worker}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(Stdio::from(file)).kill_on_drop(true);
        Daemon { process: command.spawn().unwrap(), log, journal: self.journal(worker) }
    }

    /// Starts a daemon by this command, and returns its standard output.
    pub fn spawn_piped(&self, worker: &str, mut command: Command) -> (Daemon, ChildStdout) {
        let log = self.directory.join(format!("{worker}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stdout(Stdio::piped()).stderr(Stdio::from(file)).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        (Daemon { process, log, journal: self.journal(worker) }, stdout)
    }

    /// Starts a daemon by this command, and returns its standard error, where its log is.
    pub fn spawn_with_log(&self, worker: &str, mut command: Command) -> (Daemon, ChildStderr) {
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stderr = process.stderr.take().unwrap();
        let log = self.directory.join(format!("{worker}.log"));
        (Daemon { process, log, journal: self.journal(worker) }, stderr)
    }

    /// All journals, in no order between daemons.
    pub fn entries(&self) -> Vec<Entry> {
        let files = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        let journals = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
        journals.flat_map(|path| entries(&path).unwrap()).collect()
    }

    /// How often each number was delivered.
    pub fn deliveries(&self) -> BTreeMap<usize, usize> {
        let mut deliveries = BTreeMap::new();
        for number in self.entries().iter().filter_map(number_of) {
            *deliveries.entry(number).or_default() += 1;
        }
        deliveries
    }

    /// Waits until every number that was put has been delivered.
    pub async fn wait_for_all(&self) {
        wait_for("every number is delivered", LIMIT, async || {
            let count = self.deliveries().len();
            if count == self.put { Ok(()) } else { Err(format!("{count} of {}", self.put)) }
        })
        .await;
    }

    /// The rows of the lease table; none before it exists.
    pub async fn rows(&self) -> LeaseRows {
        lease_rows(&self.endpoints.dynamodb_client(), &self.application).await.unwrap_or_default()
    }

    /// Waits until the leases satisfy a condition.
    pub async fn wait_for_rows(&self, what: &str, is_met: impl Fn(&LeaseRows) -> bool) -> LeaseRows {
        wait_for(what, LIMIT, async || {
            let rows = self.rows().await;
            if is_met(&rows) { Ok(rows) } else { Err(format!("{rows:?}")) }
        })
        .await
    }

    /// The last number's sequence number of each shard, as delivered.
    pub fn last_delivered(&self) -> BTreeMap<String, String> {
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for Entry { shard, event, .. } in self.entries() {
            if let Event::Record { sequence_number, .. } = event {
                let before = last.entry(shard).or_default();
                // All sequence numbers of the server have the same length.
                *before = sequence_number.max(std::mem::take(before));
            }
        }
        last
    }
}

/// The number of a delivered record.
pub fn number_of(entry: &Entry) -> Option<usize> {
    match entry.event {
        Event::Record { number, .. } => Some(number),
        _ => None,
    }
}

impl Daemon {
    /// Sends it a signal.
    pub async fn signal(&self, signal: &str) {
        let id = self.process.id().unwrap();
        send_signal(signal, &id.to_string()).await;
    }

    /// Waits for its end, and returns the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let status = timeout(LIMIT, self.process.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end; see {}", self.log.display()));
        status.unwrap().code()
    }

    /// Asks it to end, and waits for that.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM").await;
        self.ended().await
    }

    /// Its output so far: the log, and what its children print.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until its log has these words.
    pub async fn wait_for_log(&self, words: &str) {
        wait_for(words, LIMIT, async || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// The journal of its children.
    pub fn entries(&self) -> Vec<Entry> {
        entries(&self.journal).unwrap()
    }

    /// Waits until its children have this many events of a kind.
    pub async fn wait_for(&self, what: &str, count: usize, is_meant: impl Fn(&Event) -> bool) {
        wait_for(what, LIMIT, async || {
            let found = self.entries().iter().filter(|entry| is_meant(&entry.event)).count();
            if found >= count {
                Ok(())
            } else {
                Err(format!("{found} of {count}; see {}", self.log.display()))
            }
        })
        .await;
    }

    /// The events of each child, in order, without records.
    pub fn dialogues(&self) -> BTreeMap<(String, u32), Vec<Event>> {
        let mut dialogues: BTreeMap<(String, u32), Vec<Event>> = BTreeMap::new();
        for Entry { process, shard, event } in self.entries() {
            let dialogue = dialogues.entry((shard, process)).or_default();
            if !matches!(event, Event::Record { .. }) {
                dialogue.push(event);
            }
        }
        dialogues
    }
}

/// Sends a signal to a process, or to a group with a leading minus.
pub async fn send_signal(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, "--", id]).status().await.unwrap().success());
}

/// Whether a process exists and has not exited. One that its parent has not waited for yet counts as exited.
pub fn is_running(process: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    status.is_ok_and(|status| !status.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}
