//! An event is read from its subscription only after memory is reserved; a waiting subscription is still supervised.

use std::time::Duration;

use shard_worker::{FetchedBatch, ReadFrom, RecordSource, SourceError, StreamSource as _};
use tokio::time::{Instant, sleep, timeout};

use crate::support::fan_out::{
    LONGEST_READ, MAX_READS, heartbeat, numbers_of, open, records, server, session, settings, shard_id,
    stream,
};
use crate::support::scripted::{Part, event};

const SECOND: Duration = Duration::from_secs(1);

/// One read in the way of a worker: the memory to reserve, and the result. `0`: no memory is needed.
async fn read(source: &mut dyn RecordSource) -> (u64, Result<FetchedBatch, SourceError>) {
    let bytes = timeout(LONGEST_READ, source.ready()).await.expect("ready returns within seconds");
    (bytes, timeout(LONGEST_READ, source.next_batch()).await.expect("a read returns within seconds"))
}

#[tokio::test(start_paused = true)]
async fn event_is_not_read_before_memory_is_reserved() {
    let in_frames = |numbers: &[u64]| Part::EventInFrames(event(numbers, numbers.last().copied(), &[]));
    let server = server(move |_| session([in_frames(&[1, 2]), in_frames(&[3]), records(&[4]), Part::Hang]));
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let (bytes, batch) = read(&mut *source).await;
    assert_eq!((bytes, batch.unwrap().records.len()), (0, 0), "subscribing reads no event");
    for expected in [&[1, 2][..], &[3], &[4]] {
        let before = server.frames_read();
        let bytes = source.ready().await;
        assert!(bytes >= 4 * 1024 * 1024, "{bytes}");
        // However long the caller waits for memory, only the beginning of the event is read.
        for _ in 0..3 {
            sleep(10 * SECOND).await;
            assert_eq!(source.ready().await, bytes);
        }
        assert!(server.frames_read() <= before + 1);
        assert_eq!(numbers_of(&source.next_batch().await.unwrap()), expected);
    }
}

/// A record may be as large as five seconds of a shard's usual rate.
#[tokio::test(start_paused = true)]
async fn event_of_ten_megabytes_is_reserved_as_a_whole() {
    const RECORD_BYTES: usize = 10 * 1024 * 1024;
    let mut large = event(&[2], Some(2), &[]);
    large["Records"][0]["Data"] = "A".repeat(RECORD_BYTES / 3 * 4).into();
    let parts = [records(&[1]), Part::EventInFrames(large), records(&[3]), Part::Hang];
    let server = server(move |_| session(parts.clone()));
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    read(&mut *source).await.1.unwrap();
    for (number, least, most) in [(1, 4, 5), (2, 23, 25), (3, 4, 5)] {
        let (bytes, batch) = read(&mut *source).await;
        let batch = batch.unwrap();
        assert_eq!(numbers_of(&batch), [number]);
        assert!(batch.memory_bytes() <= bytes, "{bytes} are reserved for {}", batch.memory_bytes());
        assert!((least << 20..most << 20).contains(&bytes), "{bytes} are reserved for event {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_ready_reserves_and_loses_nothing() {
    let server = server(|index| match index {
        0 => session([Part::Wait(7 * SECOND), records(&[1]), Part::Hang]),
        _ => session([Part::Hang]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let (mut numbers, mut reads_with_memory) = (Vec::new(), 0);
    for _ in 0..10 {
        // Cancelled, as by a worker with other work to do.
        let _ = timeout(SECOND, source.ready()).await;
        let (bytes, batch) = read(&mut *source).await;
        reads_with_memory += u32::from(bytes > 0);
        numbers.extend(numbers_of(&batch.unwrap()));
    }
    assert_eq!((numbers, reads_with_memory), (vec![1], 1));
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_while_the_caller_waits() {
    let server =
        server(|index| if index == 0 { session([Part::Hang]) } else { session([records(&[1]), Part::Hang]) });
    let mut settings = settings();
    settings.inactivity_timeout = 20 * SECOND;
    let mut source = stream(&server, settings).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    let started = Instant::now();
    loop {
        let (_, batch) = read(&mut *source).await;
        if !batch.unwrap().records.is_empty() {
            break;
        }
        assert!(started.elapsed() < 60 * SECOND, "the silence was not noticed");
    }
    let requests = server.requests("SubscribeToShard");
    assert!(requests[1].at - requests[0].at >= 20 * SECOND, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn waiting_subscription_is_renewed_in_time() {
    let server = server(|_| {
        let beats = (0..100).flat_map(|_| [heartbeat(7), Part::Wait(5 * SECOND)]);
        session(beats.chain([Part::Hang]))
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    for _ in 0..MAX_READS {
        read(&mut *source).await.1.unwrap();
        if server.requests("SubscribeToShard").len() == 3 {
            break;
        }
    }
    let requests = server.requests("SubscribeToShard");
    assert_eq!(requests.len(), 3);
    for pair in requests.windows(2) {
        let age = pair[1].at - pair[0].at;
        assert!(age > 200 * SECOND && age < 300 * SECOND, "{age:?}");
    }
}
