//! What is said about lost records and a lag that nears the retention period: each once, with the span. A program of its own:
//! what is logged where is decided once in a process, and other tests would have a say in it.

#![allow(clippy::unwrap_used)] // a test may

#[path = "support/reading.rs"]
mod reading;

use std::fmt::{Debug, Write as _};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use lease_store::Position;
use reading::run;
use shard_worker::{
    DataLossPolicy, InMemoryStream, RetentionAlarm, ShardOutcome, ShardWorkerOptions, StreamClock,
    StreamSource as _,
};
use tokio::time::{Instant, timeout};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const HOUR: Duration = Duration::from_secs(3600);

/// Level and fields of all events, as text.
static LOG: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

struct Noting;

impl Subscriber for Noting {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| write!(text, "{field}={value:?} ").unwrap());
        LOG.lock().unwrap().push((*event.metadata().level(), text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The events above INFO since the last call.
fn said() -> Vec<(Level, String)> {
    LOG.lock().unwrap().drain(..).filter(|(level, _)| *level < Level::INFO).collect()
}

/// A stream of which the first record is stored as done and no longer there, and of which ten are left; and its first record.
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
async fn losses_and_alarms_are_said_once_with_the_span() {
    tracing::subscriber::set_global_default(Noting).unwrap();
    let (stream, start, clock) = with_a_loss().await;

    // Halted, and tried again all the time.
    let halted = run(&stream, start.clone(), None, |worker| {
        keeps(&mut worker.options, clock, HOUR * 10, DataLossPolicy::Fail);
    });
    assert!(timeout(HOUR / 2, halted).await.is_err(), "a shard that is halted does not end by itself");
    let all = said();
    let about_loss: Vec<_> =
        all.iter().filter(|(_, text)| text.contains("no longer in the stream")).collect();
    let [(level, text)] = about_loss.as_slice() else { unreachable!("{all:?}") };
    assert_eq!(*level, Level::ERROR);
    assert!(text.contains(&format!("between {start} and ")), "{text}");
    assert!(text.contains("when the last one that was read arrived is not known"), "{text}");
    assert!(text.contains("after the horizon") && text.contains("CONTINUE"), "{text}");
    assert!(all.iter().all(|(_, text)| !text.contains("done again")), "{all:?}");

    // Told to go on: everything that is left, and the lag goes from ten hours to none.
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
    let levels: Vec<Level> = said().into_iter().map(|(level, _)| level).collect();
    assert_eq!(levels, [Level::WARN, Level::ERROR], "the loss, and four fifths of what is kept");

    // Where nobody knows what the stream keeps, a loss is possible, and no more.
    let unknown = run(&stream, start, None, |_| {}).await;
    assert_eq!((unknown.progress.lost_spans, unknown.progress.possibly_lost_spans), (0, 1));
    let all = said();
    let [(Level::WARN, text)] = all.as_slice() else { unreachable!("{all:?}") };
    assert!(text.contains("if there were records") && text.contains("is not known"), "{text}");

    // Half is a warning; the rest of the way is none.
    let half = run(&stream, Position::TrimHorizon, None, |worker| {
        keeps(&mut worker.options, clock, HOUR * 15, DataLossPolicy::Fail);
        worker.options.read_ahead_bytes = 0;
    });
    assert_eq!(half.await.outcome, ShardOutcome::Ended);
    let all = said();
    assert!(matches!(all.as_slice(), [(Level::WARN, text)] if text.contains("by half")), "{all:?}");
}
