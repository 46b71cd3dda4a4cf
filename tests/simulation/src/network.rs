//! Between a process and the services: latency, partitions, and the gate behind which a paused process stands.
//!
//! All processes share one runtime and its one clock, so a pause cannot stop a single process. It is modelled at its
//! borders: while a process is paused no call of it leaves, no answer reaches it, and its application does not go on.
//! What it does in between, timers included, still runs. So a paused process notices the loss of its leases during the
//! pause and not when it wakes up; what it had sent or decided before is held at the gate and goes out afterwards, which
//! is the dangerous part of a pause. That a process wakes up and finds all of its timers overdue is not modelled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::plan::Weather;

/// How long a call waits for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The weather of a service, the same for all processes.
#[derive(Debug, Clone, Default)]
pub struct Sky {
    now: Arc<Mutex<(Weather, Option<Instant>)>>,
}

impl Sky {
    /// This weather, for so long.
    pub fn set(&self, weather: Weather, time: Duration) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (weather, Some(Instant::now() + time));
    }

    /// The weather now.
    pub fn now(&self) -> Weather {
        let (weather, until) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) if Instant::now() < until => weather,
            _ => Weather::default(),
        }
    }
}

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The lease table.
    Table,
    /// The stream.
    Stream,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and so does its answer.
    Fine,
    /// Refused for the load.
    Throttled,
    /// Refused for no reason.
    Unavailable,
    /// It arrives; the answer does not. For reads: an empty page.
    Applied,
    /// It does not arrive. For reads: the iterator has expired.
    Dropped,
    /// It arrives much later.
    Late,
}

/// The way of one process to the services. Clones are the same way.
#[derive(Debug, Clone)]
pub struct Link {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    paused_until: Option<Instant>,
    /// For each service: until when, and whether only answers are lost.
    cuts: [Option<(Instant, bool)>; 2],
}

impl Link {
    /// A way without faults.
    pub fn new(rng: Rng) -> Self {
        let state = State { rng, paused_until: None, cuts: [None; 2] };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nothing through for so long.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let state = &mut *self.state();
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// Cuts a service off for so long.
    pub fn cut(&self, service: Service, time: Duration, is_one_way: bool) {
        self.state().cuts[service as usize] = Some((Instant::now() + time, is_one_way));
    }

    /// Waits while the process is paused.
    pub async fn pass(&self) {
        loop {
            let until = self.state().paused_until;
            match until {
                Some(until) if Instant::now() < until => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// A number from this process's own generator.
    pub fn draw(&self, bound: u64) -> u64 {
        self.state().rng.u64(..bound.max(1))
    }

    /// What becomes of the next call; a call that nobody answers has used up its time when this returns, but for the
    /// part that arrives.
    pub fn fate(&self, service: Service, weather: Weather) -> Fate {
        let state = &mut *self.state();
        if let Some((until, is_one_way)) = state.cuts[service as usize]
            && Instant::now() < until
        {
            return if is_one_way { Fate::Applied } else { Fate::Dropped };
        }
        if weather == Weather::default() {
            return Fate::Fine;
        }
        let mut happens = |share: u64| share > 0 && state.rng.u64(..1000) < share;
        if happens(weather.throttled) {
            Fate::Throttled
        } else if happens(weather.unavailable) {
            Fate::Unavailable
        } else if happens(weather.applied) {
            Fate::Applied
        } else if happens(weather.dropped) {
            Fate::Dropped
        } else if happens(weather.late) {
            Fate::Late
        } else {
            Fate::Fine
        }
    }

    /// Whether a service is out of reach.
    pub fn is_cut(&self, service: Service) -> bool {
        self.state().cuts[service as usize].is_some_and(|(until, _)| Instant::now() < until)
    }

    /// The time one way takes: a few milliseconds, now and then much more.
    pub async fn travel(&self, weather: Weather) {
        let millis = {
            let state = &mut *self.state();
            let is_slow = state.rng.u64(..1000) < weather.slow;
            let is_tail = state.rng.u64(..1000) < 3;
            if is_slow {
                state.rng.u64(300..3000)
            } else if is_tail {
                state.rng.u64(50..700)
            } else {
                state.rng.u64(1..6)
            }
        };
        sleep(Duration::from_millis(millis)).await;
    }

    /// The time until a call without an answer is given up.
    pub async fn time_out(&self) {
        sleep(CALL_TIMEOUT).await;
        self.pass().await;
    }
}
