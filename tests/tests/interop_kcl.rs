//! The real Java KCL and our receiver on one lease table: they share it, inherit from each other's dead, read through
//! splits and merges, and replace each other. Run by `cargo xtask interop`, which installs the KCL.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::interop::deliveries::{Deliveries, Delivery};
use end_to_end_tests::interop::java_daemon::{Application, JARS_VARIABLE, jars_directory};
use end_to_end_tests::interop::lease_history::LeaseHistory;
use end_to_end_tests::interop::lease_rows::{LeaseRows, Place, further_attributes, lease_rows};
use end_to_end_tests::interop::producer::Producer;
use end_to_end_tests::interop::resharding::{create_stream, merge_two_shards, split_a_shard};
use end_to_end_tests::interop::verdict::{Cause, Verdict, inheritance};
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::interop::workers::{Ended, Kind, Worker, Workers};
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};
use tokio::time::Instant;

const STREAM: &str = "numbers";
const APPLICATION: &str = "interop";

/// Short, so that the run is; three times the time between renewals.
const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// How long any single thing may take before the run counts as failed. A Java worker needs a quarter of a minute to
/// start, and takes one lease from others in twice the fail-over time.
const LIMIT: Duration = Duration::from_secs(120);

/// How much of it is run.
struct Form {
    name: &'static str,
    records: usize,
    records_per_second: usize,
    shards: i32,
    /// Replace three Java workers one by one by Rust ones, and back.
    with_rolling_replacement: bool,
}

const SHORT: Form = Form {
    name: "short",
    records: 10_000,
    records_per_second: 70,
    shards: 4,
    with_rolling_replacement: false,
};

