//! Reading from a source that throttles or never answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{Member, member, put, setup};
use kinesis_streaming::shard_worker::{SourceError, SourceErrorKind};
use test_support::{HookedStream, Journal, LIMIT, StreamCall};
use tokio::time::Instant;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Throttled,
    Silent,
}

/// Reads five records from a stream on which the first calls of each kind fail. Returns when each call began.
async fn read_all(name: &str, fault: Fault, opens: usize, reads: usize) -> Vec<Instant> {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..5);
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (began, faults_left) = (calls.clone(), Arc::new(Mutex::new((opens, reads))));
    let faulty = HookedStream::new(stream.clone()).before(move |call| {
        let (began, faults_left) = (began.clone(), faults_left.clone());
        async move {
            let strikes = {
                let (opens, reads) = &mut *faults_left.lock().unwrap();
                let left = match call {
                    StreamCall::Open(..) => opens,
                    StreamCall::NextBatch(_) => reads,
                    StreamCall::Describe | StreamCall::ListShards(_) => return Ok(()),
                };
                began.lock().unwrap().push(Instant::now());
                let strikes = *left > 0;
                *left = left.saturating_sub(1);
                strikes
            };
            match fault {
                _ if !strikes => Ok(()),
                Fault::Throttled => Err(SourceError::new(SourceErrorKind::Throttled, "slow down")),
                Fault::Silent => std::future::pending().await,
            }
        }
    });
    let _member = Member::start(member(name, &stream, &store, &journal).source(faulty));
    wait_for_all(&journal).await;
    calls.lock().unwrap().clone()
}

fn waits(calls: &[Instant]) -> Vec<Duration> {
    calls.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

async fn wait_for_all(journal: &Journal) {
    journal.wait_for(5, LIMIT * 10).await;
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn throttled_reads_back_off_with_random_growing_waits() {
    let mut first_waits = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let waits = waits(&read_all(name, Fault::Throttled, 0, 12).await[1..]);
        assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(100)), "{waits:?}");
        let (early, late): (Duration, Duration) = (waits[..4].iter().sum(), waits[7..11].iter().sum());
        assert!(late > early * 4, "{waits:?}");
        first_waits.insert(waits[0]);
    }
    assert_eq!(first_waits.len(), 3, "each member draws its own waits: {first_waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_asked_again() {
    for (opens, reads) in [(1, 0), (0, 1)] {
        let waits = waits(&read_all("a", Fault::Silent, opens, reads).await);
        let longest = waits.iter().max().unwrap();
        let expected = Duration::from_secs(120)..Duration::from_secs(121);
        assert!(expected.contains(longest), "{waits:?}");
    }
}
