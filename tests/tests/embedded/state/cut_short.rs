//! Calls of the processor that are dropped at an await point, as a time limit or a lost lease drops them, and repeated.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use kinesis_streaming::lease_store::{FencingToken, HashKeyRange, WorkerId};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::FlushReason;

use super::scene::{APPLICATION, Scene};

/// Drops the call after `left` more polls. Returns `None` when it was dropped.
async fn cut<T>(left: &mut usize, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    poll_fn(|context| {
        if *left == 0 {
            *left = usize::MAX;
            return Poll::Ready(None);
        }
        *left -= 1;
        call.as_mut().poll(context).map(Some)
    })
    .await
}

/// Repeats a call until it ends without being dropped.
macro_rules! until_done {
    ($left:expr, $call:expr) => {
        loop {
            if let Some(done) = cut($left, $call).await {
                break done;
            }
        }
    };
}

fn batch(numbers: std::ops::Range<u128>) -> RecordBatch {
    let record =
        |number: u128| Record::new(number.into(), if number == 7 { "poison".into() } else { "word".into() });
    RecordBatch::new(numbers.map(record).collect(), None).unwrap()
}

/// Makes every call of a processor, on a parent shard and then on its child. Returns whether fewer polls were needed than
/// given.
async fn call_everything(polls: usize) -> Result<bool, BoxError> {
    let scene = Scene::new(1).with_settings(|settings| settings.snapshot_records = NonZeroU32::MIN.into());
    scene.objects.with(|faults| faults.latency = Some((fastrand::Rng::with_seed(3), 20)));
    let processors = scene.processors();
    let owner = |counter| FencingToken::new(WorkerId::new("a").unwrap(), counter);
    let left = &mut polls.clone();
    let mut context = ShardContext::new(APPLICATION, "text", ShardId::numbered(0), owner(4));
    context.hash_key_range = Some(HashKeyRange::FULL);
    let mut parent = processors.create(context).unwrap();
    until_done!(left, parent.initialize())?;
    for numbers in [0..5, 5..7, 7..8, 8..10] {
        let batch = batch(numbers.clone());
        let done = until_done!(left, parent.process(&batch));
        assert_eq!(done.is_err(), numbers == (7..8), "{numbers:?}");
        if done.is_err() {
            let covered = scene.objects.with(|faults| faults.covered[&ShardId::numbered(0)].clone());
            assert!(
                covered >= batch.last_position(),
                "a failing batch that may be skipped is covered by a snapshot first"
            );
        }
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    until_done!(left, parent.flush(FlushReason::ShardEnd))?;
    until_done!(left, parent.shard_ended())?;
    drop(parent);
    let mut context = ShardContext::new(APPLICATION, "text", ShardId::numbered(1), owner(9));
    context.hash_key_range = Some(HashKeyRange::FULL);
    context.parent_shard_ids = [ShardId::numbered(0)].into();
    let mut child = processors.create(context).unwrap();
    until_done!(left, child.initialize())?;
    until_done!(left, child.process(&batch(10..14)))?;
    until_done!(left, child.flush(FlushReason::Stop))?;
    drop(child);
    let totals = scene.totals().await;
    assert_eq!(totals.state.iter().collect::<Vec<_>>(), [("word", &13)], "cut short at poll {polls}");
    Ok(*left > 0 && *left <= polls)
}

#[tokio::test(start_paused = true)]
async fn call_cut_short_at_any_await_point_can_be_repeated() {
    let mut polls = 0;
    // Cuts at poll 0, 1, 2 and so on, until the calls need fewer polls than that.
    while !call_everything(polls).await.unwrap() {
        polls += 1;
        assert!(polls < 10_000);
    }
    assert!(polls > 30, "{polls} polls");
}
