//! What a shard worker does next: a state machine without I/O.
//!
//! ```text
//!             Initialize ──► Fetch ◄──► Process        stop: as soon as the step under way allows
//!                              │ ▲         │                      │
//!                     end seen │ │ room    │                      │
//!                              ▼ │         ▼                      │
//!                             Settle ◄─────┴──────────────────────┘
//!                              │   └──────────── stopping ──► NotifyStop ──► Flush ──► Finish(Stopped)
//!                              ▼
//!                          NotifyEnd ──► RecordEnd ──► Finish(Ended)
//!
//!             lease lost, at any time ──► NotifyLoss ──► Finish(LeaseLost)
//!             no progress, given up   ──► Flush ──► NotifyLoss ──► Finish(GivenUp)
//! ```
//!
//! A step that failed is done again after a wait, and nothing else comes in between: that is why no batch is ever
//! skipped. The batch itself stays with the task; the machine only says what to do with it.

/// How the work on a shard ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardOutcome {
    /// The shard is read to its end, and that is recorded; its children may start.
    Ended,
    /// The worker was asked to stop.
    Stopped {
        /// Whether everything that was delivered is acknowledged and checkpointed, so that the next owner reads
        /// nothing again.
        drained: bool,
    },
    /// Another worker owns the shard now, or nothing can be written to the lease any more.
    LeaseLost,
    /// It made no progress for too long: the lease is given up, so that another worker can try.
    GivenUp,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the processor and let it initialise.
    Initialize,
    /// Read the next records.
    Fetch,
    /// Hand the next batch to the processor.
    Process,
    /// Wait for what the processor acknowledges later: all of it at the end and at a stop, otherwise as much as makes
    /// room.
    Settle,
    /// Tell the processor that the shard has ended.
    NotifyEnd,
    /// Record the end of the shard, children first.
    RecordEnd,
    /// Tell the processor that the worker is stopping.
    NotifyStop,
    /// Write the last checkpoint.
    Flush,
    /// Tell the processor that the lease is lost.
    NotifyLoss,
    /// Nothing more.
    Finish(ShardOutcome),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The step is done.
    Succeeded,
    /// `Fetch` is done.
    Fetched {
        /// There are records to process.
        records: bool,
        /// Nothing comes after them.
        end: bool,
    },
    /// `Fetch` has read the shard up to the bound of a bounded run, and all of that is processed or deferred.
    AtBound,
    /// `Fetch` reads nothing before more is acknowledged.
    NoRoom,
    /// `Process` is done with a part, and there is more.
    MoreToProcess,
    /// `Settle` is done.
    Settled {
        /// Everything that was delivered is acknowledged.
        all: bool,
        /// The application began with something and has not finished it.
        left: bool,
    },
    /// Something that was to be acknowledged later has to be processed again.
    Redeliver {
        /// Not before a wait.
        wait: bool,
    },
    /// The step failed and has to be done again.
    Failed,
    /// Somebody asked the worker to stop.
    StopRequested,
    /// The work has to start anew, at what is acknowledged.
    Restart,
    /// The shard is to be left to others.
    GiveUp,
    /// The lease is lost.
    LeaseLost,
}

/// Where a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardLife {
    step: Step,
    /// The step failed before; wait before doing it again.
    retrying: bool,
    initialized: bool,
    end_seen: bool,
    /// The bound of a bounded run is reached: the worker stops by itself when everything is acknowledged.
    is_at_bound: bool,
    stopping: bool,
    giving_up: bool,
    /// Something that was delivered is left unacknowledged.
    is_left: bool,
}

impl ShardLife {
    pub(crate) fn new() -> Self {
        Self {
            step: Step::Initialize,
            retrying: false,
            initialized: false,
            end_seen: false,
            is_at_bound: false,
            stopping: false,
            giving_up: false,
            is_left: false,
        }
    }

    /// What to do now.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// Whether to wait before the step, because it failed the last time.
    pub(crate) fn is_retrying(&self) -> bool {
        self.retrying
    }

    /// Whether a stop was asked for already.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the shard is being left to others.
    pub(crate) fn is_giving_up(&self) -> bool {
        self.giving_up
    }

    /// Whether the shard is read up to the bound of a bounded run, and nothing of that is yet to be handed over.
    pub(crate) fn is_at_bound(&self) -> bool {
        self.is_at_bound
    }

    /// Whether `Settle` has to wait for everything, and not only for room.
    pub(crate) fn settles_all(&self) -> bool {
        self.end_seen || self.is_at_bound || self.stopping
    }

    /// Whether a stop may cut the step short: nothing is lost when a read or a wait is. Code of the application is
    /// never cut short by a stop.
    pub(crate) fn is_interruptible(&self) -> bool {
        self.step == Step::Fetch || self.retrying
    }

