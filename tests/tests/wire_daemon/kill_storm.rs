//! Kills of children and of daemons at random points, drawn from a seed that is printed: no record is missing, and each repeat
//! follows from a kill.

use std::collections::{BTreeMap, BTreeSet};

use end_to_end_tests::daemon::journal::{Entry, Event};
use end_to_end_tests::daemon::scene::{Daemon, LIMIT, Scene, is_running};
use end_to_end_tests::interop::wait_for;
use fastrand::Rng;
use tokio::process::Command;

/// How many kills there are: more for the long form, which `cargo xtask daemon-tests` runs.
const KILLS_VARIABLE: &str = "DAEMON_STORM_KILLS";

/// The seed of another run.
const SEED_VARIABLE: &str = "DAEMON_STORM_SEED";

/// The kills of the short form.
const SHORT_KILLS: usize = 16;

const SEED: u64 = 17;

const SHARDS: i32 = 3;

const WORKERS: [&str; 2] = ["first", "second"];

/// The most records of a batch, which is what a kill can repeat in a shard.
const MAX_BATCH: usize = 20;

/// How long the work on a record takes, so that kills hit it.
const WORK_MILLIS: u64 = 5;

/// The records that are put before each kill, at most.
const RECORDS_PER_KILL: usize = 100;

/// One kill of so many is that of a daemon.
const KILLS_PER_DAEMON: usize = 4;

fn number_in(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// A daemon that is always started anew: a failed child is restarted, and a killed daemon takes its own leases back.
fn start(scene: &Scene, worker: &str) -> Daemon {
    let lines = format!(
        "childFailure = RESTART\nchildRestartLimit = 1000\nmaxRecords = {MAX_BATCH}\nidleTimeBetweenReadsInMillis = 200"
    );
    scene.start(worker, &format!("checkpoint-always work-millis={WORK_MILLIS}"), &lines)
}

/// The children that have started and not ended.
fn live_children(scene: &Scene) -> Vec<u32> {
    let mut children = BTreeSet::new();
    for Entry { process, event, .. } in scene.entries() {
        match event {
            Event::Initialize { .. } => children.insert(process),
            Event::Closed => children.remove(&process),
            _ => false,
        };
    }
    children.into_iter().filter(|process| is_running(*process)).collect()
}

/// The children of a daemon that have ended and that it has not waited for.
fn unawaited_children(scene: &Scene, daemon: &Daemon) -> Vec<u32> {
    let parent = daemon.process.id().unwrap().to_string();
    let processes: BTreeSet<u32> = scene.entries().into_iter().map(|entry| entry.process).collect();
    let is_left = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let mut fields = status.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&parent)
    };
    processes.into_iter().filter(is_left).collect()
}

/// What the children of a shard did: the start and the records of each, in the order of its journal.
#[derive(Debug, Default)]
struct OfChild {
    start: String,
    records: Vec<(usize, String)>,
    /// The newest checkpoint that was answered as written.
    checkpoint: Option<String>,
}

fn children(scene: &Scene) -> BTreeMap<(String, u32), OfChild> {
    let mut children: BTreeMap<(String, u32), OfChild> = BTreeMap::new();
    for Entry { process, shard, event } in scene.entries() {
        let child = children.entry((shard, process)).or_default();
        match event {
            Event::Initialize { sequence_number } => child.start = sequence_number,
            Event::Record { number, sequence_number } => child.records.push((number, sequence_number)),
            Event::Checkpoint { error: None, .. } => {
                child.checkpoint = child.records.last().map(|(_, sequence_number)| sequence_number.clone());
            }
            _ => {}
        }
    }
    children
}

/// Checks that each child gets its records in order, and that no child starts before a checkpoint by which another one ended: each
/// repeat is of a record that no answered checkpoint covers. All sequence numbers of the server have the same length.
fn assert_repeats_are_explained(children: &BTreeMap<(String, u32), OfChild>) {
    for ((shard, process), child) in children {
        let numbers: Vec<&String> =
            child.records.iter().map(|(_, sequence_number)| sequence_number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{shard}, child {process}: out of order");
        let is_resumed = child.start.starts_with(|digit: char| digit.is_ascii_digit());
        if let Some(first) = numbers.first().filter(|_| is_resumed) {
            assert!(**first > child.start, "{shard}, child {process} repeats its own start");
        }
    }
    // What was delivered more than once was not checkpointed by the child that got it first, or that child was killed before it
    // read the answer: then the next one starts behind it.
    let mut by_record: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    for ((shard, process), child) in children {
        for (_, sequence_number) in &child.records {
            by_record.entry((shard, sequence_number)).or_default().push(*process);
        }
    }
    for ((shard, sequence_number), processes) in by_record.iter().filter(|(_, processes)| processes.len() > 1)
    {
        let checkpointed = processes.iter().filter(|process| {
            let child = &children[&((*shard).to_owned(), **process)];
            child.checkpoint.as_deref().is_some_and(|checkpoint| checkpoint >= *sequence_number)
        });
        // Only the last child that got it may have had its checkpoint written.
        assert!(
            checkpointed.count() <= 1,
            "{shard}: {sequence_number} is delivered after its checkpoint: {processes:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills_lose_no_record_and_repeat_few() {
    let seed = number_in(SEED_VARIABLE, SEED);
    let kills = usize::try_from(number_in(KILLS_VARIABLE, SHORT_KILLS as u64)).unwrap();
    println!("kill storm: {kills} kills, {SEED_VARIABLE}={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut scene = Scene::new("storm", SHARDS).await;
    let mut daemons = WORKERS.map(|worker| start(&scene, worker));
    let (mut of_children, mut of_daemons) = (0, 0);
    for kill in 0..kills {
        scene.put(rng.usize(1..=RECORDS_PER_KILL)).await;
        // At some point on the way, not when all is quiet.
        let target = scene.count() - rng.usize(0..scene.count().min(RECORDS_PER_KILL));
        wait_for("records flow", LIMIT, async || {
            let count = scene.deliveries().len();
            if count >= target { Ok(()) } else { Err(format!("{count} of {target}, kill {kill}")) }
        })
        .await;
        if rng.usize(0..KILLS_PER_DAEMON) == 0 {
            let index = rng.usize(0..WORKERS.len());
            daemons[index].process.kill().await.unwrap();
            daemons[index] = start(&scene, WORKERS[index]);
            of_daemons += 1;
        } else if let Some(child) = rng.choice(live_children(&scene)) {
            // It may have ended by itself, after a kill of its daemon.
            let killed = Command::new("kill").args(["-KILL", &child.to_string()]).output().await.unwrap();
            of_children += usize::from(killed.status.success());
        }
    }
    scene.put(RECORDS_PER_KILL).await;
    scene.wait_for_all().await;
    for daemon in &daemons {
        // amazon-kinesis-client-nodejs#45: children that had ended stayed behind.
        wait_for("every ended child is waited for", LIMIT, async || {
            let left = unawaited_children(&scene, daemon);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }
    for daemon in &mut daemons {
        assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    }
    let children = children(&scene);
    assert_repeats_are_explained(&children);
    let repeats: usize = scene.deliveries().values().map(|count| count - 1).sum();
    println!(
        "{} records, {of_children} kills of children and {of_daemons} of daemons, {} children, {repeats} repeats",
        scene.count(),
        children.len()
    );
    let allowed = (of_children + of_daemons * usize::try_from(SHARDS).unwrap()) * MAX_BATCH;
    assert!(repeats <= allowed, "{repeats} repeats, {allowed} are explained by the kills");
    assert!(live_children(&scene).is_empty(), "all children end with their daemons");
}
