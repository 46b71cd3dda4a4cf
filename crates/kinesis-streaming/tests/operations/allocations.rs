//! The pipeline pays nothing for metrics: a batch costs as many allocations with them as without.

use std::time::Duration;

use kinesis_streaming::MetricsRecording;

use crate::bed::Bed;

/// How long each run takes, in virtual time: the recordings are the same in all of them.
const RUN_TIME: Duration = Duration::from_secs(400);

/// The allocations of a run in which this many batches are put, one each second.
fn allocations_of(batches: u64, is_recorded: bool) -> u64 {
    let run = || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut bed = Bed::new();
            if is_recorded {
                // Without a recorder, as in an application that sets none.
                tokio::spawn(MetricsRecording::new(bed.metrics.clone()).every(Duration::from_secs(10)));
            }
            let running = bed.run();
            for second in 0..RUN_TIME.as_secs() {
                if second < batches {
                    bed.stream.put("key", "good").unwrap();
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let status = bed.handle.status();
            assert_eq!(status.acknowledged_records, batches);
            running.abort();
        });
    };
    allocation_counter::measure(run).count_total
}

#[test]
fn a_batch_costs_no_allocation_for_metrics() {
    let (few, many) = (50, 350);
    let batches = many - few;
    let of_batches = |is_recorded| allocations_of(many, is_recorded) - allocations_of(few, is_recorded);
    let (without, with) = (of_batches(false), of_batches(true));
    assert!(without > batches, "{without}");
    // What differs are series that come and go in some of the 40 recordings.
    let differs = with.abs_diff(without);
    assert!(differs < batches / 4, "{with} with, {without} without, for {batches} batches");
}