    /// Whether the work may start anew, or the shard be given up, instead of the step.
    pub(crate) fn is_breakable(&self) -> bool {
        let is_ending =
            matches!(self.step, Step::NotifyStop | Step::Flush | Step::NotifyLoss | Step::Finish(_));
        !is_ending && !self.stopping && !self.giving_up
    }

    /// Takes note of what happened and decides what to do next.
    pub(crate) fn on(&mut self, event: Event) {
        if matches!(self.step, Step::Finish(_)) {
            return;
        }
        match event {
            Event::LeaseLost => self.lose(),
            Event::StopRequested => {
                self.stopping = true;
                if self.is_interruptible() {
                    self.stop();
                }
            }
            // After a wait, since whatever it was can happen again at once.
            Event::Restart if self.is_breakable() => *self = Self { retrying: true, ..Self::new() },
            Event::GiveUp if self.is_breakable() => {
                self.giving_up = true;
                self.go(Step::Flush);
            }
            Event::Restart | Event::GiveUp => {}
            Event::Failed => self.fail(),
            Event::Succeeded => self.succeed(),
            Event::Fetched { records, end } => {
                self.end_seen |= end;
                self.go(match (records, end) {
                    (true, _) => Step::Process,
                    (false, true) => Step::Settle,
                    (false, false) => Step::Fetch,
                });
            }
            Event::NoRoom => self.go(Step::Settle),
            Event::AtBound => {
                self.is_at_bound = true;
                self.go(Step::Settle);
            }
            Event::MoreToProcess if self.stopping => self.stop(),
            Event::MoreToProcess => self.go(Step::Process),
            Event::Redeliver { .. } if self.stopping => self.stop(),
            Event::Redeliver { wait } => {
                self.go(Step::Process);
                self.retrying = wait;
            }
            // With the end in sight it is reached even when stopping: nothing is left to read, and the children start.
            Event::Settled { all: true, .. } if self.end_seen => self.go(Step::NotifyEnd),
            Event::Settled { left, .. } if self.stopping => {
                self.is_left |= left;
                self.go(Step::NotifyStop);
            }
            Event::Settled { all: true, .. } if self.is_at_bound => {
                self.stopping = true;
                self.go(Step::NotifyStop);
            }
            Event::Settled { .. } if self.end_seen || self.is_at_bound => self.go(Step::Settle),
            Event::Settled { .. } => self.go(Step::Fetch),
        }
    }

    fn go(&mut self, step: Step) {
        self.step = step;
        self.retrying = false;
    }

    fn succeed(&mut self) {
        match self.step {
            Step::Initialize => {
                self.initialized = true;
                self.go(Step::Fetch);
                if self.stopping {
                    self.stop();
                }
            }
            Step::Fetch | Step::Settle => {}
            Step::Process if self.settles_all() => self.go(Step::Settle),
            Step::Process => self.go(Step::Fetch),
            Step::NotifyEnd => self.go(Step::RecordEnd),
            Step::RecordEnd => self.go(Step::Finish(ShardOutcome::Ended)),
            Step::NotifyStop => self.go(Step::Flush),
            Step::Flush if self.giving_up => self.leave(),
            Step::Flush => self.go(Step::Finish(ShardOutcome::Stopped { drained: !self.is_left })),
            Step::NotifyLoss if self.giving_up => self.go(Step::Finish(ShardOutcome::GivenUp)),
            Step::NotifyLoss => self.go(Step::Finish(ShardOutcome::LeaseLost)),
            Step::Finish(_) => {}
        }
    }

    fn fail(&mut self) {
        match self.step {
            Step::Settle if self.stopping => {
                self.is_left = true;
                self.go(Step::NotifyStop);
            }
            Step::NotifyEnd | Step::RecordEnd if self.stopping => self.go(Step::NotifyStop),
            Step::Initialize | Step::Fetch | Step::Process if self.stopping => self.stop(),
            Step::Initialize
            | Step::Fetch
            | Step::Process
            | Step::Settle
            | Step::NotifyEnd
            | Step::RecordEnd => self.retrying = true,
            Step::NotifyStop => self.go(Step::Flush),
            Step::Flush if !self.giving_up => self.go(Step::Finish(ShardOutcome::Stopped { drained: false })),
            Step::Flush | Step::NotifyLoss => self.succeed(),
            Step::Finish(_) => {}
        }
    }

    fn stop(&mut self) {
        if self.initialized {
            self.go(Step::Settle);
        } else {
            self.go(Step::Finish(ShardOutcome::Stopped { drained: true }));
        }
    }

    /// After the last checkpoint of a shard that is given up.
    fn leave(&mut self) {
        self.go(if self.initialized { Step::NotifyLoss } else { Step::Finish(ShardOutcome::GivenUp) });
    }

