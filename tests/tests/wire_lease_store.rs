//! The conformance suite of the lease stores on the DynamoDB store with a second server, `dynalite`. Run by `cargo xtask
//! wire`. `wire_dynamodb_store` uses the first server, `dynoxide`.

#![allow(clippy::unwrap_used)] // a test may

use std::sync::atomic::{AtomicUsize, Ordering};

use end_to_end_tests::local_servers::NodeServers;
use lease_store::dynamodb::DynamoDbLeaseStore;

/// `dynalite` does not return the row that made a condition fail, as AWS does, so the store reads the row.
#[tokio::test(flavor = "multi_thread")]
async fn wire_lease_store_conforms_on_dynalite() {
    let Some(directory) = NodeServers::directory() else {
        println!("LEFT OUT: dynalite, because EMULATORS_DIR is not set");
        return;
    };
    let servers = NodeServers::start(&directory).await.unwrap();
    let client = servers.endpoints().dynamodb_client();
    let tables = AtomicUsize::new(0);
    lease_store::conformance::check_all(|| {
        let table = format!("conformance-{}", tables.fetch_add(1, Ordering::Relaxed));
        DynamoDbLeaseStore::new(client.clone(), table).unwrap()
    })
    .await;
    assert!(tables.load(Ordering::Relaxed) > 5, "each check has a table of its own");
}
