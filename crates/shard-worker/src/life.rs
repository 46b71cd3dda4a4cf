//! What a shard worker does next: a state machine without I/O.
//!
//! ```text
//!             Initialize ──► Fetch ◄──► Process        stop: as soon as the step under way allows
//!                              │           │                      │
//!                     end seen └────┬──────┘                      ▼
//!                                   ▼                  NotifyStop ──► Flush ──► Finish(Stopped)
//!                               NotifyEnd ──► RecordEnd ──► Finish(Ended)
//!
//!             lease lost, at any time ──► NotifyLoss ──► Finish(LeaseLost)
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
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the processor and let it initialise.
    Initialize,
    /// Read the next records.
    Fetch,
    /// Hand the fetched batch to the processor.
    Process,
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
    /// The step failed and has to be done again.
    Failed,
    /// Somebody asked the worker to stop.
    StopRequested,
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
    stopping: bool,
    /// A batch was given up unacknowledged because of a stop.
    batch_left: bool,
}

impl ShardLife {
    pub(crate) fn new() -> Self {
        Self {
            step: Step::Initialize,
            retrying: false,
            initialized: false,
            end_seen: false,
            stopping: false,
            batch_left: false,
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

    /// Whether a stop may cut the step short: nothing is lost when a read or a wait is. Code of the application is
    /// never cut short by a stop.
    pub(crate) fn is_interruptible(&self) -> bool {
        self.step == Step::Fetch || self.retrying
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
                    self.give_up_batch();
                    self.stop();
                }
            }
            Event::Failed => self.fail(),
            Event::Succeeded => self.succeed(),
            Event::Fetched { records, end } => {
                self.end_seen |= end;
                self.go(match (records, end) {
                    (true, _) => Step::Process,
                    (false, true) => Step::NotifyEnd,
                    (false, false) => Step::Fetch,
                });
            }
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
            Step::Fetch => {}
            // With the end in sight it is reached even when stopping: nothing is left to read, and the children start.
            Step::Process if self.end_seen => self.go(Step::NotifyEnd),
            Step::Process if self.stopping => self.stop(),
            Step::Process => self.go(Step::Fetch),
            Step::NotifyEnd => self.go(Step::RecordEnd),
            Step::RecordEnd => self.go(Step::Finish(ShardOutcome::Ended)),
            Step::NotifyStop => self.go(Step::Flush),
            Step::Flush => self.go(Step::Finish(ShardOutcome::Stopped { drained: !self.batch_left })),
            Step::NotifyLoss => self.go(Step::Finish(ShardOutcome::LeaseLost)),
            Step::Finish(_) => {}
        }
    }

    fn fail(&mut self) {
        match self.step {
            Step::Initialize | Step::Fetch | Step::Process | Step::NotifyEnd | Step::RecordEnd => {
                if self.stopping {
                    self.give_up_batch();
                    self.stop();
                } else {
                    self.retrying = true;
                }
            }
            Step::NotifyStop => self.go(Step::Flush),
            Step::Flush => self.go(Step::Finish(ShardOutcome::Stopped { drained: false })),
            Step::NotifyLoss => self.go(Step::Finish(ShardOutcome::LeaseLost)),
            Step::Finish(_) => {}
        }
    }

    /// A batch whose processing did not succeed stays unacknowledged.
    fn give_up_batch(&mut self) {
        self.batch_left |= self.step == Step::Process;
    }

    fn stop(&mut self) {
        if self.initialized {
            self.go(Step::NotifyStop);
        } else {
            self.go(Step::Finish(ShardOutcome::Stopped { drained: true }));
        }
    }

    fn lose(&mut self) {
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

    #[test]
    fn an_empty_parent_ends_without_a_batch() {
        let life = life_after(&[Event::Succeeded, EMPTY_END]);
        assert_eq!(life.step(), Step::NotifyEnd);
        let life = life_after(&[Event::Succeeded, EMPTY_END, Event::Succeeded, Event::Succeeded]);
        assert_eq!(life.step(), Step::Finish(ShardOutcome::Ended));
    }

    #[test]
    fn the_last_batch_is_processed_before_the_end() {
        let life = life_after(&[Event::Succeeded, LAST_RECORDS]);
        assert_eq!(life.step(), Step::Process);
        let life = life_after(&[Event::Succeeded, LAST_RECORDS, Event::Failed, Event::Failed]);
        assert_eq!(life.step(), Step::Process);
        let life = life_after(&[Event::Succeeded, LAST_RECORDS, Event::Failed, Event::Succeeded]);
        assert_eq!(life.step(), Step::NotifyEnd);
    }

    #[test]
    fn a_stop_waits_for_the_handler_but_not_for_a_read() {
        let reading = life_after(&[Event::Succeeded, Event::StopRequested]);
        assert_eq!(reading.step(), Step::NotifyStop);
        let processing = life_after(&[Event::Succeeded, RECORDS, Event::StopRequested]);
        assert_eq!(processing.step(), Step::Process);
        let done = [Event::Succeeded, RECORDS, Event::StopRequested, Event::Succeeded];
        assert_eq!(life_after(&done).step(), Step::NotifyStop);
        let all = [&done[..], &[Event::Succeeded, Event::Succeeded]].concat();
        assert_eq!(life_after(&all).step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
    }

    #[test]
    fn a_batch_given_up_by_a_stop_is_not_called_drained() {
        let events = [
            Event::Succeeded,
            RECORDS,
            Event::Failed,
            Event::StopRequested,
            Event::Succeeded,
            Event::Succeeded,
        ];
        assert_eq!(life_after(&events).step(), Step::Finish(ShardOutcome::Stopped { drained: false }));
        let not_stored = [
            Event::Succeeded,
            RECORDS,
            Event::StopRequested,
            Event::Succeeded,
            Event::Succeeded,
            Event::Failed,
        ];
        assert_eq!(life_after(&not_stored).step(), Step::Finish(ShardOutcome::Stopped { drained: false }));
    }

    #[test]
    fn a_processor_that_never_started_is_told_nothing() {
        assert_eq!(life_after(&[Event::LeaseLost]).step(), Step::Finish(ShardOutcome::LeaseLost));
        let stopped = life_after(&[Event::Failed, Event::StopRequested]);
        assert_eq!(stopped.step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            5 => Just(Event::Succeeded),
            3 => Just(Event::Failed),
            1 => Just(Event::StopRequested),
            1 => Just(Event::LeaseLost),
        ]
    }

    fn any_fetch() -> impl Strategy<Value = Event> {
        (any::<bool>(), prop::bool::weighted(0.1)).prop_map(|(records, end)| Event::Fetched { records, end })
    }

    proptest! {
        /// Whatever happens: every fetched batch is processed until it succeeds before anything else is read or the end
        /// is recorded; after a loss nothing is read, processed or written; a stop ends the life in a bounded number of
        /// steps.
        #[test]
        fn no_batch_is_skipped(events in prop::collection::vec((any_event(), any_fetch()), 0..200)) {
            let mut life = ShardLife::new();
            let (mut unacknowledged, mut lost, mut steps_since_stop) = (false, false, 0);
            for (event, fetch) in events {
                let step = life.step();
                match step {
                    Step::Fetch | Step::NotifyEnd | Step::RecordEnd => prop_assert!(!unacknowledged, "{:?}", step),
                    Step::Process => prop_assert!(unacknowledged),
                    Step::Finish(ShardOutcome::Ended) => prop_assert!(!unacknowledged),
                    Step::Finish(ShardOutcome::Stopped { drained }) => prop_assert!(!(drained && unacknowledged)),
                    _ => {}
                }
                if lost {
                    prop_assert!(matches!(step, Step::NotifyLoss | Step::Finish(ShardOutcome::LeaseLost)), "{:?}", step);
                }
                if matches!(step, Step::Finish(_)) {
                    break;
                }
                let event = match (step, event) {
                    (Step::Fetch, Event::Succeeded) => fetch,
                    _ => event,
                };
                match event {
                    Event::Fetched { records, .. } => unacknowledged = records,
                    Event::Succeeded if step == Step::Process => unacknowledged = false,
                    Event::LeaseLost => lost = true,
                    _ => {}
                }
                life.on(event);
                if life.is_stopping() && event != Event::StopRequested {
                    steps_since_stop += 1;
                    prop_assert!(steps_since_stop <= 6, "a stop does not end: {:?}", life);
                }
            }
        }
    }
}
