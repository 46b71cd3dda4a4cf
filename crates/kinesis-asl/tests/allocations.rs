//! Bounds the allocations of a read, counted from the socket to the batch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod rendered_server;

use std::net::TcpListener;
use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};
use kinesis_asl::{GetRecordsFormat, KinesisStream};
use lease_store::ShardId;
use rendered_server::{Shape, serve};
use shard_worker::{ReadFrom, StreamSource};

/// Reads before counting: the first learns the route, and the connection grows its buffers.
const WARM_UP_READS: usize = 3;

/// The number of counted reads, of which the minimum is used.
const COUNTED_READS: usize = 4;

/// Allocations allowed for the frames of an answer: on a busy machine an answer arrives in more frames.
const FRAME_ALLOCATIONS: u64 = 25;

/// The allocations of one read of an answer of this shape. Only the reading thread is counted, not the server's.
#[allow(clippy::disallowed_methods)] // the server must not run in the measured runtime
fn allocations(shape: Shape, format: GetRecordsFormat) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || serve(&listener, shape.render()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url(url)
        .build();
    let stream = KinesisStream::from_client(Client::from_conf(config), "words")
        .with_idle_time_between_reads(Duration::ZERO)
        .with_get_records_format(format);
    let shard_id = ShardId::numbered(0);
    let mut reader = runtime.block_on(stream.open(&shard_id, &ReadFrom::TrimHorizon)).unwrap();
    let mut read = || {
        let batch = runtime.block_on(reader.next_batch()).unwrap();
        assert_eq!(batch.records.len(), shape.records);
    };
    (0..WARM_UP_READS).for_each(|_| read());
    // The number of frames of an answer depends on the load of the machine.
    (0..COUNTED_READS).map(|_| allocation_counter::measure(&mut read).count_total).min().unwrap()
}

#[test]
fn a_record_needs_no_allocation_of_its_own() {
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json] {
        for (records, payload_bytes) in [(1000, 1000), (10_000, 100)] {
            let counted = allocations(Shape { records, payload_bytes }, format);
            println!("{format}, {records} records of {payload_bytes} bytes: {counted} allocations");
            // 0.05 for each record, plus the frames of the answer.
            let allowed = records as u64 / 20 + FRAME_ALLOCATIONS;
            assert!(counted <= allowed, "{format}: {counted} allocations for {records} records");
        }
    }
}

#[test]
fn empty_read_needs_a_third_of_the_sdks_allocations() {
    let of = |format| allocations(Shape { records: 0, payload_bytes: 0 }, format);
    let by_the_sdk = of(GetRecordsFormat::Sdk);
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json] {
        let counted = of(format);
        println!("{format}: {counted} allocations, the SDK {by_the_sdk}");
        assert!(counted * 3 <= by_the_sdk, "{format}: {counted} allocations, the SDK {by_the_sdk}");
    }
}
