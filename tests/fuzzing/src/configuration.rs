//! The settings of a receiver and of its storage buffer, as in a file. They cause no panic while they are parsed or
//! while a receiver runs with them. Accepted settings survive a round trip, and every fault names its setting.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use lease_store::InMemoryLeaseStore;
use receiver::{Consumer, ConsumerSettings};
use serde_json::{Value, from_slice, from_value, to_value};
use shard_worker::{InMemoryStream, batch_handler};
use storage_buffer::{BlockStores, StorageSettings};
use tokio::time::{Duration, sleep, timeout};

use crate::target::{Reading, Target};

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
        b"\"processing_retry\":",
        b"{\"first\":\"1s\",\"longest\":\"2s\"}",
        b"\"shardId-000000000000\"",
        b"\"10s\"",
        b"\"2026-11-30T01:01:01Z\"",
        b"\"failover_time\":",
        b"\"drain_time_ms\":",
        b"\"batch_time\":",
        b"\"initial_position\":",
    ],
};

/// How long a receiver runs with accepted settings, in virtual time.
const WORK_TIME: Duration = Duration::from_secs(3);

/// How long it may take to stop, in virtual time.
const STOP_TIME: Duration = Duration::from_secs(60);

fn check(input: &[u8]) -> Reading {
    let buffer = from_slice::<StorageSettings>(input);
    if let Ok(settings) = &buffer {
        let written = to_value(settings).expect("cannot write the settings");
        name_a_setting(&settings.faults(&BlockStores::none()), &written);
        assert_eq!(
            &from_value::<StorageSettings>(written).expect("cannot read the written settings"),
            settings
        );
    }
    match from_slice::<ConsumerSettings>(input) {
        Ok(settings) => check_receiver(&settings),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if buffer.is_ok() { Reading::Accepted } else { Reading::Refused }
        }
    }
}

fn check_receiver(settings: &ConsumerSettings) -> Reading {
    let written = to_value(settings).expect("cannot write the settings");
    let faults = settings.faults();
    name_a_setting(&faults, &written);
    assert_eq!(&from_value::<ConsumerSettings>(written).expect("cannot read the written settings"), settings);
    if !faults.is_empty() {
        return Reading::Refused;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("cannot create a runtime").block_on(work(settings.clone()));
    Reading::Accepted
}

/// Checks that each fault begins with the name of its setting, or of the shard whose position it is.
fn name_a_setting(faults: &[String], written: &Value) {
    let settings = written.as_object().expect("the settings are not an object");
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

/// Runs a receiver with the settings for a while, and stops it.
async fn work(settings: ConsumerSettings) {
    let stream = InMemoryStream::new("words", NonZeroUsize::MIN);
    for word in ["one", "two", "three"] {
        stream.put(word, word).expect("cannot put a record");
    }
    let receiver = Consumer::builder()
        .settings(settings)
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .processors(batch_handler(async |_, _| Ok(())))
        .seed(1)
        .build()
        .expect("cannot build a receiver with settings without a fault");
    let handle = receiver.handle();
    let run = tokio::spawn(receiver.run());
    sleep(WORK_TIME).await;
    handle.stop();
    let ended = timeout(STOP_TIME, run).await.expect("the receiver does not stop in time");
    // The run may fail, for example because of a start time that the stream does not know.
    let _ = ended.expect("the receiver panicked");
}
