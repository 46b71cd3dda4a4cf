//! A run: workers that come and go on one table while records flow, and everything that is noted of it.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::deliveries::{Deliveries, Delivery, now_millis};
use super::java_daemon::Application;
use super::lease_history::LeaseHistory;
use super::lease_rows::{LeaseRow, LeaseRows, Place, lease_rows};
use super::producer::Producer;
use super::resharding::{create_stream, merge_two_shards, split_a_shard};
use super::wait_for;
use super::workers::{Ended, Kind, Worker, Workers};
use crate::local_servers::Endpoints;

/// How long any single thing may take before the run counts as failed. A Java worker takes one lease from others in twice
/// the fail-over time, and starts in a few seconds on a table that is not empty.
const LIMIT: Duration = Duration::from_secs(120);

/// Before a worker is killed or stopped nothing has moved for this and the fail-over time, which is as long as a worker may
/// take to notice that it lost a lease: what is delivered then is, as a rule, delivered by owners.
const REST_BEFORE_END: Duration = Duration::from_secs(1);

/// A fleet that has moved nothing for so long will move nothing: a Java worker looks for leases to take in twice the
/// fail-over time, and may need a second look.
const FAILOVER_TIMES_OF_REST: u32 = 5;

/// Whoever has delivered so many records takes part in earnest.
const RECORDS_IN_EARNEST: usize = 50;

/// What a killed worker left.
#[derive(Debug)]
pub struct Legacy {
    /// The dead.
    pub dead: Ended,
    /// Its unfinished shards, and how far each is checkpointed.
    pub checkpoints: BTreeMap<String, Place>,
}

/// How much of a run there is.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    /// How many records are put.
    pub records: usize,
    /// How many of them in a second, while workers come and go.
    pub records_per_second: usize,
    /// How many shards the stream starts with.
    pub shards: i32,
}

/// A run of one application on one stream.
#[derive(Debug)]
pub struct Scene {
    started_at: Instant,
    application: Application,
    volume: Volume,
    workers: Workers,
    producer: Producer,
    deliveries: Deliveries,
    /// The table over time.
    pub history: LeaseHistory,
    /// The workers that have ended.
    pub ended: Vec<Ended>,
    /// What the killed ones among them left.
    pub legacies: Vec<Legacy>,
}

