//! A run: workers start and end on one lease table while records flow, and everything is recorded.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::deliveries::{Deliveries, Delivery, now_millis};
use super::java_daemon::Application;
use super::lease_history::LeaseHistory;
use super::lease_rows::{KclPosition, LeaseRow, LeaseRows, lease_rows};
use super::producer::Producer;
use super::resharding::{create_stream, merge_two_shards, split_a_shard};
use super::wait_for;
use super::workers::{Ended, Kind, Worker, Workers};
use crate::local_servers::Endpoints;

/// The limit for each step of a run. A Java worker steals one lease in twice the fail-over time, and starts within a few
/// seconds on a table that is not empty.
const LIMIT: Duration = Duration::from_secs(120);

/// Before a worker is killed or stopped, no lease has changed its owner for this and the fail-over time. A worker may take
/// that long to notice a lost lease, so deliveries after it are usually by owners.
const QUIET_BEFORE_END: Duration = Duration::from_secs(1);

/// A fleet without a move for this long is balanced: a Java worker scans for leases in twice the fail-over time, and may
/// need a second scan.
const FAILOVER_TIMES_OF_QUIET: u32 = 5;

/// A worker with this many deliveries counts as running.
const MIN_DELIVERED_RECORDS: usize = 50;

/// A killed worker and its leases.
#[derive(Debug)]
pub struct KilledWorker {
    /// The worker.
    pub ended: Ended,
    /// Its unfinished shards and their checkpoints.
    pub checkpoints: BTreeMap<String, KclPosition>,
}

/// The size of a run.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    /// The number of records.
    pub records: usize,
    /// The records per second while workers start and end.
    pub records_per_second: usize,
    /// The initial number of shards.
    pub shards: i32,
}

/// A run of one application on one stream.
#[derive(Debug)]
pub struct TestRun {
    started_at: Instant,
    application: Application,
    volume: Volume,
    workers: Workers,
    producer: Producer,
    deliveries: Deliveries,
    /// The history of the lease table.
    pub history: LeaseHistory,
    /// The workers that have ended.
    pub ended: Vec<Ended>,
    /// The killed workers among them.
    pub killed_workers: Vec<KilledWorker>,
}

impl TestRun {
    /// Creates the stream and starts to put records.
    ///
    /// # Panics
    /// When the stream cannot be created.
    pub async fn new(application: Application, jars: PathBuf, volume: Volume) -> Self {
        let endpoints = &application.endpoints;
        create_stream(endpoints, &application.stream, volume.shards).await;
        let Volume { records, records_per_second, .. } = volume;
        Self {
            started_at: Instant::now(),
            producer: Producer::start(
                endpoints.kinesis_client(),
                &application.stream,
                records,
                records_per_second,
            ),
            history: LeaseHistory::watch(endpoints.dynamodb_client(), &application.name),
            deliveries: Deliveries::new(&application.directory),
            workers: Workers::new(application.clone(), jars),
            application,
            volume,
            ended: Vec::new(),
            killed_workers: Vec::new(),
        }
    }

    /// Prints a line with the time since the start.
    pub fn log(&self, what: &str) {
        println!("   {:>5.1} s  {what}", self.started_at.elapsed().as_secs_f64());
    }

    /// The directory with the logs of the workers.
    pub fn directory(&self) -> &Path {
        &self.application.directory
    }

    /// The servers.
    pub fn endpoints(&self) -> &Endpoints {
        &self.application.endpoints
    }

    /// The settings of the workers that start from now on.
    pub fn workers(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// The lease table as it is now.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn rows(&self) -> LeaseRows {
        self.read_table().await.unwrap()
    }

    async fn read_table(&self) -> Result<LeaseRows, String> {
        lease_rows(&self.application.endpoints.dynamodb_client(), &self.application.name).await
    }

    /// Starts a worker.
    pub fn start(&mut self, kind: Kind) -> Worker {
        let worker = self.workers.start(kind);
        self.log(&format!("{} starts", worker.name));
        worker
    }

    /// Waits until these workers together own the leases of all unfinished shards, each owns at least `least` of them or all
    /// there are, and each has delivered records.
    ///
    /// # Panics
    /// When that takes too long, or all records are put before.
    pub async fn wait_for_shares(&mut self, what: &str, workers: &[&Worker], least: usize) {
        let waited_for = self.in_words(what);
        let shares = wait_for(&waited_for, LIMIT, async || {
            let rows = self.read_table().await?;
            let open: Vec<&LeaseRow> = rows.values().filter(|row| !row.checkpoint.is_shard_end()).collect();
            let share =
                |worker: &&Worker| open.iter().filter(|row| row.owner.as_ref() == Some(&worker.name)).count();
            let shares: Vec<usize> = workers.iter().map(share).collect();
            let is_complete = !open.is_empty() && shares.iter().sum::<usize>() == open.len();
            if is_complete && shares.iter().all(|share| *share >= least.min(open.len())) {
                return Ok(shares);
            }
            Err(format!("{shares:?} of {rows:#?}"))
        })
        .await;
        self.check_flowing(what);
        let shares: Vec<String> =
            workers.iter().zip(shares).map(|(worker, share)| format!("{} {share}", worker.name)).collect();
        self.log(&format!("{what}: {}", shares.join(", ")));
        for worker in workers {
            self.wait_until_delivering(worker).await;
        }
    }

