//! What the holder of a lease does about the notes that an operator left in the row. [`order`] is the decision, and pure.

use std::future::pending;
use std::time::{Duration, SystemTime};

use lease_store::{HeldLease, OperatorNotes, OwnerAction, OwnerRequest};
use shard_worker::StreamClock;
use tokio::time::Instant;

/// What the holder does at the next batch boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Store the position of this request, and make the lease free.
    Reset(OwnerRequest),
    /// Release the lease, and leave it to others for a while.
    Release,
    /// Release the lease. No worker takes it before the pause is over.
    Pause,
}

/// Decides what a holder does about the notes in its row. A request comes before a pause: it works during a pause too, and
/// the pause stays in the row.
pub(crate) fn order(notes: &OperatorNotes, now_millis: Option<u64>) -> Option<Order> {
    if let Some(request) = &notes.request {
        return Some(match &request.action {
            OwnerAction::Reset { .. } => Order::Reset(request.clone()),
            OwnerAction::Release => Order::Release,
        });
    }
    let is_paused = notes.pause.as_ref().is_some_and(|pause| pause.is_in_force(now_millis));
    is_paused.then_some(Order::Pause)
}

/// The time by the clock of the stream, in milliseconds since 1970. It decides about pauses only, never about ownership.
pub(crate) fn millis_of(clock: Option<StreamClock>) -> Option<u64> {
    let since_1970 = clock?.at(Instant::now()).duration_since(SystemTime::UNIX_EPOCH).ok();
    since_1970.as_ref().map(Duration::as_millis).and_then(|millis| u64::try_from(millis).ok())
}

/// Waits until the row has an order for its holder, who learns of it from the answers to its own writes.
pub(crate) async fn next_order(held: &HeldLease, clock: Option<StreamClock>) -> Order {
    let mut notes = held.operator_notes();
    loop {
        if let Some(order) = order(&notes.borrow_and_update(), millis_of(clock)) {
            return order;
        }
        if notes.changed().await.is_err() {
            // Cannot happen: the sender lives as long as the lease handle.
            return pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{Lease, Position, ShardId, WorkerId};
    use proptest::prelude::*;

    use super::*;

    fn notes(request: Option<OwnerRequest>, pause: Option<lease_store::Pause>) -> OperatorNotes {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.owner = WorkerId::new("a").ok();
        lease.owner_request_text = request.map(|request| request.to_string());
        lease.pause_text = pause.map(|pause| pause.to_string());
        OperatorNotes::of(&lease)
    }

    proptest! {
        /// A request to this owner is always carried out, a pause exactly until its end, and nothing else stops a shard.
        #[test]
        fn only_requests_and_pauses_in_force_stop_a_shard(
            to_me in any::<Option<bool>>(),
            is_release in any::<bool>(),
            millis in any::<Option<u64>>(),
            until in proptest::option::of(any::<Option<u64>>()),
            now in any::<Option<u64>>(),
        ) {
            let action = match is_release {
                true => OwnerAction::Release,
                false => OwnerAction::Reset { position: Position::Latest, initial_time_millis: millis },
            };
            let request = to_me.map(|to_me| OwnerRequest {
                id: 7,
                owner: WorkerId::new(if to_me { "a" } else { "b" }).unwrap(),
                action,
            });
            let pause = until.map(|until_millis| lease_store::Pause { until_millis, by: "me".to_owned() });
            let found = order(&notes(request.clone(), pause), now);
            let is_paused = match (until, now) {
                (None, _) => false,
                (Some(Some(until)), Some(now)) => now < until,
                (Some(_), _) => true,
            };
            let expected = match request.filter(|_| to_me == Some(true)) {
                Some(_) if is_release => Some(Order::Release),
                Some(request) => Some(Order::Reset(request)),
                None => is_paused.then_some(Order::Pause),
            };
            prop_assert_eq!(found, expected);
        }
    }
}