impl Scene {
    /// Makes the stream and starts to put records.
    ///
    /// # Panics
    /// When the stream cannot be made.
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
            legacies: Vec::new(),
        }
    }

    /// Prints a line with the time since the start.
    pub fn say(&self, what: &str) {
        println!("   {:>5.1} s  {what}", self.started_at.elapsed().as_secs_f64());
    }

    /// Where the logs of the workers are.
    pub fn directory(&self) -> &Path {
        &self.application.directory
    }

    /// The servers.
    pub fn endpoints(&self) -> &Endpoints {
        &self.application.endpoints
    }

    /// The table as it is now.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn rows(&self) -> LeaseRows {
        self.look().await.unwrap()
    }

    async fn look(&self) -> Result<LeaseRows, String> {
        lease_rows(&self.application.endpoints.dynamodb_client(), &self.application.name).await
    }

    /// Starts a worker.
    pub fn start(&mut self, kind: Kind) -> Worker {
        let worker = self.workers.start(kind);
        self.say(&format!("{} starts", worker.name));
        worker
    }

    /// Waits until these workers together own the leases of all shards that are not read to their end, each at least
    /// `least` of them or all there are, and each has delivered something.
    ///
    /// # Panics
    /// When it does not come to that in time, or not before all records are put.
    pub async fn wait_for_shares(&mut self, what: &str, workers: &[&Worker], least: usize) {
        let waited_for = self.in_words(what);
        let shares = wait_for(&waited_for, LIMIT, async || {
            let rows = self.look().await?;
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
        self.say(&format!("{what}: {}", shares.join(", ")));
        for worker in workers {
            self.wait_until_in_earnest(worker).await;
        }
    }

    async fn wait_until_in_earnest(&mut self, worker: &Worker) {
        let waited_for = self.in_words(&format!("{} has delivered records", worker.name));
        let deliveries = &mut self.deliveries;
        wait_for(&waited_for, LIMIT, async || {
            let all = deliveries.refresh().map_err(|error| error.to_string())?;
            let count = all.iter().filter(|delivery| delivery.worker == worker.name).count();
            if count >= RECORDS_IN_EARNEST { Ok(()) } else { Err(format!("{count} are delivered")) }
        })
        .await;
    }

    /// Waits until no lease changes hands any more.
    ///
    /// # Panics
    /// When the fleet does not come to rest, or not before all records are put.
    pub async fn wait_for_lasting_rest(&self) {
        let begun_at = Instant::now();
        self.wait_for_rest(self.application.failover_time * FAILOVER_TIMES_OF_REST).await;
        self.check_flowing("the fleet is at rest");
        self.say(&format!("at rest after {:.1} s", begun_at.elapsed().as_secs_f64()));
    }

    async fn wait_for_rest(&self, quiet: Duration) {
        let waited_for = self.in_words(&format!("no lease has changed hands for {quiet:?}"));
        wait_for(&waited_for, LIMIT, async || {
            let last = self.history.last_owner_change_millis().ok_or("there are no leases")?;
            let since = now_millis().saturating_sub(last);
            if since >= quiet.as_millis() { Ok(()) } else { Err(format!("one did {since} ms ago")) }
        })
        .await;
    }

    /// Waits until the leases of shards that were read to their end are gone, so that nobody counts them as a share.
    ///
    /// # Panics
    /// When they stay.
    pub async fn wait_for_clean_table(&self) {
        let waited_for = self.in_words("the leases of ended shards are cleaned up");
        wait_for(&waited_for, LIMIT, async || {
            let rows = self.look().await?;
            let is_clean = rows.values().all(|row| !row.checkpoint.is_shard_end());
            if is_clean { Ok(()) } else { Err(format!("{rows:#?}")) }
        })
        .await;
        self.say("the leases of ended shards are cleaned up");
    }

    /// Splits a shard and merges two, and waits until the parents were read to their end, name their children, and these
    /// have owners. Parents may be cleaned up by then.
    ///
    /// # Panics
    /// When it does not come to that in time, or not before all records are put.
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
                let is_born = |child: &String| {
                    let child = rows.get(child);
                    child.is_some_and(|child| child.parents.contains(parent) && child.owner.is_some())
                };
                let is_done = lease.checkpoint.is_shard_end()
                    && lease.children.len() == *count
                    && lease.children.iter().all(is_born);
                is_done.then(|| lease.children.clone())
            };
            let children: Option<Vec<_>> = parents.iter().map(children_of).collect();
            children.ok_or_else(|| format!("{parents:?} are not done: {rows:#?}"))
        })
        .await;
        let short = |shard: &str| shard.trim_start_matches("shardId-").trim_start_matches('0').to_owned();
        let lineage: Vec<String> = parents
            .iter()
            .zip(&children)
            .map(|((parent, _), children)| {
                let children: Vec<String> = children.iter().map(|child| short(child)).collect();
                format!("{:0>1} into {}", short(parent), children.join(" and "))
            })
            .collect();
        self.say(&format!("{what}: shard {}", lineage.join(", ")));
    }

    /// Kills a worker and notes what it left.
    ///
    /// # Panics
    /// When it had nothing to leave, or all records are put already.
    pub async fn kill(&mut self, worker: Worker, what: &str) {
        self.wait_until_checkpointed(&worker).await;
        self.wait_for_rest(self.application.failover_time + REST_BEFORE_END).await;
        self.check_flowing(what);
        let dead = worker.kill().await;
        // A write that was under way may still arrive.
        let mut before = LeaseRows::new();
        let rows = wait_for("the last write of the dead has arrived", LIMIT, async || {
            let mut rows = self.look().await?;
            rows.retain(|_, row| row.owner.as_ref() == Some(&dead.name));
            let has_settled = rows == before;
            before = rows.clone();
            if has_settled { Ok(rows) } else { Err("it still changes".to_owned()) }
        })
        .await;
        let checkpoints: BTreeMap<String, Place> = rows
            .into_iter()
            .filter(|(_, row)| !row.checkpoint.is_shard_end())
            .map(|(shard, row)| (shard, row.checkpoint))
            .collect();
        assert!(!checkpoints.is_empty(), "{} had no shard to leave", dead.name);
        self.say(&format!("{what}: {} leaves {} shards", dead.name, checkpoints.len()));
        self.ended.push(dead.clone());
        self.legacies.push(Legacy { dead, checkpoints });
    }

    /// Waits until every unfinished shard of a worker has a checkpoint of its own, so that an heir goes on from what this
    /// worker wrote.
    async fn wait_until_checkpointed(&self, worker: &Worker) {
        let waited_for = self.in_words(&format!("{} has checkpointed each of its shards", worker.name));
        wait_for(&waited_for, LIMIT, async || {
            for (shard, row) in self.look().await? {
                if row.owner.as_ref() == Some(&worker.name) {
                    let start = self.history.start_of_owner_at(&shard, now_millis());
                    let start = start.unwrap_or_else(|| Place::new("TRIM_HORIZON", 0));
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
    /// When it does not end so.
    pub async fn stop(&mut self, worker: Worker) {
        self.wait_for_rest(self.application.failover_time + REST_BEFORE_END).await;
        let begun_at = Instant::now();
        let ended = worker.stop().await;
        self.say(&format!("{} has stopped in {:.1} s", ended.name, begun_at.elapsed().as_secs_f64()));
        self.ended.push(ended);
    }

    /// Puts the rest of the records and waits until all are delivered. Returns how many were put before.
    ///
    /// # Panics
    /// When one does not arrive in time; says how many are missing.
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

    /// What is to be tested must happen while records flow.
    fn check_flowing(&self, what: &str) {
        let put = self.producer.put();
        assert!(put < self.volume.records, "all {put} records are put before: {what}; too few for the rate");
    }

    fn in_words(&self, what: &str) -> String {
        format!("{what} (logs are in {})", self.directory().display())
    }
}
