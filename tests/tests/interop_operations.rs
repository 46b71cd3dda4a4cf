//! Tables that the real Java KCL writes are read, judged, adopted and reset by the program `kinesis-streaming`, and our consumer
//! goes on with them. Run by `cargo xtask interop`, which installs the KCL.
//!
//! With the variable `UPDATE_RECORDINGS` each run stores its looks as a recorded history of `fleet-view`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::interop::deliveries::{Deliveries, now_millis};
use end_to_end_tests::interop::hang::{go_on, hang};
use end_to_end_tests::interop::java_daemon::{Application, ClientVersion, JARS_VARIABLE, jars_directory};
use end_to_end_tests::interop::lease_rows::{KclPosition, LeaseRows, lease_rows};
use end_to_end_tests::interop::looks::Looks;
use end_to_end_tests::interop::resharding::split_a_shard;
use end_to_end_tests::interop::test_run::{TestRun, Volume};
use end_to_end_tests::interop::verdict::Verdict;
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::interop::workers::{Kind, Worker};
use end_to_end_tests::local_servers::InProcessServers;
use serde_json::json;

const STREAM: &str = "numbers";
const APPLICATION: &str = "operations";

/// The fail-over time of the workers.
const FAILOVER_TIME: Duration = Duration::from_secs(5);

/// Slow enough that records still flow when the last worker of the KCL stops.
const VOLUME: Volume = Volume { records: 25_000, records_per_second: 20, shards: 3 };

/// The first worker of the KCL waits up to 30 s, and as its leader a minute more, before it takes leases.
const FIRST_START_LIMIT: Duration = Duration::from_secs(240);

/// How many looks see the healthy worker: they learn how long its steps take.
const LOOKS_OF_HEALTH: u64 = 12;

/// How long after its end a worker of the KCL 3.x counts as alive for an adoption is two minutes, and each try looks for a
/// minute.
const ADOPTION_LIMIT: Duration = Duration::from_secs(400);

/// The limit for reading everything again.
const READ_LIMIT: Duration = Duration::from_secs(180);

/// The variable with which the recorded looks are stored.
const UPDATE_RECORDINGS: &str = "UPDATE_RECORDINGS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_operations_2x_mode() {
    operate_on(ClientVersion::CompatibleWith2x, "2x-mode", "CLIENT_VERSION_UPGRADE_FROM_2X").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_operations_3x_mode() {
    operate_on(ClientVersion::ThreeX, "3x-mode", "CLIENT_VERSION_3X").await;
}

async fn operate_on(version: ClientVersion, form: &str, mode: &str) {
    let Some(jars) = jars_directory() else {
        println!("LEFT OUT: the Java KCL, because {JARS_VARIABLE} is not set");
        return;
    };
    let servers = InProcessServers::start_for_java().await.unwrap();
    let application = Application {
        name: APPLICATION.to_owned(),
        stream: STREAM.to_owned(),
        endpoints: servers.endpoints().clone(),
        failover_time: FAILOVER_TIME,
        directory: fresh_directory(form),
    };
    println!("== operations on a table of the KCL in {form}: {}", application.endpoints);
    let mut run = TestRun::new(application.clone(), jars, VOLUME).await;
    run.workers().with_client_version(version);
    let java = run.start(Kind::Java);
    wait_for("the worker of the KCL has created its leases", FIRST_START_LIMIT, async || {
        let rows = rows(&application).await?;
        let are_owned = !rows.is_empty() && rows.values().all(|row| row.owner.is_some());
        if are_owned { Ok(()) } else { Err(format!("{rows:#?}")) }
    })
    .await;
    run.wait_for_shares("Java has all shards", &[&java], usize::MAX).await;
    let looks = judge_the_kcl(&mut run, &application, java, form).await;
    adopt_the_table(&mut run, &application, &looks, mode).await;
    read_again(&mut run, &application, &looks).await;
}