    async fn wait_until_delivering(&mut self, worker: &Worker) {
        let waited_for = self.in_words(&format!("{} has delivered records", worker.name));
        let deliveries = &mut self.deliveries;
        wait_for(&waited_for, LIMIT, async || {
            let all = deliveries.refresh().map_err(|error| error.to_string())?;
            let count = all.iter().filter(|delivery| delivery.worker == worker.name).count();
            if count >= MIN_DELIVERED_RECORDS { Ok(()) } else { Err(format!("{count} are delivered")) }
        })
        .await;
    }

    /// Waits until the fleet is balanced and no lease changes its owner any more.
    ///
    /// # Panics
    /// When that takes too long, or all records are put before.
    pub async fn wait_until_balanced(&self) {
        let started_at = Instant::now();
        self.wait_until_quiet(self.application.failover_time * FAILOVER_TIMES_OF_QUIET).await;
        self.check_flowing("the fleet is balanced");
        self.log(&format!("balanced after {:.1} s", started_at.elapsed().as_secs_f64()));
    }

    async fn wait_until_quiet(&self, quiet: Duration) {
        let waited_for = self.in_words(&format!("no lease has changed its owner for {quiet:?}"));
        wait_for(&waited_for, LIMIT, async || {
            let last = self.history.last_owner_change_millis().ok_or("there are no leases")?;
            let since = now_millis().saturating_sub(last);
            if since >= quiet.as_millis() { Ok(()) } else { Err(format!("one changed {since} ms ago")) }
        })
        .await;
    }

    /// Waits until the leases of ended shards are deleted, so that no worker counts them as part of its share.
    ///
    /// # Panics
    /// When they are not deleted.
    pub async fn wait_for_clean_table(&self) {
        let waited_for = self.in_words("the leases of ended shards are cleaned up");
        wait_for(&waited_for, LIMIT, async || {
            let rows = self.read_table().await?;
            let is_clean = rows.values().all(|row| !row.checkpoint.is_shard_end());
            if is_clean { Ok(()) } else { Err(format!("{rows:#?}")) }
        })
        .await;
        self.log("the leases of ended shards are cleaned up");
    }

    /// Splits a shard and merges two. Waits until the parents were read to their end and name their children, and the
    /// children have owners. The parents' rows may be deleted by then.
    ///
    /// # Panics
    /// When that takes too long, or all records are put before.
    pub async fn reshard(&mut self, what: &str) {
        self.check_flowing(what);
        let Application { endpoints, stream, .. } = &self.application;
        let split = split_a_shard(endpoints, stream).await;
        let [left, right] = merge_two_shards(endpoints, stream, &split).await;
        let parents = [(split, 2), (left, 1), (right, 1)];
        let waited_for = self.in_words(what);
        let children: Vec<BTreeSet<String>> = wait_for(&waited_for, LIMIT, async || {
            let rows = self.history.last_seen();
            let children_of = |(parent, count): &(String, usize)| {
                let lease = rows.get(parent)?;
                let has_started = |child: &String| {
                    let child = rows.get(child);
                    child.is_some_and(|child| child.parents.contains(parent) && child.owner.is_some())
                };
                let is_done = lease.checkpoint.is_shard_end()
                    && lease.children.len() == *count
                    && lease.children.iter().all(has_started);
                is_done.then(|| lease.children.clone())
            };
            let children: Option<Vec<_>> = parents.iter().map(children_of).collect();
            children.ok_or_else(|| format!("{parents:?} are not finished: {rows:#?}"))
        })
        .await;
        let short = |shard: &str| shard.trim_start_matches("shardId-").trim_start_matches('0').to_owned();
        let descent: Vec<String> = parents
            .iter()
            .zip(&children)
            .map(|((parent, _), children)| {
                let children: Vec<String> = children.iter().map(|child| short(child)).collect();
                format!("{:0>1} into {}", short(parent), children.join(" and "))
            })
            .collect();
        self.log(&format!("{what}: shard {}", descent.join(", ")));
    }

