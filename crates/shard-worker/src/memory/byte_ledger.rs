//! The accounting of a memory budget: bytes in use and a queue of waiting requests, first come, first served; pure.

use std::collections::VecDeque;

/// The bytes in use, and the queue of waiting requests. `W` is the value that notifies the owner of a request.
#[derive(Debug)]
pub(crate) struct ByteLedger<W> {
    limit: u64,
    used: u64,
    most_used: u64,
    waiting: VecDeque<Waiting<W>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiting<W> {
    ticket: u64,
    bytes: u64,
    waiter: W,
}

/// The result of a request for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    /// The bytes are in use by the request now.
    Granted,
    /// The bytes are not free, or others wait already: the request has this number in the queue.
    Waiting(u64),
}

impl<W> ByteLedger<W> {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0, most_used: 0, waiting: VecDeque::new(), next_ticket: 0 }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The largest `used` so far.
    pub(crate) fn most_used(&self) -> u64 {
        self.most_used
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests bytes. No request overtakes a waiting one: small requests must not starve a large one.
    pub(crate) fn request(&mut self, bytes: u64, waiter: W) -> Requested {
        if self.waiting.is_empty() && self.fits(bytes) {
            self.use_more(bytes);
            return Requested::Granted;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push_back(Waiting { ticket, bytes, waiter });
        Requested::Waiting(ticket)
    }

    /// Leaves the queue; `false` when the bytes were granted in the meantime.
    pub(crate) fn withdraw(&mut self, ticket: u64) -> bool {
        // Tickets only grow towards the end of the queue.
        let found = self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket);
        found.is_ok_and(|index| self.waiting.remove(index).is_some())
    }

    /// Grants the first request in the queue if its bytes are free. Call it until it returns `None` after bytes were
    /// returned or a request left the queue.
    pub(crate) fn grant(&mut self) -> Option<W> {
        let bytes = self.waiting.front()?.bytes;
        if !self.fits(bytes) {
            return None;
        }
        self.use_more(bytes);
        self.waiting.pop_front().map(|waiting| waiting.waiter)
    }

    /// Changes the size of a granted request. It may exceed the limit, since the bytes are in memory already.
    pub(crate) fn change(&mut self, from: u64, to: u64) {
        self.used = self.used.saturating_sub(from);
        self.use_more(to);
    }

    /// Whether a request fits. One that is larger than the limit fits when no other bytes are in use.
    fn fits(&self, bytes: u64) -> bool {
        self.used == 0 || self.used.saturating_add(bytes) <= self.limit
    }

    fn use_more(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        self.most_used = self.most_used.max(self.used);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 100;

    #[derive(Debug, Clone)]
    enum Move {
        Request(u64),
        /// One of the granted requests shrinks to this percentage.
        Shrink(usize, u64),
        GiveBack(usize),
        Withdraw(usize),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            4 => (0..150_u64).prop_map(Move::Request),
            2 => (any::<usize>(), 0..=100_u64).prop_map(|(who, percent)| Move::Shrink(who, percent)),
            3 => any::<usize>().prop_map(Move::GiveBack),
            1 => any::<usize>().prop_map(Move::Withdraw),
        ]
    }

    /// The granted and the waiting requests, kept in the simplest way.
    #[derive(Default)]
    struct Model {
        has: BTreeMap<usize, u64>,
        /// In the order of the requests: who, the ticket, and how many bytes.
        waits: Vec<(usize, u64, u64)>,
        granted: Vec<usize>,
    }

    impl Model {
        fn grant(&mut self, ledger: &mut ByteLedger<usize>) {
            while let Some(who) = ledger.grant() {
                assert_eq!(who, self.waits[0].0, "first come, first served");
                let (_, _, bytes) = self.waits.remove(0);
                self.has.insert(who, bytes);
                self.granted.push(who);
            }
        }

        fn nth_with_bytes(&self, index: usize) -> Option<usize> {
            self.has.keys().copied().nth(index % self.has.len().max(1))
        }

        fn carry_out(&mut self, ledger: &mut ByteLedger<usize>, who: usize, step: &Move) {
            match step {
                Move::Request(bytes) => match ledger.request(*bytes, who) {
                    Requested::Granted => drop(self.has.insert(who, *bytes)),
                    Requested::Waiting(ticket) => self.waits.push((who, ticket, *bytes)),
                },
                Move::Shrink(index, percent) => {
                    if let Some(one) = self.nth_with_bytes(*index) {
                        let (before, after) = (self.has[&one], self.has[&one] * percent / 100);
                        ledger.change(before, after);
                        self.has.insert(one, after);
                    }
                }
                Move::GiveBack(index) => {
                    if let Some(one) = self.nth_with_bytes(*index) {
                        ledger.change(self.has.remove(&one).unwrap(), 0);
                    }
                }
                Move::Withdraw(index) => {
                    if !self.waits.is_empty() {
                        let (_, ticket, _) = self.waits.remove(index % self.waits.len());
                        assert!(ledger.withdraw(ticket));
                        assert!(!ledger.withdraw(ticket), "once");
                    }
                }
            }
            self.grant(ledger);
        }
    }

    proptest! {
        /// For any requests: the sum is right and within the limit, unless one request alone is larger; the queue is served
        /// in order; no request waits while it fits; and once all bytes are returned, all waiting requests are granted.
        #[test]
        fn the_sum_is_within_the_limit_and_every_request_is_granted(moves in prop::collection::vec(any_move(), 0..200)) {
            let (mut ledger, mut model) = (ByteLedger::new(LIMIT), Model::default());
            for (who, step) in moves.iter().enumerate() {
                model.carry_out(&mut ledger, who, step);
                prop_assert_eq!(ledger.used(), model.has.values().sum::<u64>());
                prop_assert!(ledger.most_used() >= ledger.used());
                let with_bytes = model.has.values().filter(|bytes| **bytes > 0).count();
                prop_assert!(ledger.used() <= LIMIT || with_bytes == 1, "{} of {}", ledger.used(), LIMIT);
                prop_assert_eq!(ledger.waiting(), model.waits.len());
                if let Some((_, _, bytes)) = model.waits.first() {
                    prop_assert!(ledger.used() > 0 && ledger.used() + bytes > LIMIT, "the request fits");
                }
            }
            while !model.has.is_empty() {
                model.carry_out(&mut ledger, 0, &Move::GiveBack(0));
            }
            prop_assert!(model.waits.is_empty());
            prop_assert_eq!(ledger.used(), 0);
        }
    }

    #[test]
    fn bytes_in_memory_count_even_beyond_the_limit() {
        let mut ledger = ByteLedger::new(LIMIT);
        assert_eq!(ledger.request(10, "a"), Requested::Granted);
        ledger.change(10, 120);
        assert_eq!((ledger.used(), ledger.most_used()), (120, 120));
        assert_eq!(
            ledger.request(0, "b"),
            Requested::Waiting(0),
            "not even a read that reserves nothing starts"
        );
        ledger.change(120, 40);
        assert_eq!(ledger.grant(), Some("b"));
        assert_eq!((ledger.used(), ledger.most_used()), (40, 120));
    }
}
