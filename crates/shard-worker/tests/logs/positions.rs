//! The log messages about lost records and about a lag close to the retention period: each once, with its data.

use std::num::NonZeroUsize;
use std::time::Duration;

use lease_store::Position;
use shard_worker::{
    DataLossPolicy, InMemoryStream, RetentionAlarm, ShardOutcome, ShardWorkerOptions, StreamClock,
    StreamSource as _,
};
use test_support::{LogCapture, LogEvent};
use tokio::time::{Instant, timeout};
use tracing::Level;

use crate::support::reading::run;

const HOUR: Duration = Duration::from_secs(3600);

/// A closed stream of which the last records remain, and the position of its first record, which is gone.
async fn with_a_loss() -> (InMemoryStream, Position, StreamClock) {
    let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
    let (_, first) = stream.put("key", "first").unwrap();
    for hour in 1..=34 {
        tokio::time::advance(HOUR).await;
        stream.put("key", format!("{hour}")).unwrap();
    }
    stream.trim_older_than(HOUR * 10);
    stream.split(&stream.open_shards()[0]).unwrap();
    let clock = StreamClock::new(stream.describe().await.unwrap().now.unwrap(), Instant::now());
    (stream, Position::after(first, 0), clock)
}

fn keeps(options: &mut ShardWorkerOptions, clock: StreamClock, retention: Duration, policy: DataLossPolicy) {
    (options.data_loss, options.retention, options.stream_clock) = (policy, Some(retention), Some(clock));
}

#[tokio::test(start_paused = true)]
async fn losses_and_retention_alarms_are_logged_once() {
    let log = LogCapture::install();
    let (stream, start, clock) = with_a_loss().await;

    // The shard is halted, and its reads are retried all the time.
    let halted = run(&stream, start.clone(), None, |worker| {
        keeps(&mut worker.options, clock, HOUR * 10, DataLossPolicy::Fail);
    });
    assert!(timeout(HOUR / 2, halted).await.is_err(), "a halted shard does not end by itself");
    let all = log.take_warnings();
    let about_loss: Vec<_> =
        all.iter().filter(|event| event.text.contains("removed unread records")).collect();
    let [LogEvent { level, text }] = about_loss.as_slice() else { unreachable!("{all:?}") };
    assert_eq!(*level, Level::ERROR);
    assert!(text.contains(&format!("between {start} and ")), "{text}");
    assert!(text.contains("the arrival of the last read record is not known"), "{text}");
    assert!(text.contains("after the horizon") && text.contains("CONTINUE"), "{text}");
    assert!(all.iter().all(|event| !event.text.contains("retrying")), "{all:?}");

    // The policy is to continue: all remaining records are read, and the lag falls from ten hours to zero.
    stream.set_max_batch_records(NonZeroUsize::MIN);
    let clock = StreamClock::new(stream.describe().await.unwrap().now.unwrap(), Instant::now());
    let continued = run(&stream, start.clone(), None, |worker| {
        keeps(&mut worker.options, clock, HOUR * 10, DataLossPolicy::Continue);
        worker.options.read_ahead_bytes = 0;
    })
    .await;
    assert_eq!((continued.outcome, continued.seen.texts().len()), (ShardOutcome::Ended, 11));
    assert_eq!((continued.progress.lost_spans, continued.progress.possibly_lost_spans), (1, 0));
    assert_eq!(continued.progress.retention_alarm, RetentionAlarm::None);
    let levels: Vec<Level> = log.take_warnings().into_iter().map(|event| event.level).collect();
    assert_eq!(levels, [Level::WARN, Level::ERROR], "the loss, and four fifths of the retention period");

    // Without a known retention period a loss is only possible.
    let unknown = run(&stream, start, None, |_| {}).await;
    assert_eq!((unknown.progress.lost_spans, unknown.progress.possibly_lost_spans), (0, 1));
    let all = log.take_warnings();
    let [LogEvent { level: Level::WARN, text }] = all.as_slice() else { unreachable!("{all:?}") };
    assert!(text.contains("may have removed unread records") && text.contains("is not known"), "{text}");

    // Half of the retention period is a warning; a falling lag logs nothing.
    let half = run(&stream, Position::TrimHorizon, None, |worker| {
        keeps(&mut worker.options, clock, HOUR * 15, DataLossPolicy::Fail);
        worker.options.read_ahead_bytes = 0;
    });
    assert_eq!(half.await.outcome, ShardOutcome::Ended);
    let all = log.take_warnings();
    assert!(
        matches!(all.as_slice(), [LogEvent { level: Level::WARN, text }] if text.contains("half of the retention period")),
        "{all:?}"
    );
}
