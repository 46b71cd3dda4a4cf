//! `LATEST` as an instant, while the stream is resharded around the first start.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, put, setup};
use kinesis_streaming::lease_store::Consistency;
use kinesis_streaming::prelude::*;
use test_support::{HookedStream, Journal, LIMIT, Switch};
use tokio::time::sleep;

/// A stream that, once the switch is on, reshards while an application starts: right after the next description a record
/// arrives, and the shard that took it is split.
fn resharding(stream: &InMemoryStream, reshards: &Switch) -> HookedStream {
    let (inner, reshards) = (stream.clone(), reshards.clone());
    HookedStream::new(stream.clone()).after_describe(move |described| {
        let (stream, reshards) = (inner.clone(), reshards.clone());
        async move {
            if reshards.take() {
                sleep(Duration::from_secs(1)).await;
                let (shard_id, _) = stream.put("0", "0")?;
                sleep(Duration::from_secs(1)).await;
                stream.split(&shard_id)?;
            }
            Ok(described)
        }
    })
}

/// Starts a member at `LATEST`.
fn at_latest(
    source: HookedStream,
    stream: &InMemoryStream,
    store: &InMemoryLeaseStore,
    journal: &Journal,
) -> Member {
    let builder = member("a", stream, store, journal).initial_position(InitialPosition::Latest);
    Member::start(builder.source(source))
}

#[tokio::test(start_paused = true)]
async fn shard_closed_between_the_instant_and_its_lease_is_read() {
    let (stream, store, journal) = setup(2);
    let reshards = Switch::default();
    reshards.turn_on();
    let _member = at_latest(resharding(&stream, &reshards), &stream, &store, &journal);
    journal.wait_for(1, LIMIT).await;
    put(&stream, 1..100);
    journal.wait_for(100, LIMIT).await;
}

/// Starts at the tip of a stream that was split twice before. Returns the shards with rows in the end.
async fn rows_after_start_at_tip(ignores_filters: bool) -> BTreeSet<ShardId> {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..100);
    let root = stream.open_shards().swap_remove(0);
    let [left, _] = stream.split(&root).unwrap();
    put(&stream, 100..200);
    stream.split(&left).unwrap();
    put(&stream, 200..300);
    sleep(FAILOVER_TIME).await;
    let source = HookedStream::new(stream.clone())
        .change_filter(move |filter| if ignores_filters { ShardFilter::All } else { filter });
    let member = at_latest(source, &stream, &store, &journal);
    member.wait_until_holding(3).await;
    put(&stream, 300..400);
    journal.wait_for(100, LIMIT).await;
    sleep(FAILOVER_TIME).await;
    let delivered: BTreeSet<usize> = journal.times().keys().map(|text| text.parse().unwrap()).collect();
    assert_eq!(delivered, (300..400).collect(), "nothing from before the instant");
    assert!(member.stop().await.is_drained());
    let rows = store.list(Consistency::Strong).await.unwrap().leases;
    rows.into_iter().map(|row| row.shard_id).collect()
}

#[tokio::test(start_paused = true)]
async fn latest_delivers_nothing_older_whatever_the_stream_lists() {
    assert_eq!(rows_after_start_at_tip(false).await.len(), 3, "only the open shards have rows");
    // A source that ignores the filter lists closed ancestors too; their rows pass the instant on to their children.
    rows_after_start_at_tip(true).await;
}
