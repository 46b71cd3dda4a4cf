//! The conformance suite over the in-memory store and over each decorator.

use std::num::NonZeroU32;

use lease_store::conformance::{check_all, check_multi_stream};
use lease_store::{
    CountingLeaseStore, FaultRates, FaultyLeaseStore, InMemoryLeaseStore, InMemoryMultiStreamLeaseStore,
    ThrottledLeaseStore,
};

#[tokio::test]
async fn the_in_memory_store_conforms() {
    check_all(InMemoryLeaseStore::new).await;
}

#[tokio::test]
async fn the_in_memory_store_of_several_streams_conforms() {
    check_multi_stream(InMemoryMultiStreamLeaseStore::new).await;
}

#[tokio::test]
async fn the_counting_store_conforms() {
    check_all(|| CountingLeaseStore::new(InMemoryLeaseStore::new())).await;
}

#[tokio::test]
async fn the_faulty_store_without_faults_conforms() {
    check_all(|| FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, 1)).await;
}

#[tokio::test]
async fn the_throttled_store_below_its_limit_conforms() {
    let limit = NonZeroU32::new(1_000_000).unwrap();
    check_all(|| ThrottledLeaseStore::new(InMemoryLeaseStore::new(), limit)).await;
}