    /// Kills a worker and records its leases.
    ///
    /// # Panics
    /// When it had no lease, or all records are put before.
    pub async fn kill(&mut self, worker: Worker, what: &str) {
        self.wait_until_checkpointed(&worker).await;
        self.wait_until_quiet(self.application.failover_time + QUIET_BEFORE_END).await;
        self.check_flowing(what);
        let ended = worker.kill().await;
        // A write in flight may still arrive.
        let mut before = LeaseRows::new();
        let rows = wait_for("the last write of the killed worker has arrived", LIMIT, async || {
            let mut rows = self.read_table().await?;
            rows.retain(|_, row| row.owner.as_ref() == Some(&ended.name));
            let has_settled = rows == before;
            before = rows.clone();
            if has_settled { Ok(rows) } else { Err("the rows still change".to_owned()) }
        })
        .await;
        let checkpoints: BTreeMap<String, KclPosition> = rows
            .into_iter()
            .filter(|(_, row)| !row.checkpoint.is_shard_end())
            .map(|(shard, row)| (shard, row.checkpoint))
            .collect();
        assert!(!checkpoints.is_empty(), "{} had no shard", ended.name);
        self.log(&format!("{what}: {} had {} shards", ended.name, checkpoints.len()));
        self.ended.push(ended.clone());
        self.killed_workers.push(KilledWorker { ended, checkpoints });
    }

    /// Waits until a worker has checkpointed each of its unfinished shards, so that an heir resumes from a checkpoint of
    /// this worker.
    async fn wait_until_checkpointed(&self, worker: &Worker) {
        let waited_for = self.in_words(&format!("{} has checkpointed each of its shards", worker.name));
        wait_for(&waited_for, LIMIT, async || {
            for (shard, row) in self.read_table().await? {
                if row.owner.as_ref() == Some(&worker.name) {
                    let start = self.history.start_of_owner_at(&shard, now_millis());
                    let start = start.unwrap_or_else(|| KclPosition::new("TRIM_HORIZON", 0));
                    if row.checkpoint <= start {
                        return Err(format!("{shard} is still at {start}"));
                    }
                }
            }
            Ok(())
        })
        .await;
    }

    /// Stops a worker in order.
    ///
    /// # Panics
    /// When it does not end in order.
    pub async fn stop(&mut self, worker: Worker) {
        self.wait_until_quiet(self.application.failover_time + QUIET_BEFORE_END).await;
        let started_at = Instant::now();
        let ended = worker.stop().await;
        self.log(&format!("{} has stopped in {:.1} s", ended.name, started_at.elapsed().as_secs_f64()));
        self.ended.push(ended);
    }

    /// Waits until the log of a worker has this text.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn wait_for_log(&self, what: &str, worker: &Worker, text: &str) {
        self.wait_for_log_within(LIMIT, what, worker, text).await;
    }

    /// The same with a limit of its own.
    ///
    /// # Panics
    /// When the limit passes.
    pub async fn wait_for_log_within(&self, limit: Duration, what: &str, worker: &Worker, text: &str) {
        let waited_for = self.in_words(&format!("{} logs {text:?}", worker.name));
        wait_for(&waited_for, limit, async || {
            let log = worker.log_text();
            if log.contains(text) { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
        })
        .await;
        self.log(what);
    }

    /// Starts a worker that has to refuse the lease table, and returns its log.
    ///
    /// # Panics
    /// When it does not end, or ends with success.
    pub async fn start_refused(&mut self, kind: Kind) -> String {
        let mut worker = self.start(kind);
        let waited_for = self.in_words(&format!("{} ends by itself", worker.name));
        let status = wait_for(&waited_for, LIMIT, async || {
            worker.ended_by_itself().ok_or_else(|| "it runs".to_owned())
        })
        .await;
        assert!(!status.success(), "{} ended with success", worker.name);
        self.log(&format!("{} is refused", worker.name));
        worker.log_text()
    }

    /// Puts the remaining records and waits until all are delivered. Returns how many were put before.
    ///
    /// # Panics
    /// When that takes too long; the message has the number of delivered records.
    pub async fn put_the_rest(&mut self) -> usize {
        let flowed = self.producer.put();
        let total = self.volume.records;
        self.producer.finish(total).await;
        let waited_for = self.in_words("all records are delivered");
        let deliveries = &mut self.deliveries;
        wait_for(&waited_for, LIMIT, async || {
            let all = deliveries.refresh().map_err(|error| error.to_string())?;
            let numbers: HashSet<usize> = all.iter().map(|delivery| delivery.number).collect();
            if numbers.len() == total { Ok(()) } else { Err(format!("{} of {total} are", numbers.len())) }
        })
        .await;
        flowed
    }

    /// All deliveries so far, in the order of time.
    ///
    /// # Panics
    /// When a file cannot be read.
    pub fn deliveries(&mut self) -> &[Delivery] {
        self.deliveries.refresh().unwrap()
    }

    /// The steps of a test must happen while records flow.
    fn check_flowing(&self, what: &str) {
        let put = self.producer.put();
        assert!(
            put < self.volume.records,
            "all {put} records were put before: {what}; raise the number of records"
        );
    }

    fn in_words(&self, what: &str) -> String {
        format!("{what} (logs are in {})", self.directory().display())
    }
}
