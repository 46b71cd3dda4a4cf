//! The checks at the end of a run, after the faults are over and all processes have stopped, and the totals.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use end_to_end_tests::interop::after_loss::deliveries_after_loss;
use end_to_end_tests::interop::deliveries::Delivery;
use end_to_end_tests::interop::last_checkpoints::{not_checkpointed, released_too_early};
use end_to_end_tests::interop::producer::put_numbers;
use end_to_end_tests::interop::test_run::{TestRun, Volume};
use end_to_end_tests::interop::verdict::Verdict;
use end_to_end_tests::interop::wait_for;

use crate::fleet::Fleet;
use crate::run_log::RunLog;
use crate::server_proxies::ServerProxies;
use crate::{LIMIT, STREAM};

/// The number of records put for the heir.
const RECORDS_FOR_THE_HEIR: usize = 200;

/// The log message of a process that has lost a lease, and the name under which it is counted.
const LOSSES: [(&str, &str); 2] = [
    ("the lease was taken by another worker", "leases lost to another worker"),
    (
        "the lease was not renewed within the fail-over time",
        "leases lost because they were not renewed in time",
    ),
];

/// Checks everything. By now all records are delivered and checkpointed, and all workers have ended.
pub(crate) async fn check_run(
    run: &mut TestRun,
    fleet: &mut Fleet,
    run_log: &RunLog,
    volume: &Volume,
    proxies: &[ServerProxies],
) {
    let mut faults = inherit(run, fleet, volume).await;
    let deliveries = run.deliveries().to_vec();
    let total = volume.records + RECORDS_FOR_THE_HEIR;
    let verdict = Verdict::new(&deliveries, total, &run.history, &fleet.ended);
    faults.extend(verdict.faults);
    faults.extend(released_too_early(&deliveries, &run.history, &fleet.ended, &fleet.reused_names));
    faults.extend(deliveries_after_loss(&deliveries, &run.history));
    faults.append(&mut fleet.faults);
    let (panics, losses) = scan_logs(run.directory());
    faults.extend(panics);

    println!("   -- totals");
    println!("   {} different records, {} deliveries", verdict.records, deliveries.len());
    println!("   {}", run_log.counts());
    println!("   {} changes of ownership in the table; {losses}", run.history.owner_changes());
    for (cause, repeats) in &verdict.repeats {
        let (total, changes, most) = (repeats.total(), repeats.owner_changes(), repeats.most());
        println!(
            "   {total:>6} delivered again: {cause}; at {changes} changes of the owner, at most {most} at one"
        );
    }
    for (server, counts) in ServerProxies::totals(proxies) {
        println!("   {server}: {counts}");
    }

    let (shown, directory) = (faults.iter().take(10).collect::<Vec<_>>(), run.directory().display());
    assert!(faults.is_empty(), "{} faults, among them {shown:#?}; logs are in {directory}", faults.len());
    let missing = &verdict.missing;
    assert!(
        missing.is_empty(),
        "{} records are missing: {missing:?}; logs are in {directory}",
        missing.len()
    );
    // The logs are useful only after a failure.
    fs::remove_dir_all(run.directory()).unwrap();
}

/// Waits until every delivery is checkpointed, as it must be once there are no faults.
pub(crate) async fn wait_until_checkpointed(run: &mut TestRun) {
    let deliveries = run.deliveries().to_vec();
    wait_for("everything that was delivered is checkpointed", LIMIT, async || {
        let behind = not_checkpointed(&deliveries, &run.rows().await);
        if behind.is_empty() { Ok(()) } else { Err(behind.join("; ")) }
    })
    .await;
}

/// Starts one more worker after all have ended, and puts new records. It must deliver these and no others, since everything
/// is checkpointed.
async fn inherit(run: &mut TestRun, fleet: &mut Fleet, volume: &Volume) -> Vec<String> {
    let new = volume.records..volume.records + RECORDS_FOR_THE_HEIR;
    put_numbers(&run.endpoints().kinesis_client(), STREAM, new.clone()).await;
    let heir = fleet.start_another();
    let name = heir.name.clone();
    wait_for(&format!("{name} has delivered the last records"), LIMIT, async || {
        let all = run.deliveries().iter().map(|delivery| delivery.number);
        let delivered: BTreeSet<usize> = all.filter(|number| new.contains(number)).collect();
        let missing = RECORDS_FOR_THE_HEIR - delivered.len();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    fleet.stop_in_order(heir).await;
    let is_old = |delivery: &&Delivery| delivery.worker == name && delivery.number < volume.records;
    let again = run.deliveries().iter().filter(is_old);
    again.map(|delivery| format!("checkpointed at the end, and delivered again: {delivery:?}")).collect()
}

/// The panics in the logs of all processes, and the number of lost leases by how they were noticed.
fn scan_logs(directory: &Path) -> (Vec<String>, String) {
    let (mut panics, mut losses) = (Vec::new(), BTreeMap::new());
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            if line.contains("panicked at") {
                panics.push(format!("{}: {line}", path.display()));
            }
            for (message, counted) in LOSSES {
                *losses.entry(counted).or_insert(0) += usize::from(line.contains(message));
            }
        }
    }
    let words: Vec<String> = losses.iter().map(|(what, count)| format!("{count} {what}")).collect();
    (panics, words.join(", "))
}
