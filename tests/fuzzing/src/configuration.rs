//! The settings of a fleet member and of its hand-off buffer, as they stand in a file: no panic, neither while they are read
//! nor while a receiver works with them; what is taken is the same when it is written and read again; every fault names its
//! setting.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use lease_store::InMemoryLeaseStore;
use receiver::{BlockStores, HandOffSettings, Receiver, ReceiverSettings};
use serde_json::{Value, from_slice, from_value, to_value};
use shard_worker::{InMemoryStream, batch_handler};
use tokio::time::{Duration, sleep, timeout};

use crate::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "configuration",
    check,
    tokens: &[
        b"0",
        b"1",
        b"-1",
        b"18446744073709551615",
        b"1e99",
        b"null",
        b"true",
        b"{}",
        b"[]",
        b"\"\"",
        b"\"",
        b",",
        b":",
        b"\"TIP\"",
        b"\"LATEST\"",
        b"\"AT_TIMESTAMP\"",
        b"{\"secs_since_epoch\":0,\"nanos_since_epoch\":0}",
        b"\"shardId-000000000000\"",
        b"\"failover_time_ms\":",
        b"\"drain_time_ms\":",
        b"\"batch_time_ms\":",
        b"\"initial_position\":",
    ],
};

/// How long a receiver works with settings that were taken, in virtual time.
const WORK_TIME: Duration = Duration::from_secs(3);

/// How long it may take to stop, in virtual time.
const STOP_TIME: Duration = Duration::from_secs(60);

fn check(input: &[u8]) -> Reading {
    let buffer = from_slice::<HandOffSettings>(input);
    if let Ok(settings) = &buffer {
        let written = to_value(settings).expect("settings can be written");
        name_a_setting(&settings.faults(&BlockStores::none()), &written);
        assert_eq!(&from_value::<HandOffSettings>(written).expect("and be read"), settings);
    }
    match from_slice::<ReceiverSettings>(input) {
        Ok(settings) => check_receiver(&settings),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if buffer.is_ok() { Reading::Accepted } else { Reading::Refused }
        }
    }
}

fn check_receiver(settings: &ReceiverSettings) -> Reading {
    let written = to_value(settings).expect("settings can be written");
    let faults = settings.faults();
    name_a_setting(&faults, &written);
    assert_eq!(&from_value::<ReceiverSettings>(written).expect("and be read"), settings);
    if !faults.is_empty() {
        return Reading::Refused;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work(settings.clone()));
    Reading::Accepted
}

/// Each fault begins with the name of its setting, or of the shard whose position it is.
fn name_a_setting(faults: &[String], written: &Value) {
    let settings = written.as_object().expect("settings are an object");
    let mut names: BTreeSet<&str> =
        settings.keys().map(|name| name.strip_suffix("_ms").unwrap_or(name)).collect();
    names.extend(
        settings
            .get("initial_positions")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|shards| shards.keys().map(String::as_str)),
    );
    for fault in faults {
        let name = fault.split(' ').next().unwrap_or_default();
        assert!(names.contains(name), "{fault:?} names no setting");
    }
}

/// Works with the settings for a while, and stops.
async fn work(settings: ReceiverSettings) {
    let stream = InMemoryStream::new("words", NonZeroUsize::MIN);
    for word in ["one", "two", "three"] {
        stream.put(word, word).expect("there is room");
    }
    let receiver = Receiver::builder()
        .settings(settings)
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .processors(batch_handler(async |_, _| Ok(())))
        .seed(1)
        .build()
        .expect("settings without a fault make a receiver");
    let handle = receiver.handle();
    let run = tokio::spawn(receiver.run());
    sleep(WORK_TIME).await;
    handle.stop();
    let ended = timeout(STOP_TIME, run).await.expect("it stops when it is told to");
    // An error may be right: a time to start at that the stream does not know of, for example.
    let _ = ended.expect("it does not panic");
}
