//! The cost of a state: applying records, encoding a snapshot and decoding it.
//!
//! `cargo bench -p kinesis-processor-state --features internals`

#![allow(clippy::unwrap_used)] // a benchmark may

use std::hint::black_box;

use bytes::Bytes;
use lease_store::{FencingToken, HashKeyRange, Position, ShardId, WorkerId};
use processor_state::internals::{decode_snapshot, encode_snapshot};
use processor_state::{
    KeyedState, SnapshotHeader, StateLogic, StateSchema, StateSettings, StateStore, stateful,
    update_state_by_key,
};
use shard_worker::{Record, RecordBatch, RecordProcessorFactory as _, ShardContext};
use tokio::time::Instant;

const KEYS: [usize; 3] = [1_000, 100_000, 1_000_000];
const BATCHES: u128 = 200;
const RECORDS: u128 = 1_000;
const MAX_BYTES: usize = 1 << 30;

fn counts() -> impl StateLogic<State = u64> {
    update_state_by_key(
        StateSchema::new("counts", 1),
        |record: &Record| Ok(record.partition_key.iter().map(|key| (key.to_string(), 1)).collect()),
        |count: Option<u64>, one| Some(count.unwrap_or(0) + one),
        |one, other| one + other,
    )
}

fn header() -> SnapshotHeader {
    SnapshotHeader {
        application: "words".to_owned(),
        stream: "text".to_owned(),
        stream_identity: None,
        shard_id: ShardId::numbered(0),
        hash_key_range: HashKeyRange::FULL,
        ancestors: [].into(),
        schema: counts().schema(),
        position: Position::TrimHorizon,
        passed: None,
        owner: "a".to_owned(),
        lease_counter: 1,
        watermark: None,
        entries: 0,
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for keys in KEYS {
            let state: KeyedState<u64> = (0..keys).map(|key| (format!("key-{key}"), 1_000)).collect();
            let started = Instant::now();
            let bytes = encode_snapshot(&header(), &state, MAX_BYTES).unwrap();
            let encoded = started.elapsed();
            let started = Instant::now();
            black_box(decode_snapshot(&bytes, &counts()).unwrap());
            println!(
                "{keys} keys: {} bytes, encoded in {encoded:?}, decoded in {:?}",
                bytes.len(),
                started.elapsed()
            );
        }
        let settings = StateSettings { accepts_loss_at_restart: true, ..StateSettings::default() };
        let processors = stateful(counts(), StateStore::volatile(), settings).unwrap();
        let owner = FencingToken::new(WorkerId::new("a").unwrap(), 1);
        let mut context = ShardContext::new("words", "text", ShardId::numbered(0), owner);
        context.hash_key_range = Some(HashKeyRange::FULL);
        let mut processor = processors.create(context).unwrap();
        processor.initialize().await.unwrap();
        let batches: Vec<RecordBatch> = (0..BATCHES)
            .map(|batch| {
                let record = |index: u128| {
                    Record::new((batch * RECORDS + index).into(), Bytes::from_static(b"payload"))
                        .with_partition_key(Some(
                            format!("key-{}", (batch * 7919 + index * 31) % 100_000).into(),
                        ))
                };
                RecordBatch::new((0..RECORDS).map(record).collect(), None).unwrap()
            })
            .collect();
        let started = Instant::now();
        for batch in &batches {
            processor.process(batch).await.unwrap();
        }
        let took = started.elapsed();
        println!("{} records applied in {took:?}", BATCHES * RECORDS);
    });
}
