//! The lease-taking algorithm of the KCL 2.x.

#![allow(clippy::unwrap_used)] // a test may

use std::time::Duration;

use fastrand::Rng;
use lease_store::{Lease, Position, ShardId, WorkerId};
use test_support::KclLeaseTaker;

const FAILOVER_TIME: Duration = Duration::from_secs(10);

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name.to_owned()).unwrap()
}

fn lease(number: u64, owner: Option<&str>, counter: u64) -> Lease {
    let mut lease = Lease::unowned(ShardId::numbered(number), Position::TrimHorizon);
    (lease.owner, lease.counter) = (owner.map(worker), counter);
    lease
}

fn taker() -> (KclLeaseTaker, Rng) {
    (KclLeaseTaker::new(worker("me"), FAILOVER_TIME), Rng::with_seed(1))
}

#[tokio::test(start_paused = true)]
async fn unowned_leases_are_very_old_and_all_are_taken() {
    let (mut taker, mut rng) = taker();
    let rows: Vec<Lease> = (0..4).map(|number| lease(number, None, 0)).collect();
    assert_eq!(taker.choose(&rows, &mut rng).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn one_lease_is_stolen_from_the_fullest_worker() {
    let (mut taker, mut rng) = taker();
    let rows: Vec<Lease> = (0..4).map(|number| lease(number, Some("other"), 1)).collect();
    let chosen = taker.choose(&rows, &mut rng);
    assert_eq!(chosen.len(), 1);
    assert!(chosen[0].is_owned_by(&worker("other")));
    let shared = [lease(0, Some("other"), 1), lease(1, Some("me"), 1)];
    assert!(taker.choose(&shared, &mut rng).is_empty(), "the shares are even");
}

#[tokio::test(start_paused = true)]
async fn expired_leases_are_taken_up_to_the_share_and_later_all() {
    let (mut taker, mut rng) = taker();
    let rows = [lease(0, Some("other"), 1), lease(1, Some("other"), 1), lease(2, Some("live"), 1)];
    taker.choose(&rows, &mut rng);
    tokio::time::advance(FAILOVER_TIME * 2).await;
    let rows = [lease(0, Some("other"), 1), lease(1, Some("other"), 1), lease(2, Some("live"), 9)];
    assert_eq!(taker.choose(&rows, &mut rng).len(), 2, "two of three leases are this worker's target");
    tokio::time::advance(FAILOVER_TIME * 2).await;
    let rows = [lease(0, Some("other"), 1), lease(1, Some("other"), 1), lease(2, Some("live"), 19)];
    assert_eq!(taker.choose(&rows, &mut rng).len(), 2, "both are very old");
}
