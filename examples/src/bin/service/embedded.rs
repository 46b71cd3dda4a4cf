//! A stream and a lease table in memory, with a path to put records: the service without an account.

use std::num::NonZeroUsize;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use kinesis_streaming::lease_store::Consistency;
use kinesis_streaming::prelude::*;

use crate::Backend;

/// A stream with this many shards. `POST /records` puts each line of the body as a record.
pub(crate) fn start(shards: NonZeroUsize) -> Backend {
    let stream = InMemoryStream::new("words", shards);
    let routes = Router::new().route("/records", post(put)).with_state(stream.clone());
    Backend::new(stream, InMemoryLeaseStore::new(), routes)
}

async fn put(State(stream): State<InMemoryStream>, body: String) -> Result<String, (StatusCode, String)> {
    let mut count = 0;
    for line in body.lines() {
        // The line is the partition key too.
        stream
            .put(line, line.to_owned())
            .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        count += 1;
    }
    Ok(format!("{count} records\n"))
}

/// Logs the positions that are stored at the end; the table is gone with the process.
pub(crate) async fn log_positions(leases: &dyn LeaseStore) -> Result<(), StoreError> {
    for lease in leases.list(Consistency::Strong).await?.leases {
        let owner = lease.owner.as_ref().map(ToString::to_string);
        tracing::info!(shard_id = %lease.shard_id, checkpoint = %lease.checkpoint, ?owner, "final position");
    }
    Ok(())
}
