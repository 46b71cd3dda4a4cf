//! One budget of bytes for all shards of a process: memory is set aside before it is filled.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::byte_ledger::{Asked, ByteLedger};

/// The most bytes that records take in memory, over all shards, unless it is set otherwise: 128 MiB.
pub const DEFAULT_MAX_BUFFERED_BYTES: NonZeroU64 = NonZeroU64::MIN.saturating_add(128 * 1024 * 1024 - 1);

/// A budget of bytes for records, shared by all shards that were given a clone of it.
///
/// Each read reserves beforehand what its answer can take, at most; afterwards the reservation shrinks to what the answer
/// takes, and it ends when the last clone of its batch is dropped. Reads that find too little left wait in the order in
/// which they asked, so that a shard with much to read keeps no other one out. A reservation larger than the whole budget
/// is granted when nobody else has any.
#[derive(Clone)]
pub struct ByteBudget {
    ledger: Arc<Mutex<ByteLedger<oneshot::Sender<()>>>>,
}

/// How a budget is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ByteUsage {
    /// The budget, in bytes.
    pub limit_bytes: u64,
    /// Bytes in use now: of records that wait or are being processed, and set aside for reads under way.
    pub buffered_bytes: u64,
    /// The most bytes that were in use at a time so far.
    pub most_buffered_bytes: u64,
    /// Reads that wait for bytes.
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
    /// A budget of so many bytes.
    pub fn new(limit_bytes: NonZeroU64) -> Self {
        Self { ledger: Arc::new(Mutex::new(ByteLedger::new(limit_bytes.get()))) }
    }

    /// How it is used now.
    pub fn usage(&self) -> ByteUsage {
        let ledger = self.ledger();
        ByteUsage {
            limit_bytes: ledger.limit(),
            buffered_bytes: ledger.used(),
            most_buffered_bytes: ledger.most_used(),
            waiting_reads: ledger.waiting() as u64,
        }
    }

    /// Sets bytes aside, and waits until they are there. Dropping the future leaves the queue.
    pub async fn reserve(&self, bytes: u64) -> ByteReservation {
        let (sender, granted) = oneshot::channel();
        let asked = self.ledger().ask(bytes, sender);
        if let Asked::Waiting(ticket) = asked {
            let mut place = PlaceInQueue { budget: self, bytes, ticket, is_granted: false };
            // The sender stays in the queue until it is used, so an answer always comes.
            place.is_granted = granted.await.is_ok();
        }
        ByteReservation { budget: self.clone(), bytes }
    }

    /// Counts bytes that are in use already, without waiting: they may exceed the budget, and then hold new reservations
    /// back.
    pub fn count(&self, bytes: u64) -> ByteReservation {
        self.ledger().change(0, bytes);
        ByteReservation { budget: self.clone(), bytes }
    }

    fn ledger(&self) -> MutexGuard<'_, ByteLedger<oneshot::Sender<()>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those whose bytes are there now. One that went away gives them back by itself.
    fn grant(ledger: &mut ByteLedger<oneshot::Sender<()>>) {
        while let Some(waiter) = ledger.grant() {
            let _ = waiter.send(());
        }
    }
}

/// Somebody who waits; whoever stops waiting loses the place, and gives back what was granted unseen.
struct PlaceInQueue<'a> {
    budget: &'a ByteBudget,
    bytes: u64,
    ticket: u64,
    is_granted: bool,
}

impl Drop for PlaceInQueue<'_> {
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

/// Bytes of a [`ByteBudget`], given back when this is dropped.
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
    /// How many bytes it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Corrects it to what is really in memory. That may be more than was reserved: then new reads wait until the sum is
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
    async fn a_reservation_shrinks_and_goes_back() {
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
    async fn whoever_stops_waiting_keeps_nothing_and_lets_others_through() {
        let budget = budget(100);
        let held = budget.reserve(50).await;
        let mut large = Box::pin(budget.reserve(80));
        let mut small = Box::pin(budget.reserve(50));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none(), "nobody overtakes");
        drop(large);
        let small = small.now_or_never().unwrap();
        // Granted, but never looked at again.
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
    async fn what_is_there_already_is_counted_and_holds_others_back() {
        let budget = budget(100);
        let there = budget.count(150);
        assert_eq!(budget.usage().buffered_bytes, 150);
        let mut waiting = Box::pin(budget.reserve(0));
        assert!((&mut waiting).now_or_never().is_none());
        drop(there);
        waiting.await;
        assert_eq!(budget.usage().buffered_bytes, 0);
    }

    #[tokio::test]
    async fn what_is_larger_than_all_goes_through_alone() {
        let budget = budget(100);
        let held = budget.reserve(1).await;
        let mut huge = Box::pin(budget.reserve(1000));
        assert!((&mut huge).now_or_never().is_none());
        drop(held);
        assert_eq!(huge.await.bytes(), 1000);
    }
}