    fn lose(&mut self) {
        self.giving_up = false;
        match self.step {
            Step::NotifyLoss => {}
            _ if self.initialized => self.go(Step::NotifyLoss),
            _ => self.go(Step::Finish(ShardOutcome::LeaseLost)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life_after(events: &[Event]) -> ShardLife {
        let mut life = ShardLife::new();
        for event in events {
            life.on(*event);
        }
        life
    }

    const RECORDS: Event = Event::Fetched { records: true, end: false };
    const LAST_RECORDS: Event = Event::Fetched { records: true, end: true };
    const EMPTY_END: Event = Event::Fetched { records: false, end: true };
    const ALL: Event = Event::Settled { all: true, left: false };
    const NOT_ALL: Event = Event::Settled { all: false, left: true };
    use Event::{Failed, StopRequested, Succeeded};

    #[test]
    fn an_empty_parent_ends_without_a_batch() {
        let life = life_after(&[Succeeded, EMPTY_END, ALL]);
        assert_eq!(life.step(), Step::NotifyEnd);
        let life = life_after(&[Succeeded, EMPTY_END, ALL, Succeeded, Succeeded]);
        assert_eq!(life.step(), Step::Finish(ShardOutcome::Ended));
    }

    #[test]
    fn the_last_batch_is_processed_and_acknowledged_before_the_end() {
        let life = life_after(&[Succeeded, LAST_RECORDS]);
        assert_eq!(life.step(), Step::Process);
        let life = life_after(&[Succeeded, LAST_RECORDS, Failed, Failed]);
        assert_eq!(life.step(), Step::Process);
        let life = life_after(&[Succeeded, LAST_RECORDS, Failed, Succeeded]);
        assert_eq!(life.step(), Step::Settle);
        let life = life_after(&[Succeeded, LAST_RECORDS, Succeeded, NOT_ALL]);
        assert_eq!(life.step(), Step::Settle);
        let life = life_after(&[Succeeded, LAST_RECORDS, Succeeded, Event::Redeliver { wait: true }]);
        assert_eq!((life.step(), life.is_retrying()), (Step::Process, true));
    }

    #[test]
    fn a_stop_waits_for_the_handler_but_not_for_a_read() {
        let reading = life_after(&[Succeeded, StopRequested, ALL]);
        assert_eq!(reading.step(), Step::NotifyStop);
        let processing = life_after(&[Succeeded, RECORDS, StopRequested]);
        assert_eq!(processing.step(), Step::Process);
        let done = [Succeeded, RECORDS, StopRequested, Succeeded, ALL];
        assert_eq!(life_after(&done).step(), Step::NotifyStop);
        let all = [&done[..], &[Succeeded, Succeeded]].concat();
        assert_eq!(life_after(&all).step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
    }

    #[test]
    fn a_batch_given_up_by_a_stop_is_not_called_drained() {
        let not_drained = Step::Finish(ShardOutcome::Stopped { drained: false });
        let given_up = [Succeeded, RECORDS, Failed, StopRequested, NOT_ALL, Succeeded, Succeeded];
        assert_eq!(life_after(&given_up).step(), not_drained);
        let not_stored = [Succeeded, RECORDS, StopRequested, Succeeded, ALL, Succeeded, Failed];
        assert_eq!(life_after(&not_stored).step(), not_drained);
        let not_settled = [Succeeded, RECORDS, Succeeded, StopRequested, Failed, Succeeded, Succeeded];
        assert_eq!(life_after(&not_settled).step(), not_drained);
    }

    #[test]
    fn a_bound_is_a_stop_when_everything_is_acknowledged() {
        let at_bound = [Succeeded, RECORDS, Succeeded, Event::AtBound];
        assert_eq!(life_after(&at_bound).step(), Step::Settle);
        assert!(life_after(&at_bound).settles_all());
        let waiting = [&at_bound[..], &[NOT_ALL]].concat();
        assert_eq!(life_after(&waiting).step(), Step::Settle, "it waits as long as it takes");
        let again = [&waiting[..], &[Event::Redeliver { wait: false }]].concat();
        assert_eq!(life_after(&again).step(), Step::Process);
        assert_eq!(life_after(&[&again[..], &[Succeeded]].concat()).step(), Step::Settle);
        let done = [&again[..], &[Succeeded, ALL, Succeeded, Succeeded]].concat();
        assert_eq!(life_after(&done).step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
    }

    #[test]
    fn a_processor_that_never_started_is_told_nothing() {
        assert_eq!(life_after(&[Event::LeaseLost]).step(), Step::Finish(ShardOutcome::LeaseLost));
        let stopped = life_after(&[Failed, StopRequested]);
        assert_eq!(stopped.step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
        let given_up = life_after(&[Failed, Event::GiveUp, Succeeded]);
        assert_eq!(given_up.step(), Step::Finish(ShardOutcome::GivenUp));
    }

    #[test]
    fn what_makes_no_progress_starts_anew_and_is_given_up_in_the_end() {
        let hung = [Succeeded, LAST_RECORDS, Event::Restart];
        assert_eq!(life_after(&hung), ShardLife { retrying: true, ..ShardLife::new() });
        let given_up = [Succeeded, RECORDS, Event::GiveUp];
        assert_eq!(life_after(&given_up).step(), Step::Flush);
        for flushed in [Succeeded, Failed] {
            let life = life_after(&[&given_up[..], &[flushed]].concat());
            assert_eq!(life.step(), Step::NotifyLoss);
            let life = life_after(&[&given_up[..], &[flushed, Succeeded]].concat());
            assert_eq!(life.step(), Step::Finish(ShardOutcome::GivenUp));
        }
        let stopping = [Succeeded, RECORDS, StopRequested, Event::Restart, Event::GiveUp];
        assert_eq!(life_after(&stopping).step(), Step::Process, "a stop has its own limit of time");
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            10 => Just(Succeeded),
            6 => Just(Failed),
            2 => Just(StopRequested),
            2 => Just(Event::LeaseLost),
            1 => Just(Event::Restart),
            1 => Just(Event::GiveUp),
        ]
    }

    proptest! {
        /// Whatever happens: every batch is processed until it succeeds before anything else is read, the end is recorded
        /// only when everything is acknowledged; after a loss nothing is read, processed or written; a stop ends the life
        /// in a bounded number of steps.
        #[test]
        fn no_batch_is_skipped(
            events in prop::collection::vec((any_event(), any::<u64>()), 0..300)
        ) {
            let mut life = ShardLife::new();
            // Batches to be processed, and those that the application has deferred.
            let (mut waiting, mut deferred) = (0_u32, 0_u32);
            let (mut lost, mut steps_since_stop) = (false, 0);
            for (event, draw) in events {
                let step = life.step();
                match step {
                    Step::Fetch => prop_assert_eq!(waiting, 0),
                    Step::NotifyEnd | Step::RecordEnd | Step::Finish(ShardOutcome::Ended) => {
                        prop_assert_eq!((waiting, deferred), (0, 0), "{:?}", step);
                    }
                    Step::Process => prop_assert!(waiting > 0),
                    Step::Finish(ShardOutcome::Stopped { drained }) => {
                        prop_assert!(!drained || (waiting, deferred) == (0, 0));
                    }
                    _ => {}
                }
                if lost {
                    prop_assert!(matches!(step, Step::NotifyLoss | Step::Finish(ShardOutcome::LeaseLost)), "{:?}", step);
                }
                if matches!(step, Step::Finish(_)) {
                    break;
                }
                let event = match (step, event) {
                    (Step::Fetch, Succeeded) => match draw % 8 {
                        0 if deferred > 0 => Event::NoRoom,
                        1 if deferred > 0 => Event::Redeliver { wait: draw % 16 < 8 },
                        2 => Event::Fetched { records: draw % 16 < 8, end: true },
                        _ => Event::Fetched { records: draw % 16 < 8, end: false },
                    },
                    (Step::Process, Succeeded) if draw % 4 == 0 => Event::MoreToProcess,
                    (Step::Settle, Succeeded) if life.is_stopping() => {
                        // As much as can be had in the time that there is.
                        deferred = deferred.min((draw % 2) as u32);
                        let all = waiting == 0 && deferred == 0;
                        Event::Settled { all, left: !all }
                    }
                    (Step::Settle, Succeeded) if draw % 4 == 0 && deferred > 0 => Event::Redeliver { wait: true },
                    (Step::Settle, Succeeded) => {
                        deferred = if life.settles_all() { 0 } else { deferred / 2 };
                        Event::Settled { all: deferred == 0, left: deferred > 0 }
                    }
                    _ => event,
                };
                match event {
                    Event::Fetched { records, .. } => waiting = u32::from(records),
                    Event::Redeliver { .. } => {
                        deferred -= 1;
                        waiting += 1;
                    }
                    // It goes on with the other half.
                    Event::MoreToProcess => deferred += (draw % 2) as u32,
                    Succeeded if step == Step::Process => {
                        waiting = 0;
                        deferred += (draw % 2) as u32;
                    }
                    Event::Restart | Event::GiveUp if life.is_breakable() => (waiting, deferred) = (0, 0),
                    Event::LeaseLost => lost = true,
                    _ => {}
                }
                life.on(event);
                // What comes from outside is no step.
                let is_from_outside =
                    matches!(event, StopRequested | Event::LeaseLost | Event::Restart | Event::GiveUp);
                if life.is_stopping() && !is_from_outside {
                    steps_since_stop += 1;
                    prop_assert!(steps_since_stop <= 8, "a stop does not end: {:?}", life);
                }
            }
        }
    }
}
