//! A stream, its servers, and daemons with scripted children.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use end_to_end_tests::daemon::journal::{Entry, Event, entries};
use end_to_end_tests::interop::lease_rows::{LeaseRows, lease_rows};
use end_to_end_tests::interop::producer::put_numbers;
use end_to_end_tests::interop::resharding::create_stream;
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::local_servers::{Endpoints, InProcessServers, REGION};
use end_to_end_tests::programs::{built, program};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The limit for each step of a test.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The time without a renewal after which a lease may be taken.
pub(crate) const FAILOVER_MILLIS: u64 = 2000;

/// The most records of a put.
const RECORDS_PER_PUT: usize = 500;

const STREAM: &str = "numbers";

/// A stream of numbers and the application that reads it.
pub(crate) struct Scene {
    pub(crate) endpoints: Endpoints,
    pub(crate) directory: PathBuf,
    pub(crate) application: String,
    put: usize,
    _servers: InProcessServers,
}

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) process: Child,
    log: PathBuf,
    journal: PathBuf,
}

impl Scene {
    /// Fresh servers with a stream of this many shards.
    pub(crate) async fn new(name: &str, shards: i32) -> Self {
        let servers = InProcessServers::start_for_java().await.unwrap();
        let endpoints = servers.endpoints().clone();
        create_stream(&endpoints, STREAM, shards).await;
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("daemon-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        Self { endpoints, directory, application: format!("daemon-{name}"), put: 0, _servers: servers }
    }

    pub(crate) fn stream(&self) -> &'static str {
        STREAM
    }

    /// Puts this many further numbers.
    pub(crate) async fn put(&mut self, count: usize) {
        let client = self.endpoints.kinesis_client();
        let end = self.put + count;
        while self.put < end {
            let next = end.min(self.put + RECORDS_PER_PUT);
            put_numbers(&client, STREAM, self.put..next).await;
            self.put = next;
        }
    }

    /// Writes a properties file whose children have this script. Later lines replace earlier ones.
    pub(crate) fn properties(&self, worker: &str, script: &str, lines: &str) -> PathBuf {
        let child = built("daemon_child");
        let journal = self.journal(worker);
        let Self { endpoints: Endpoints { kinesis, dynamodb }, application, .. } = self;
        let text = format!(
            "executableName = {} {} {script}\napplicationName = {application}\nstreamName = {STREAM}\nworkerId = {worker}\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\nregionName = {REGION}\nkinesisEndpoint = {kinesis}\n\
             dynamoDBEndpoint = {dynamodb}\ninitialPositionInStream = TRIM_HORIZON\nretrievalMode = POLLING\n\
             metricsLevel = NONE\nfailoverTimeMillis = {FAILOVER_MILLIS}\nidleTimeBetweenReadsInMillis = 250\n{lines}\n",
            child.display(),
            journal.display()
        );
        let path = self.directory.join(format!("{worker}.properties"));
        fs::write(&path, text).unwrap();
        path
    }

    fn journal(&self, worker: &str) -> PathBuf {
        self.directory.join(format!("{worker}.journal"))
    }

    /// Starts a daemon whose children have this script.
    pub(crate) fn start(&self, worker: &str, script: &str, lines: &str) -> Daemon {
        let properties = self.properties(worker, script, lines);
        let mut command = program("kinesis-streaming");
        command.args(["daemon", "--properties-file"]).arg(properties);
        self.spawn(worker, command)
    }

    /// Starts a daemon by this command.
    pub(crate) fn spawn(&self, worker: &str, mut command: Command) -> Daemon {
        let log = self.directory.join(format!("{worker}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(Stdio::from(file)).kill_on_drop(true);
        Daemon { process: command.spawn().unwrap(), log, journal: self.journal(worker) }
    }

    /// All journals, in no order between daemons.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let files = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        let journals = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
        journals.flat_map(|path| entries(&path).unwrap()).collect()
    }

    /// How often each number was delivered.
    pub(crate) fn deliveries(&self) -> BTreeMap<usize, usize> {
        let mut deliveries = BTreeMap::new();
        for number in self.entries().iter().filter_map(number_of) {
            *deliveries.entry(number).or_default() += 1;
        }
        deliveries
    }

    /// Waits until every number that was put has been delivered.
    pub(crate) async fn wait_for_all(&self) {
        wait_for("every number is delivered", LIMIT, async || {
            let count = self.deliveries().len();
            if count == self.put { Ok(()) } else { Err(format!("{count} of {}", self.put)) }
        })
        .await;
    }

    pub(crate) async fn rows(&self) -> LeaseRows {
        lease_rows(&self.endpoints.dynamodb_client(), &self.application).await.unwrap_or_default()
    }

    /// Waits until the leases satisfy a condition.
    pub(crate) async fn wait_for_rows(&self, what: &str, is_met: impl Fn(&LeaseRows) -> bool) -> LeaseRows {
        wait_for(what, LIMIT, async || {
            let rows = self.rows().await;
            if is_met(&rows) { Ok(rows) } else { Err(format!("{rows:?}")) }
        })
        .await
    }

    /// The last number's sequence number of each shard, as delivered.
    pub(crate) fn last_delivered(&self) -> BTreeMap<String, String> {
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

pub(crate) fn number_of(entry: &Entry) -> Option<usize> {
    match entry.event {
        Event::Record { number, .. } => Some(number),
        _ => None,
    }
}

impl Daemon {
    /// Sends it a signal.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.process.id().unwrap();
        send_signal(signal, &id.to_string()).await;
    }

    /// Waits for its end, and returns the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let status = timeout(LIMIT, self.process.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end; see {}", self.log.display()));
        status.unwrap().code()
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM").await;
        self.ended().await
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until its log has these words.
    pub(crate) async fn wait_for_log(&self, words: &str) {
        wait_for(words, LIMIT, async || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        entries(&self.journal).unwrap()
    }

    /// Waits until its children have this many events of a kind.
    pub(crate) async fn wait_for(&self, what: &str, count: usize, is_meant: impl Fn(&Event) -> bool) {
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
    pub(crate) fn dialogues(&self) -> BTreeMap<(String, u32), Vec<Event>> {
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
pub(crate) async fn send_signal(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, "--", id]).status().await.unwrap().success());
}

/// Whether a process exists and has not exited. One that its parent has not waited for yet counts as exited.
pub(crate) fn is_running(process: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"));
    status.is_ok_and(|status| !status.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}
