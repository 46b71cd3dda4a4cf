//! One memory budget for all shards of a process: memory is reserved before it is filled.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::byte_ledger::{ByteLedger, Requested};

/// The default of the memory for records, over all shards, in bytes: 128 MiB.
pub const DEFAULT_MAX_BUFFERED_BYTES: NonZeroU64 = NonZeroU64::MIN.saturating_add(128 * 1024 * 1024 - 1);

/// A memory budget for records, in bytes, shared by all shards that own a clone of it.
///
/// Each read first reserves the memory that its answer can take at most. Then the reservation shrinks to the size of the
/// answer, and it ends when the last clone of its batch is dropped. Reads that do not fit wait in the order of their
/// requests, so that a busy shard starves no other. A reservation larger than the whole budget is granted when no other
/// reservation exists.
///
/// ```
/// use std::num::NonZeroU64;
/// use shard_worker::ByteBudget;
///
/// // Two consumers in one process share 64 MiB: give each a clone.
/// let budget = ByteBudget::new(NonZeroU64::new(64 << 20).expect("64 MiB is not zero"));
/// let records = budget.clone().count(1024);
/// assert_eq!(budget.usage().buffered_bytes, 1024);
/// drop(records);
/// assert_eq!(budget.usage().buffered_bytes, 0);
/// ```
#[derive(Clone)]
pub struct ByteBudget {
    ledger: Arc<Mutex<ByteLedger<oneshot::Sender<()>>>>,
}

/// How a budget is used.
///
/// ```
/// use shard_worker::ByteBudget;
///
/// let usage = ByteBudget::default().usage();
/// assert!(usage.buffered_bytes <= usage.limit_bytes);
/// assert_eq!(usage.waiting_reads, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByteUsage {
    /// The budget, in bytes.
    pub limit_bytes: u64,
    /// Bytes in use now: records that wait or are being processed, and reservations of running reads.
    pub buffered_bytes: u64,
    /// The largest `buffered_bytes` so far.
    pub most_buffered_bytes: u64,
    /// Reads that wait for a reservation.
    pub waiting_reads: u64,
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ByteBudget").field(&self.usage()).finish()
    }
}

impl Default for ByteBudget {
    /// 128 MiB.
    fn default() -> Self {
        Self::new(DEFAULT_MAX_BUFFERED_BYTES)
    }
}

impl ByteBudget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: NonZeroU64) -> Self {
        Self { ledger: Arc::new(Mutex::new(ByteLedger::new(limit_bytes.get()))) }
    }

    /// The usage now.
    pub fn usage(&self) -> ByteUsage {
        let ledger = self.ledger();
        ByteUsage {
            limit_bytes: ledger.limit(),
            buffered_bytes: ledger.used(),
            most_buffered_bytes: ledger.most_used(),
            waiting_reads: ledger.waiting() as u64,
        }
    }

    /// Reserves bytes, and waits until they are free. Dropping the future leaves the queue.
    pub async fn reserve(&self, bytes: u64) -> ByteReservation {
        let (sender, granted) = oneshot::channel();
        let requested = self.ledger().request(bytes, sender);
        if let Requested::Waiting(ticket) = requested {
            let mut queued = QueuedRequest { budget: self, bytes, ticket, is_granted: false };
            // The sender stays in the queue until the bytes are granted, so the receiver gets an answer.
            queued.is_granted = granted.await.is_ok();
        }
        ByteReservation { budget: self.clone(), bytes }
    }

    /// Counts bytes that are in use already, without waiting. They may exceed the budget, which delays new reservations.
    pub fn count(&self, bytes: u64) -> ByteReservation {
        self.ledger().change(0, bytes);
        ByteReservation { budget: self.clone(), bytes }
    }

    fn ledger(&self) -> MutexGuard<'_, ByteLedger<oneshot::Sender<()>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the waiting requests that fit now. A request whose future was dropped returns its bytes itself.
    fn grant(ledger: &mut ByteLedger<oneshot::Sender<()>>) {
        while let Some(waiter) = ledger.grant() {
            let _ = waiter.send(());
        }
    }
}

/// A request in the queue. Dropping it leaves the queue, and returns bytes that were granted but not yet received.
struct QueuedRequest<'a> {
    budget: &'a ByteBudget,
    bytes: u64,
    ticket: u64,
    is_granted: bool,
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        if self.is_granted {
            return;
        }
        let mut ledger = self.budget.ledger();
        if !ledger.withdraw(self.ticket) {
            ledger.change(self.bytes, 0);
        }
        ByteBudget::grant(&mut ledger);
    }
}

/// Bytes of a [`ByteBudget`], returned when this is dropped.
pub struct ByteReservation {
    budget: ByteBudget,
    bytes: u64,
}

impl fmt::Debug for ByteReservation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ByteReservation").field(&self.bytes).finish()
    }
}

impl ByteReservation {
    /// The number of reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes it to the bytes that are in use. These may be more than were reserved: then new reads wait until the sum is
    /// within the budget again.
    pub fn resize(&mut self, bytes: u64) {
        let mut ledger = self.budget.ledger();
        ledger.change(self.bytes, bytes);
        self.bytes = bytes;
        ByteBudget::grant(&mut ledger);
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn budget(limit_bytes: u64) -> ByteBudget {
        ByteBudget::new(NonZeroU64::new(limit_bytes).unwrap())
    }

    #[tokio::test]
    async fn a_reservation_shrinks_and_is_returned() {
        let budget = budget(100);
        let mut first = budget.reserve(80).await;
        let mut second = Box::pin(budget.reserve(60));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(budget.usage().waiting_reads, 1);
        first.resize(40);
        let second = second.now_or_never().unwrap();
        assert_eq!((budget.usage().buffered_bytes, budget.usage().most_buffered_bytes), (100, 100));
        drop((first, second));
        assert_eq!(budget.usage().buffered_bytes, 0);
    }

    #[tokio::test]
    async fn a_dropped_request_keeps_no_bytes_and_delays_no_other() {
        let budget = budget(100);
        let held = budget.reserve(50).await;
        let mut large = Box::pin(budget.reserve(80));
        let mut small = Box::pin(budget.reserve(50));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none(), "a later request does not overtake");
        drop(large);
        let small = small.now_or_never().unwrap();
        // Granted, but never polled again.
        let mut unseen = Box::pin(budget.reserve(100));
        assert!((&mut unseen).now_or_never().is_none());
        drop((held, small));
        assert_eq!(budget.usage().buffered_bytes, 100);
        drop(unseen);
        assert_eq!(
            budget.usage(),
            ByteUsage { limit_bytes: 100, most_buffered_bytes: 100, ..Default::default() }
        );
    }

    #[tokio::test]
    async fn counted_bytes_delay_new_reservations() {
        let budget = budget(100);
        let counted = budget.count(150);
        assert_eq!(budget.usage().buffered_bytes, 150);
        let mut waiting = Box::pin(budget.reserve(0));
        assert!((&mut waiting).now_or_never().is_none());
        drop(counted);
        waiting.await;
        assert_eq!(budget.usage().buffered_bytes, 0);
    }

    #[tokio::test]
    async fn a_request_larger_than_the_budget_is_granted_alone() {
        let budget = budget(100);
        let held = budget.reserve(1).await;
        let mut huge = Box::pin(budget.reserve(1000));
        assert!((&mut huge).now_or_never().is_none());
        drop(held);
        assert_eq!(huge.await.bytes(), 1000);
    }
}
