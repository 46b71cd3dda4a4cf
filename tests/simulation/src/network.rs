//! The network between a process and the services: latency, partitions and paused processes.
//!
//! All processes share one runtime and one clock, so a pause cannot stop a single process. The model applies a pause
//! at the process's borders: it sends no call, receives no answer, and its handlers do not continue. Its timers still
//! run. A paused process therefore notices the loss of its leases during the pause instead of afterwards.
//!
//! Calls decided before or during the pause are sent when it ends, which is the dangerous effect of a pause. The
//! model does not cover a process that resumes and finds all of its timers overdue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::plan::FaultRates;

/// How long a call waits for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Permille of the one-way latencies that are long where calls have long tails: a call has two.
const LONG_LEGS_PERMILLE: u64 = 5;

/// A long one-way latency, in milliseconds.
pub const LONG_LEG_MILLIS: u64 = 5_000;

/// Bound of the other one-way latencies where calls have long tails, in milliseconds.
const ORDINARY_LEG_MILLIS: u64 = 125;

/// The fault rates that a service currently applies to all processes.
#[derive(Debug, Clone, Default)]
pub struct CurrentRates {
    now: Arc<Mutex<(FaultRates, Option<Instant>)>>,
}

impl CurrentRates {
    /// Applies these rates for `time`.
    pub fn set(&self, rates: FaultRates, time: Duration) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (rates, Some(Instant::now() + time));
    }

    /// Returns the rates that apply now.
    pub fn now(&self) -> FaultRates {
        let (rates, until) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) if Instant::now() < until => rates,
            _ => FaultRates::default(),
        }
    }
}

/// A service that a process calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The lease table.
    Table,
    /// The stream.
    Stream,
}

/// The fault that hits one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFault {
    /// None: the call arrives, and so does its answer.
    None,
    /// The service throttles the call.
    Throttled,
    /// The service is unavailable.
    Unavailable,
    /// The call arrives and its answer is lost. A read gets an empty page.
    AnswerLost,
    /// The call is lost. A read gets an expired iterator.
    RequestLost,
    /// The call arrives much later.
    Delayed,
}

/// The network link from one process to the services. Clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    paused_until: Option<Instant>,
    has_long_tails: bool,
    /// For each service: the end of the partition, and whether only answers are lost.
    partitions: [Option<(Instant, bool)>; 2],
}

impl Link {
    /// Creates a link without faults.
    pub fn new(rng: Rng, has_long_tails: bool) -> Self {
        let state = State { rng, paused_until: None, has_long_tails, partitions: [None; 2] };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses the process for `time`.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let state = &mut *self.state();
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// Cuts the process off from a service for `time`.
    pub fn partition(&self, destination: Destination, time: Duration, is_one_way: bool) {
        self.state().partitions[destination as usize] = Some((Instant::now() + time, is_one_way));
    }

    /// Waits until the process is no longer paused.
    pub async fn wait_while_paused(&self) {
        loop {
            let until = self.state().paused_until;
            match until {
                Some(until) if Instant::now() < until => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Draws a number below `bound` from this process's own generator.
    pub fn draw(&self, bound: u64) -> u64 {
        self.state().rng.u64(..bound.max(1))
    }

    /// Draws the fault that hits the next call. The caller waits for the time-out of a call without an answer.
    pub fn draw_fault(&self, destination: Destination, rates: FaultRates) -> CallFault {
        let state = &mut *self.state();
        if let Some((until, is_one_way)) = state.partitions[destination as usize]
            && Instant::now() < until
        {
            return if is_one_way { CallFault::AnswerLost } else { CallFault::RequestLost };
        }
        if rates == FaultRates::default() {
            return CallFault::None;
        }
        let mut happens = |share: u64| share > 0 && state.rng.u64(..1000) < share;
        if happens(rates.throttled) {
            CallFault::Throttled
        } else if happens(rates.unavailable) {
            CallFault::Unavailable
        } else if happens(rates.answer_lost) {
            CallFault::AnswerLost
        } else if happens(rates.request_lost) {
            CallFault::RequestLost
        } else if happens(rates.delayed) {
            CallFault::Delayed
        } else {
            CallFault::None
        }
    }

    /// Whether the process is cut off from a service.
    pub fn is_partitioned(&self, destination: Destination) -> bool {
        self.state().partitions[destination as usize].is_some_and(|(until, _)| Instant::now() < until)
    }

    /// Waits for the one-way latency: a few milliseconds, now and then much more.
    pub async fn wait_latency(&self, rates: FaultRates) {
        sleep(self.draw_latency(rates)).await;
    }

    /// Draws a one-way latency.
    pub fn draw_latency(&self, rates: FaultRates) -> Duration {
        let millis = {
            let state = &mut *self.state();
            if state.has_long_tails && state.rng.u64(..1000) < LONG_LEGS_PERMILLE {
                LONG_LEG_MILLIS
            } else if state.has_long_tails {
                state.rng.u64(1..ORDINARY_LEG_MILLIS)
            } else {
                let is_slow = state.rng.u64(..1000) < rates.slow;
                let is_tail = state.rng.u64(..1000) < 3;
                if is_slow {
                    state.rng.u64(300..3000)
                } else if is_tail {
                    state.rng.u64(50..700)
                } else {
                    state.rng.u64(1..6)
                }
            }
        };
        Duration::from_millis(millis)
    }

    /// Waits until a call without an answer times out.
    pub async fn wait_for_timeout(&self) {
        sleep(CALL_TIMEOUT).await;
        self.wait_while_paused().await;
    }
}
