//! The end of a run: what is checked when the faults are over and everybody has stopped, and the totals.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use end_to_end_tests::interop::after_loss::going_on_after_loss;
use end_to_end_tests::interop::deliveries::Delivery;
use end_to_end_tests::interop::last_checkpoints::{not_checkpointed, released_too_early};
use end_to_end_tests::interop::producer::put_numbers;
use end_to_end_tests::interop::scene::{Scene, Volume};
use end_to_end_tests::interop::verdict::Verdict;
use end_to_end_tests::interop::wait_for;

use crate::chronicle::Chronicle;
use crate::fleet::Fleet;
use crate::way::Way;
use crate::{LIMIT, STREAM};

/// How many records are put for the heir.
const RECORDS_FOR_THE_HEIR: usize = 200;

/// What a process says when it finds that it has lost a lease, and how that is counted.
const LOSSES: [(&str, &str); 2] = [
    ("the lease was taken by another worker", "leases found taken by another worker"),
    (
        "the lease was not renewed within the fail-over time",
        "leases given up because they were not renewed in time",
    ),
];

/// Checks everything. All records are delivered and checkpointed, and all workers have ended.
pub(crate) async fn judge(
    scene: &mut Scene,
    fleet: &mut Fleet,
    chronicle: &Chronicle,
    volume: &Volume,
    ways: &[Way],
) {
    let mut faults = inherit(scene, fleet, volume).await;
    let deliveries = scene.deliveries().to_vec();
    let total = volume.records + RECORDS_FOR_THE_HEIR;
    let verdict = Verdict::new(&deliveries, total, &scene.history, &fleet.ended);
    faults.extend(verdict.faults);
    faults.extend(released_too_early(&deliveries, &scene.history, &fleet.ended, &fleet.used_again));
    faults.extend(going_on_after_loss(&deliveries, &scene.history));
    faults.append(&mut fleet.faults);
    let (panics, losses) = look_through_logs(scene.directory());
    faults.extend(panics);

    println!("   -- totals");
    println!("   {} different records, {} deliveries", verdict.records, deliveries.len());
    println!("   {}", chronicle.counts());
    println!("   {} changes of ownership in the table; {losses}", scene.history.owner_changes());
    for (cause, repeats) in &verdict.repeats {
        let (total, hands, most) = (repeats.total(), repeats.hands(), repeats.most());
        println!(
            "   {total:>6} delivered again: {cause}; on {hands} changes of hands, at most {most} on one"
        );
    }
    for (server, counts) in Way::totals(ways) {
        println!("   {server}: {counts}");
    }

    let (shown, directory) = (faults.iter().take(10).collect::<Vec<_>>(), scene.directory().display());
    assert!(faults.is_empty(), "{} faults, among them {shown:#?}; logs are in {directory}", faults.len());
    let missing = &verdict.missing;
    assert!(
        missing.is_empty(),
        "{} records are missing: {missing:?}; logs are in {directory}",
        missing.len()
    );
    // Of use only when something is wrong.
    fs::remove_dir_all(scene.directory()).unwrap();
}

/// Waits until everything that was delivered is checkpointed: while there are no faults, that must come to be.
pub(crate) async fn wait_until_checkpointed(scene: &mut Scene) {
    let deliveries = scene.deliveries().to_vec();
    wait_for("everything that was delivered is checkpointed", LIMIT, async || {
        let behind = not_checkpointed(&deliveries, &scene.rows().await);
        if behind.is_empty() { Ok(()) } else { Err(behind.join("; ")) }
    })
    .await;
}

/// After all have ended one more starts, and gets new records. It delivers these, and nothing else: all is checkpointed.
async fn inherit(scene: &mut Scene, fleet: &mut Fleet, volume: &Volume) -> Vec<String> {
    let new = volume.records..volume.records + RECORDS_FOR_THE_HEIR;
    put_numbers(&scene.endpoints().kinesis_client(), STREAM, new.clone()).await;
    let heir = fleet.start_another();
    let name = heir.name.clone();
    wait_for(&format!("{name} has delivered what was put last"), LIMIT, async || {
        let all = scene.deliveries().iter().map(|delivery| delivery.number);
        let come: BTreeSet<usize> = all.filter(|number| new.contains(number)).collect();
        let missing = RECORDS_FOR_THE_HEIR - come.len();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    fleet.stop_in_order(heir).await;
    let is_old = |delivery: &&Delivery| delivery.worker == name && delivery.number < volume.records;
    let again = scene.deliveries().iter().filter(is_old);
    again.map(|delivery| format!("checkpointed in the end, and delivered again: {delivery:?}")).collect()
}

/// The panics in the logs of all processes, and how often they found that they had lost a lease.
fn look_through_logs(directory: &Path) -> (Vec<String>, String) {
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
            for (said, counted) in LOSSES {
                *losses.entry(counted).or_insert(0) += usize::from(line.contains(said));
            }
        }
    }
    let words: Vec<String> = losses.iter().map(|(what, count)| format!("{count} {what}")).collect();
    (panics, words.join(", "))
}