const FULL: Form = Form {
    name: "full",
    records: 100_000,
    records_per_second: 250,
    shards: 6,
    with_rolling_replacement: true,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_short() {
    run(&SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_full() {
    run(&FULL).await;
}

async fn run(form: &Form) {
    let Some(jars) = jars_directory() else {
        println!("LEFT OUT: the Java KCL, because {JARS_VARIABLE} does not say where its jars are");
        return;
    };
    let servers = InProcessServers::start_for_java().await.unwrap();
    create_stream(servers.endpoints(), STREAM, form.shards).await;
    let mut scene = Scene::new(form, servers.endpoints(), jars);
    println!("== {}: {} records on {} shards, {}", form.name, form.records, form.shards, servers.endpoints());

    // An empty table is filled by the one that comes first. A Java worker would wait for that, or do it after a minute.
    let rust = scene.start(Kind::Rust);
    scene.wait_for_shares("the Rust worker has all shards", &[&rust], form.shards as usize).await;
    let java = scene.start(Kind::Java);
    scene.wait_for_shares("(a) both have a share", &[&rust, &java], 1).await;

    scene.reshard("(d) split and merged while both read").await;
    scene.kill(java, "(b) Java is killed").await;
    scene.wait_for_shares("(b) Rust has all shards", &[&rust], usize::MAX).await;

    let java = scene.start(Kind::Java);
    scene.wait_for_shares("both have a share again", &[&rust, &java], 1).await;
    scene.kill(rust, "(c) Rust is killed").await;
    scene.wait_for_shares("(c) Java has all shards", &[&java], usize::MAX).await;

    scene.reshard("(d) split and merged while Java reads").await;
    let rust = scene.start(Kind::Rust);
    scene.wait_for_shares("both have a share again", &[&rust, &java], 1).await;
    let (mut java, mut rust) = (vec![java], vec![rust]);
    if form.with_rolling_replacement {
        (java, rust) = scene.replace_one_by_one(java, rust).await;
    }
    scene.finish(form, java, rust).await;
}

/// A run: its workers, its records, and what is known of both.
struct Scene {
    started_at: Instant,
    endpoints: Endpoints,
    directory: PathBuf,
    workers: Workers,
    producer: Producer,
    history: LeaseHistory,
    ended: Vec<Ended>,
    /// What each killed worker left: its shards and their checkpoints.
    left: Vec<(Ended, BTreeMap<String, Place>)>,
}

impl Scene {
    fn new(form: &Form, endpoints: &Endpoints, jars: PathBuf) -> Self {
        let directory = fresh_directory(form.name);
        let application = Application {
            name: APPLICATION.to_owned(),
            stream: STREAM.to_owned(),
            endpoints: endpoints.clone(),
            failover_time: FAILOVER_TIME,
            directory: directory.clone(),
        };
        Self {
            started_at: Instant::now(),
            endpoints: endpoints.clone(),
            workers: Workers::new(application, jars),
            producer: Producer::start(
                endpoints.kinesis_client(),
                STREAM,
                form.records,
                form.records_per_second,
            ),
            history: LeaseHistory::watch(endpoints.dynamodb_client(), APPLICATION),
            directory,
            ended: Vec::new(),
            left: Vec::new(),
        }
    }

    fn say(&self, what: &str) {
        println!("   {:>5.1} s  {what}", self.started_at.elapsed().as_secs_f64());
    }

    fn start(&mut self, kind: Kind) -> Worker {
        let worker = self.workers.start(kind);
        self.say(&format!("{} starts", worker.name));
        worker
    }

    async fn rows(&self) -> LeaseRows {
        lease_rows(&self.endpoints.dynamodb_client(), APPLICATION).await.unwrap()
    }

    /// Waits until these workers together own all unfinished leases that have an unfinished shard to read now, each at
    /// least `least` of them, or all there are.
    async fn wait_for_shares(&mut self, what: &str, workers: &[&Worker], least: usize) {
        let client = self.endpoints.dynamodb_client();
        let limit_what = format!("{what}; logs are in {}", self.directory.display());
        let shares = wait_for(&limit_what, LIMIT, async || {
            let rows = lease_rows(&client, APPLICATION).await?;
            let open: Vec<_> = rows.values().filter(|row| !row.checkpoint.is_shard_end()).collect();
            let held =
                |worker: &&Worker| open.iter().filter(|row| row.owner.as_ref() == Some(&worker.name)).count();
            let shares: Vec<usize> = workers.iter().map(held).collect();
            let is_complete = !open.is_empty() && shares.iter().sum::<usize>() == open.len();
            let are_enough = shares.iter().all(|share| *share >= least.min(open.len()));
            let shares: Vec<String> = workers
                .iter()
                .zip(shares)
                .map(|(worker, share)| format!("{} {share}", worker.name))
                .collect();
            if is_complete && are_enough { Ok(shares) } else { Err(format!("{shares:?} of {rows:#?}")) }
        })
        .await;
        self.producer.check_flowing(what);
        self.say(&format!("{what}: {}", shares.join(", ")));
    }

    /// Splits a shard and merges two, and waits until the parents are read to their end and say who their children are.
    async fn reshard(&mut self, what: &str) {
        self.producer.check_flowing(what);
        let split = split_a_shard(&self.endpoints, STREAM).await;
        let merged = merge_two_shards(&self.endpoints, STREAM).await;
        let client = self.endpoints.dynamodb_client();
        let parents = [(split, 2), (merged[0].clone(), 1), (merged[1].clone(), 1)];
        wait_for(&format!("{what}; logs are in {}", self.directory.display()), LIMIT, async || {
            let rows = lease_rows(&client, APPLICATION).await?;
            for (parent, children) in &parents {
                let lease = rows.get(parent).ok_or_else(|| format!("{parent} has no lease"))?;
                let is_done = lease.checkpoint.is_shard_end()
                    && lease.children.len() == *children
                    && lease.children.iter().all(|child| {
                        rows.get(child)
                            .is_some_and(|lease| lease.parents.contains(parent) && lease.owner.is_some())
                    });
                if !is_done {
                    return Err(format!("{parent} is not done: {rows:#?}"));
                }
            }
            Ok(())
        })
        .await;
        let rows = self.rows().await;
        let ended_by: Vec<String> =
            parents.iter().map(|(parent, _)| format!("{parent} -> {:?}", rows[parent].children)).collect();
        self.say(&format!("{what}: {}", ended_by.join(", ")));
    }

    /// Kills a worker and notes what it left.
    async fn kill(&mut self, worker: Worker, what: &str) {
        self.producer.check_flowing(what);
        let dead = worker.kill().await;
        // A write that was under way may still arrive.
        let client = self.endpoints.dynamodb_client();
        let mut before = self.rows().await;
        let rows = wait_for("the dead worker's last write is in the table", LIMIT, async || {
            let rows = lease_rows(&client, APPLICATION).await?;
            let of_the_dead = |rows: &LeaseRows| -> LeaseRows {
                let owned = rows.iter().filter(|(_, row)| row.owner.as_ref() == Some(&dead.name));
                owned.map(|(shard, row)| (shard.clone(), row.clone())).collect()
            };
            let (was, is) = (of_the_dead(&before), of_the_dead(&rows));
            before = rows;
            if was == is { Ok(is) } else { Err("it still changes".to_owned()) }
        })
        .await;
        let left: BTreeMap<String, Place> = rows
            .into_iter()
            .filter(|(_, row)| !row.checkpoint.is_shard_end())
            .map(|(shard, row)| (shard, row.checkpoint))
            .collect();
        assert!(!left.is_empty(), "{} had no shard to leave", dead.name);
        self.say(&format!("{what}: {} leaves {} shards", dead.name, left.len()));
        self.ended.push(dead.clone());
        self.left.push((dead, left));
    }

    async fn stop(&mut self, worker: Worker) {
        let ended = worker.stop().await;
        self.say(&format!("{} was stopped in order", ended.name));
        self.ended.push(ended);
    }

    /// Three Java workers, then three Rust ones in their place, then Java again: one by one, while records flow.
    async fn replace_one_by_one(
        &mut self,
        mut java: Vec<Worker>,
        mut rust: Vec<Worker>,
    ) -> (Vec<Worker>, Vec<Worker>) {
        while java.len() < 3 {
            java.push(self.start(Kind::Java));
        }
        for worker in rust.drain(..) {
            self.stop(worker).await;
        }
        self.wait_for_shares("(e) three Java workers share", &java.iter().collect::<Vec<_>>(), 1).await;
        let rust = self.replace_all(java, Kind::Rust).await;
        self.reshard("(e) split and merged between").await;
        let java = self.replace_all(rust, Kind::Java).await;
        (java, Vec::new())
    }

    async fn replace_all(&mut self, old: Vec<Worker>, kind: Kind) -> Vec<Worker> {
        let (mut old, mut new) = (old, Vec::new());
        while let Some(next) = old.pop() {
            self.stop(next).await;
            new.push(self.start(kind));
            let all: Vec<&Worker> = old.iter().chain(&new).collect();
            let what = format!("(e) {} of 3 replaced by {kind}, all have a share", new.len());
            self.wait_for_shares(&what, &all, 1).await;
        }
        new
    }

    /// Puts the rest, waits for it, stops everybody, and judges.
    async fn finish(mut self, form: &Form, java: Vec<Worker>, rust: Vec<Worker>) {
        // Java goes on alone at the end, so that a planned stop of ours is inherited too.
        for worker in rust {
            self.producer.check_flowing("the planned stop");
            self.stop(worker).await;
        }
        self.wait_for_shares("Java has all shards", &java.iter().collect::<Vec<_>>(), 1).await;
        let flowing = self.producer.put();
        let left = self.producer.finish(form.records).await;
        let mut deliveries = Deliveries::new(&self.directory);
        let what = format!("all records are delivered; logs are in {}", self.directory.display());
        wait_for(&what, LIMIT, async || {
            let all = deliveries.refresh().map_err(|error| error.to_string())?;
            let numbers: HashSet<usize> = all.iter().map(|delivery| delivery.number).collect();
            let is_complete = numbers.len() == form.records;
            if is_complete { Ok(()) } else { Err(format!("{} of {}", numbers.len(), form.records)) }
        })
        .await;
        self.say(&format!("all delivered; {flowing} put while workers came and went, {left} at the end"));
        for worker in java {
            self.stop(worker).await;
        }
        self.judge(form, deliveries.refresh().unwrap()).await;
    }

    async fn judge(&self, form: &Form, deliveries: &[Delivery]) {
        let verdict = Verdict::new(deliveries, form.records, &self.history, &self.ended);
        let first_by: Vec<String> =
            verdict.first_by.iter().map(|(kind, records)| format!("{records} by {kind}")).collect();
        println!("   {} different records, {}", verdict.records, first_by.join(", "));
        println!(
            "   {} delivered again, {} changes of ownership in the table:",
            verdict.repeats.values().sum::<usize>(),
            self.history.owner_changes()
        );
        for (cause, repeats) in &verdict.repeats {
            println!("   {repeats:>6}  {cause}");
        }
        let mut faults = verdict.faults;
        for (dead, left) in &self.left {
            let inherited = inheritance(deliveries, dead, left);
            let (shards, seconds) = (inherited.shards, inherited.last_start_millis as f64 / 1000.0);
            println!(
                "   {}: killed with {} shards; heirs went on behind its checkpoints on {shards}, the last after {seconds:.1} s",
                dead.name,
                left.len()
            );
            assert!(shards > 0, "nobody delivered anything of the shards of {}", dead.name);
            faults.extend(inherited.faults);
        }
        let client = self.endpoints.dynamodb_client();
        let further = further_attributes(&client, APPLICATION).await.unwrap();
        println!("   attributes beside those of every KCL: {further:?}");
        faults.extend(not_checkpointed(deliveries, &self.rows().await));
        let shown: Vec<&String> = faults.iter().take(10).collect();
        assert!(
            faults.is_empty(),
            "{} faults, among them: {shown:#?}; logs are in {}",
            faults.len(),
            self.directory.display()
        );
        assert!(
            verdict.missing.is_empty(),
            "{} records are missing: {:?}",
            verdict.missing.len(),
            verdict.missing
        );
        let again_after_stop = verdict.repeats.get(&Cause::AfterStop(Kind::Rust));
        assert_eq!(again_after_stop, None, "a planned stop of a Rust worker must cost nothing");
    }
}

/// After everybody was stopped in order, each open shard is checkpointed behind its last record.
fn not_checkpointed(deliveries: &[Delivery], rows: &LeaseRows) -> Vec<String> {
    let mut last: BTreeMap<&str, &Place> = BTreeMap::new();
    for delivery in deliveries {
        let place = last.entry(&delivery.shard).or_insert(&delivery.place);
        *place = (*place).max(&delivery.place);
    }
    let behind = |(shard, place): (&&str, &&Place)| {
        let row = rows.get(*shard).filter(|row| row.checkpoint < **place)?;
        Some(format!("{shard} is delivered up to {place}, but checkpointed only up to {}", row.checkpoint))
    };
    last.iter().filter_map(behind).collect()
}

fn fresh_directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}
