//! Creates a stream, splits its shards and merges them.

#![allow(clippy::unwrap_used)] // only tests call it

use std::time::Duration;

use aws_sdk_kinesis::types::{Shard, StreamStatus};

use super::wait_for;
use crate::local_servers::Endpoints;

/// The limit for a change of the stream.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// Creates a stream and waits until it is active.
///
/// # Panics
/// When that fails.
pub async fn create_stream(endpoints: &Endpoints, stream: &str, shards: i32) {
    let client = endpoints.kinesis_client();
    client.create_stream().stream_name(stream).shard_count(shards).send().await.unwrap();
    wait_until_active(endpoints, stream).await;
}

async fn wait_until_active(endpoints: &Endpoints, stream: &str) {
    let client = endpoints.kinesis_client();
    wait_for("the stream is active", CHANGE_LIMIT, async || {
        let summary = client.describe_stream_summary().stream_name(stream).send().await;
        let summary = summary.map_err(|error| format!("{:?}", error.into_service_error()))?;
        let status = summary.stream_description_summary.unwrap().stream_status;
        if status == StreamStatus::Active { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// Splits the open shard with the most hash keys, in the middle, and returns its name.
///
/// # Panics
/// When that fails.
pub async fn split_a_shard(endpoints: &Endpoints, stream: &str) -> String {
    let open = open_shards(endpoints, stream).await;
    let widest = open.iter().max_by_key(|shard| range(shard).1 - range(shard).0).unwrap();
    let (start, end) = range(widest);
    let middle = start + (end - start) / 2 + 1;
    let call = endpoints.kinesis_client().split_shard().stream_name(stream).shard_to_split(&widest.shard_id);
    call.new_starting_hash_key(middle.to_string()).send().await.unwrap();
    wait_until_active(endpoints, stream).await;
    widest.shard_id.clone()
}

/// Merges the two adjacent open shards that together have the fewest hash keys, and returns their names. It avoids the
/// children of `just_split` if it can.
///
/// # Panics
/// When that fails.
pub async fn merge_two_shards(endpoints: &Endpoints, stream: &str, just_split: &str) -> [String; 2] {
    let mut open = open_shards(endpoints, stream).await;
    open.sort_by_key(|shard| range(shard).0);
    let is_new = |shard: &Shard| shard.parent_shard_id.as_deref() == Some(just_split);
    let pairs = open.windows(2);
    let least = pairs.min_by_key(|pair| (pair.iter().any(is_new), range(&pair[1]).1 - range(&pair[0]).0));
    let [left, right] = [0, 1].map(|index| least.unwrap()[index].shard_id.clone());
    let call = endpoints.kinesis_client().merge_shards().stream_name(stream);
    call.shard_to_merge(&left).adjacent_shard_to_merge(&right).send().await.unwrap();
    wait_until_active(endpoints, stream).await;
    [left, right]
}

async fn open_shards(endpoints: &Endpoints, stream: &str) -> Vec<Shard> {
    let listed = endpoints.kinesis_client().list_shards().stream_name(stream).send().await.unwrap();
    let mut shards = listed.shards.unwrap_or_default();
    shards.retain(|shard| shard.sequence_number_range.as_ref().unwrap().ending_sequence_number.is_none());
    shards
}

fn range(shard: &Shard) -> (u128, u128) {
    let range = shard.hash_key_range.as_ref().unwrap();
    (range.starting_hash_key.parse().unwrap(), range.ending_hash_key.parse().unwrap())
}