/// The verdicts about a worker of the KCL: healthy, with a handler that hangs, with a shard that ends, and stopped.
async fn judge_the_kcl(run: &mut TestRun, application: &Application, java: Worker, form: &str) -> Looks {
    let mut events = Vec::new();
    let mut note = |run: &TestRun, what: String| {
        run.log(&what);
        events.push(json!({ "at_millis": u64::try_from(now_millis()).unwrap(), "what": what }));
    };
    let mut looks = Looks::start(application);
    let first: Vec<String> = rows(application).await.unwrap().into_keys().collect();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    looks.wait_for_looks(LOOKS_OF_HEALTH).await;
    let look = looks.wait_for_verdict(&first, &["ok"]).await;
    note(run, format!("look {look}: all shards are ok"));

    let deliveries = application.directory.join(&java.name).with_extension(Deliveries::EXTENSION);
    hang(&deliveries, first[0]).unwrap();
    note(run, format!("the handler of {} hangs", first[0]));
    let look = looks.wait_for_verdict(&first[..1], &["stuck"]).await;
    note(run, format!("look {look}: {} is stuck", first[0]));
    let alarms = looks.alarms();
    assert_eq!(alarms, [first[0]], "only the shard whose handler hangs is an alarm");
    go_on(&deliveries, first[0]).unwrap();
    note(run, format!("the handler of {} goes on", first[0]));
    let look = looks.wait_for_verdict(&first[..1], &["ok"]).await;
    note(run, format!("look {look}: {} is ok", first[0]));

    let parent = split_a_shard(&application.endpoints, &application.stream).await;
    note(run, format!("{parent} is split"));
    let look = looks.wait_for_verdict(&[&parent], &["ended"]).await;
    note(run, format!("look {look}: {parent} is ended"));
    let children: Vec<String> =
        looks.shards().into_iter().filter(|shard| !first.contains(&shard.as_str())).collect();
    assert_eq!(children.len(), 2, "{children:?}");
    let children: Vec<&str> = children.iter().map(String::as_str).collect();
    let look = looks.wait_for_verdict(&children, &["ok"]).await;
    note(run, format!("look {look}: its children {children:?} are ok"));

    note(run, format!("{} stops", java.name));
    run.stop(java).await;
    let refused = looks.run("adopt", &["--execute", "--look-time", "0s"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.output.contains("reported about itself"), "{refused:?}");
    let open: Vec<&str> = first.iter().chain(&children).copied().filter(|shard| *shard != parent).collect();
    let look = looks.wait_for_verdict(&open, &["stopped"]).await;
    note(run, format!("look {look}: {open:?} are stopped"));
    let recorded = looks.stop().await;
    store_recording(form, &events, &recorded);
    looks
}

/// The table is sound, and our consumer goes on where the KCL ended.
async fn adopt_the_table(run: &mut TestRun, application: &Application, looks: &Looks, mode: &str) {
    let verified = looks.run("verify", &["--json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.output.contains(mode), "{verified:?}");
    let described = looks.run("doctor", &["--over", "10s"]).await;
    for part in ["agree with the stream", mode] {
        assert!(described.output.contains(part), "{part:?} is missing: {described:?}");
    }
    run.log("verify and doctor have judged the table");
    let before = positions(&rows(application).await.unwrap());
    let adopted = wait_for("the table is adopted", ADOPTION_LIMIT, async || {
        let finished = looks.run("adopt", &["--execute"]).await;
        if finished.code == 0 { Ok(finished.output) } else { Err(format!("{finished:?}")) }
    })
    .await;
    assert!(adopted.contains(&format!("{mode} -> CLIENT_VERSION_2X, done")), "{adopted}");
    let after = rows(application).await.unwrap();
    assert_eq!(positions(&after), before, "an adoption moves no position");
    let mut open = after.values().filter(|row| !row.checkpoint.is_shard_end());
    assert!(open.all(|row| row.owner.is_none()), "{after:#?}");
    run.log("the table is adopted");

    let rust = run.start(Kind::Rust);
    run.wait_for_shares("Rust has all shards", &[&rust], usize::MAX).await;
    run.put_the_rest().await;
    run.stop(rust).await;
    let deliveries = run.deliveries().to_vec();
    let verdict = Verdict::new(&deliveries, VOLUME.records, &run.history, &run.ended);
    assert!(verdict.missing.is_empty(), "skipped: {:?}", verdict.missing);
    assert!(verdict.faults.is_empty(), "{:#?}", verdict.faults);
    run.log("every record is delivered, and none of the shards has skipped one");
}

/// A reset to the oldest records makes the next worker read all of them.
async fn read_again(run: &mut TestRun, application: &Application, looks: &Looks) {
    let shown = looks.run("reset", &["--to", "trim-horizon"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let before = positions(&rows(application).await.unwrap());
    let reset = looks.run("reset", &["--to", "trim-horizon", "--execute"]).await;
    assert_eq!(reset.code, 0, "{reset:?}");
    let after = positions(&rows(application).await.unwrap());
    assert_ne!(after, before, "{shown:?}");
    run.log("the table is reset to the oldest records");
    let rust = run.start(Kind::Rust);
    wait_for("a worker of ours reads all records again", READ_LIMIT, async || {
        let read: BTreeSet<usize> = run
            .deliveries()
            .iter()
            .filter(|delivery| delivery.worker == rust.name)
            .map(|delivery| delivery.number)
            .collect();
        if read.len() == VOLUME.records { Ok(()) } else { Err(format!("{} are read", read.len())) }
    })
    .await;
    run.stop(rust).await;
}

async fn rows(application: &Application) -> Result<LeaseRows, String> {
    lease_rows(&application.endpoints.dynamodb_client(), &application.name).await
}

fn positions(rows: &LeaseRows) -> BTreeMap<String, KclPosition> {
    rows.iter().map(|(shard, row)| (shard.clone(), row.checkpoint.clone())).collect()
}

fn fresh_directory(form: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-operations-{form}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Stores the looks as a recorded history, if that is asked for: a line about the recording, and a line for each look.
fn store_recording(form: &str, events: &[serde_json::Value], looks: &str) {
    if std::env::var_os(UPDATE_RECORDINGS).is_none() {
        return;
    }
    let about = json!({
        "recorded_by": "UPDATE_RECORDINGS=1 cargo xtask interop",
        "looks_by": "kinesis-streaming describe operations --stream numbers --watch --json --interval 10s --probe-time 2s --record FILE",
        "rows_by": format!("the MultiLangDaemon of the Java KCL 3.1.3 in {form}, on local servers for Kinesis and DynamoDB"),
        "events": events,
    });
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/fleet-view/tests/it/recorded");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("java-kcl-{form}.jsonl")), format!("{about}\n{looks}")).unwrap();
}
