//! A listing of the leases that is repeated when it is not answered in time, so that one slow answer delays no round.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lease_store::{Consistency, LeaseListing, LeaseStore, StoreError};
use tokio::time::{Duration, Instant, sleep_until};

use crate::streams::seat::StreamStore;
use crate::streams::table::TableScan;

/// The most listings of one scan that are in flight at the same time.
const MAX_LISTINGS: usize = 3;

/// A listing is repeated after this many times the duration of the last answered one.
const LAST_ANSWER_FACTOR: u32 = 2;

/// Where the leases of a stream are listed.
#[derive(Debug, Clone)]
pub(super) enum LeaseSource {
    /// A store of this stream alone.
    Store(Arc<dyn LeaseStore>),
    /// A table of several streams, which is scanned once for all of them.
    Stream(Arc<StreamStore>),
}

impl LeaseSource {
    async fn list(self, consistency: Consistency) -> Scan {
        let called_at = Instant::now();
        let listed = match &self {
            Self::Store(store) => store.list(consistency).await.map(|listing| (listing, None)),
            Self::Stream(stream) => {
                stream.scan(consistency).await.map(|(table, listing)| (listing, Some(table)))
            }
        };
        match listed {
            Ok((listing, Some(table))) => Scan::of_table(table, listing),
            Ok((listing, None)) => Scan {
                consistency,
                requested_at: called_at,
                duration: called_at.elapsed(),
                listing: Ok(listing),
                table: None,
            },
            Err(error) => Scan {
                consistency,
                requested_at: called_at,
                duration: called_at.elapsed(),
                listing: Err(error),
                table: None,
            },
        }
    }
}

/// The outcome of a scan.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) consistency: Consistency,
    /// When the listing that was answered first had been requested.
    pub(super) requested_at: Instant,
    /// How long that listing took.
    pub(super) duration: Duration,
    pub(super) listing: Result<LeaseListing, StoreError>,
    /// The scan of the whole table that the listing is a part of, if the table has several streams.
    pub(super) table: Option<Arc<TableScan>>,
}

impl Scan {
    /// The rows of one stream in a scan of the table.
    pub(super) fn of_table(table: Arc<TableScan>, listing: LeaseListing) -> Self {
        Self {
            consistency: table.consistency,
            requested_at: table.requested_at,
            duration: table.duration,
            listing: Ok(listing),
            table: Some(table),
        }
    }
}

/// How long to wait for a listing before it is repeated. A table that always takes longer gets no additional listings.
pub(super) fn patience_for(shortest: Duration, last_answer: Duration) -> Duration {
    shortest.max(last_answer.saturating_mul(LAST_ANSWER_FACTOR))
}

/// Lists the leases. A listing without an answer after `patience` is sent again, each time after twice the wait; the
/// earlier ones stay in flight. The first answer counts. An error counts only if no other listing is in flight.
pub(super) async fn scan(source: LeaseSource, consistency: Consistency, patience: Duration) -> Scan {
    let list = || source.clone().list(consistency);
    let mut in_flight = FuturesUnordered::from_iter([list()]);
    let mut started = 1;
    let mut wait = patience;
    let mut next = Instant::now() + wait;
    loop {
        tokio::select! {
            biased;
            Some(scan) = in_flight.next() => {
                if scan.listing.is_ok() || in_flight.is_empty() {
                    return scan;
                }
            }
            () = sleep_until(next), if started < MAX_LISTINGS => {
                started += 1;
                wait = wait.saturating_mul(2);
                next += wait;
                in_flight.push(list());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use lease_store::{Lease, LeaseWrite, ShardId, StoreErrorKind, WriteOutcome};

    use super::*;

    /// A store whose first listings fail after this many seconds each; later ones are answered at once.
    #[derive(Debug)]
    struct SlowAtFirst {
        listings: AtomicU64,
        slow: u64,
        seconds: u64,
        fails: bool,
    }

    #[async_trait]
    impl LeaseStore for SlowAtFirst {
        async fn prepare(&self) -> Result<(), StoreError> {
            Ok(())
        }

        async fn list(&self, _: Consistency) -> Result<LeaseListing, StoreError> {
            if self.listings.fetch_add(1, Ordering::Relaxed) < self.slow {
                tokio::time::sleep(Duration::from_secs(self.seconds)).await;
                if self.fails {
                    return Err(StoreError::new(StoreErrorKind::Unavailable, "away"));
                }
            }
            Ok(LeaseListing::default())
        }

        async fn get(&self, _: &ShardId) -> Result<Option<Lease>, StoreError> {
            Ok(None)
        }

        async fn write(&self, _: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
            Ok(WriteOutcome::Lost { lease: None })
        }
    }

    async fn scanned(slow: u64, seconds: u64, fails: bool) -> (Scan, u64, Duration) {
        let store = Arc::new(SlowAtFirst { listings: AtomicU64::new(0), slow, seconds, fails });
        let begun_at = Instant::now();
        let source = LeaseSource::Store(store.clone());
        let scan = scan(source, Consistency::Eventual, Duration::from_secs(1)).await;
        (scan, store.listings.load(Ordering::Relaxed), begun_at.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_without_an_answer_is_repeated() {
        let (scan, listings, time) = scanned(1, 60, false).await;
        assert!(scan.listing.is_ok());
        assert_eq!((listings, time.as_secs()), (2, 1));
        assert_eq!(scan.duration, Duration::ZERO, "that of the listing which was answered");
        let (_, listings, time) = scanned(9, 60, false).await;
        assert_eq!((listings, time.as_secs()), (3, 60), "the repeats are bounded");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_counts_when_nothing_else_is_in_flight() {
        let (scan, listings, time) = scanned(1, 0, true).await;
        assert!(scan.listing.is_err());
        assert_eq!((listings, time.as_secs()), (1, 0));
        let (scan, listings, _) = scanned(2, 2, true).await;
        assert!(scan.listing.is_err());
        assert_eq!(listings, 2);
    }
}
