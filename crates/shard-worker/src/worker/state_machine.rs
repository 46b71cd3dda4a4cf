//! The state machine of a shard worker: which step comes next, decided without I/O.
//!
//! ```text
//!             Initialize ──► Fetch ◄──► Process, NotifyEmpty   stop: as soon as the running step allows
//!                              │ ▲         │                       │
//!                     end seen │ │capacity │                      │
//!                              ▼ │         ▼                      │
//!                             Flush ◄──────┴──────────────────────┘
//!                              │   └──────────── stopping ──► NotifyStop ──► Checkpoint ──► Finish(Stopped)
//!                              ▼
//!                          NotifyEnd ──► RecordEnd ──► Finish(Ended)
//!
//!             lease lost, at any time ──► NotifyLoss ──► Finish(LeaseLost)
//!             no progress, given up   ──► Checkpoint ──► NotifyLoss ──► Finish(GivenUp)
//! ```
//!
//! A failed step is retried after a wait, and no other step comes in between: that is why no batch is ever skipped. The
//! batch itself stays with [`ShardSteps`](super::steps::ShardSteps).

/// How the work on a shard ended.
///
/// ```
/// use shard_worker::ShardOutcome;
///
/// /// Whether nothing of the shard is left that this worker delivered and did not checkpoint.
/// fn is_complete(outcome: ShardOutcome) -> bool {
///     matches!(outcome, ShardOutcome::Ended | ShardOutcome::Stopped { drained: true })
/// }
/// assert!(is_complete(ShardOutcome::Ended) && !is_complete(ShardOutcome::LeaseLost));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardOutcome {
    /// The shard was read to its end and the end is recorded; its children may start.
    Ended,
    /// The worker was asked to stop.
    Stopped {
        /// Whether all delivered records are acknowledged and checkpointed, so that the next owner reads none of them
        /// again.
        drained: bool,
    },
    /// Another worker owns the shard now, or nothing can be written to the lease any more.
    LeaseLost,
    /// The shard made no progress for too long. Its lease is to be released, so that another worker can try.
    GivenUp,
}

/// One step of the work on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Create the processor and let it initialise.
    Initialize,
    /// Read the next records.
    Fetch,
    /// Deliver the next batch to the processor.
    Process,
    /// Notify the processor that a read found no records.
    NotifyEmpty,
    /// Wait for late acknowledgements: for all of them at the end of the shard and at a stop, otherwise until there is
    /// capacity for another batch.
    Flush,
    /// Notify the processor of the end of the shard.
    NotifyEnd,
    /// Record the end of the shard, children first.
    RecordEnd,
    /// Notify the processor that the worker is stopping.
    NotifyStop,
    /// Write the last checkpoint.
    Checkpoint,
    /// Notify the processor that the lease is lost.
    NotifyLoss,
    /// The work is done.
    Finish(ShardOutcome),
}

/// The result of a step, or an event from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The step succeeded.
    Succeeded,
    /// `Fetch` succeeded.
    Fetched {
        /// There are records to process.
        records: bool,
        /// The shard ends after these records.
        end: bool,
    },
    /// `Fetch` found no records, and the processor wants to know.
    NothingRead,
    /// `Fetch` reached the bound of a bounded run, and all records before it are processed or deferred.
    AtBound,
    /// `Fetch` may not read: too many records are unacknowledged.
    AtCapacity,
    /// `Process` succeeded for a part of a batch, and the next part is due.
    MoreToProcess,
    /// `Flush` succeeded.
    Flushed {
        /// All delivered records are acknowledged.
        all: bool,
        /// The application has started on records that it has not finished.
        has_unfinished: bool,
    },
    /// Deferred records have to be delivered again.
    Redeliver {
        /// Whether to wait before the delivery.
        wait: bool,
    },
    /// The step failed and has to be retried.
    Failed,
    /// The worker was asked to stop.
    StopRequested,
    /// The work has to restart at the acknowledged position.
    Restart,
    /// The watchdog wants the lease released, because the shard makes no progress.
    GiveUp,
    /// The lease is lost.
    LeaseLost,
}

/// The step of a shard, and which earlier events decide about the next ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardStateMachine {
    step: Step,
    /// The step failed: wait before the retry.
    retrying: bool,
    initialized: bool,
    end_seen: bool,
    /// The bound of a bounded run is reached: the worker stops by itself once all records are acknowledged.
    is_at_bound: bool,
    stopping: bool,
    giving_up: bool,
    /// The worker stops although delivered records are unacknowledged.
    has_unfinished: bool,
}

impl ShardStateMachine {
    pub(crate) fn new() -> Self {
        Self {
            step: Step::Initialize,
            retrying: false,
            initialized: false,
            end_seen: false,
            is_at_bound: false,
            stopping: false,
            giving_up: false,
            has_unfinished: false,
        }
    }

    /// The step to run now.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// Whether to wait before the step, because it failed.
    pub(crate) fn is_retrying(&self) -> bool {
        self.retrying
    }

    /// Whether a stop was requested.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the lease is about to be released for lack of progress.
    pub(crate) fn is_giving_up(&self) -> bool {
        self.giving_up
    }

    /// Whether the bound of a bounded run is reached and all records before it were delivered.
    pub(crate) fn is_at_bound(&self) -> bool {
        self.is_at_bound
    }

    /// Whether `Flush` has to wait for all acknowledgements, instead of for capacity only.
    pub(crate) fn flushes_all(&self) -> bool {
        self.end_seen || self.is_at_bound || self.stopping
    }

    /// Whether a stop may cancel the step. Cancelling a read or a wait loses nothing; a stop never cancels the
    /// application's code.
    pub(crate) fn is_interruptible(&self) -> bool {
        self.step == Step::Fetch || self.retrying
    }

    /// Whether the watchdog may interrupt the step with a restart or a release of the lease.
    pub(crate) fn is_restartable(&self) -> bool {
        let is_ending =
            matches!(self.step, Step::NotifyStop | Step::Checkpoint | Step::NotifyLoss | Step::Finish(_));
        !is_ending && !self.stopping && !self.giving_up
    }

    /// Applies an event: decides the next step.
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
            // Wait first: the cause of the restart may come back at once.
            Event::Restart if self.is_restartable() => *self = Self { retrying: true, ..Self::new() },
            Event::GiveUp if self.is_restartable() => {
                self.giving_up = true;
                self.go_to(Step::Checkpoint);
            }
            Event::Restart | Event::GiveUp => {}
            Event::Failed => self.fail(),
            Event::Succeeded => self.succeed(),
            Event::Fetched { records, end } => {
                self.end_seen |= end;
                self.go_to(match (records, end) {
                    (true, _) => Step::Process,
                    (false, true) => Step::Flush,
                    (false, false) => Step::Fetch,
                });
            }
            Event::NothingRead => self.go_to(Step::NotifyEmpty),
            Event::AtCapacity => self.go_to(Step::Flush),
            Event::AtBound => {
                self.is_at_bound = true;
                self.go_to(Step::Flush);
            }
            Event::MoreToProcess if self.stopping => self.stop(),
            Event::MoreToProcess => self.go_to(Step::Process),
            Event::Redeliver { .. } if self.stopping => self.stop(),
            Event::Redeliver { wait } => {
                self.go_to(Step::Process);
                self.retrying = wait;
            }
            // A stop still ends a shard that is completely read and acknowledged, so that its children can start.
            Event::Flushed { all: true, .. } if self.end_seen => self.go_to(Step::NotifyEnd),
            Event::Flushed { has_unfinished, .. } if self.stopping => {
                self.has_unfinished |= has_unfinished;
                self.go_to(Step::NotifyStop);
            }
            Event::Flushed { all: true, .. } if self.is_at_bound => {
                self.stopping = true;
                self.go_to(Step::NotifyStop);
            }
            Event::Flushed { .. } if self.end_seen || self.is_at_bound => self.go_to(Step::Flush),
            Event::Flushed { .. } => self.go_to(Step::Fetch),
        }
    }

    fn go_to(&mut self, step: Step) {
        self.step = step;
        self.retrying = false;
    }

    fn succeed(&mut self) {
        match self.step {
            Step::Initialize => {
                self.initialized = true;
                self.go_to(Step::Fetch);
                if self.stopping {
                    self.stop();
                }
            }
            Step::Fetch | Step::Flush => {}
            Step::Process | Step::NotifyEmpty if self.flushes_all() => self.go_to(Step::Flush),
            Step::Process | Step::NotifyEmpty => self.go_to(Step::Fetch),
            Step::NotifyEnd => self.go_to(Step::RecordEnd),
            Step::RecordEnd => self.go_to(Step::Finish(ShardOutcome::Ended)),
            Step::NotifyStop => self.go_to(Step::Checkpoint),
            Step::Checkpoint if self.giving_up => self.checkpointed_before_release(),
            Step::Checkpoint => {
                self.go_to(Step::Finish(ShardOutcome::Stopped { drained: !self.has_unfinished }));
            }
            Step::NotifyLoss if self.giving_up => self.go_to(Step::Finish(ShardOutcome::GivenUp)),
            Step::NotifyLoss => self.go_to(Step::Finish(ShardOutcome::LeaseLost)),
            Step::Finish(_) => {}
        }
    }

    fn fail(&mut self) {
        match self.step {
            Step::Flush if self.stopping => {
                self.has_unfinished = true;
                self.go_to(Step::NotifyStop);
            }
            Step::NotifyEnd | Step::RecordEnd if self.stopping => self.go_to(Step::NotifyStop),
            Step::Initialize | Step::Fetch | Step::Process | Step::NotifyEmpty if self.stopping => {
                self.stop();
            }
            Step::Initialize
            | Step::Fetch
            | Step::Process
            | Step::NotifyEmpty
            | Step::Flush
            | Step::NotifyEnd
            | Step::RecordEnd => self.retrying = true,
            Step::NotifyStop => self.go_to(Step::Checkpoint),
            Step::Checkpoint if !self.giving_up => {
                self.go_to(Step::Finish(ShardOutcome::Stopped { drained: false }));
            }
            Step::Checkpoint | Step::NotifyLoss => self.succeed(),
            Step::Finish(_) => {}
        }
    }

    fn stop(&mut self) {
        if self.initialized {
            self.go_to(Step::Flush);
        } else {
            self.go_to(Step::Finish(ShardOutcome::Stopped { drained: true }));
        }
    }

    /// The last checkpoint before a release without progress is written.
    fn checkpointed_before_release(&mut self) {
        self.go_to(if self.initialized { Step::NotifyLoss } else { Step::Finish(ShardOutcome::GivenUp) });
    }

    fn lose(&mut self) {
        self.giving_up = false;
        match self.step {
            Step::NotifyLoss => {}
            _ if self.initialized => self.go_to(Step::NotifyLoss),
            _ => self.go_to(Step::Finish(ShardOutcome::LeaseLost)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine_after(events: &[Event]) -> ShardStateMachine {
        let mut machine = ShardStateMachine::new();
        for event in events {
            machine.on(*event);
        }
        machine
    }

    const RECORDS: Event = Event::Fetched { records: true, end: false };
    const LAST_RECORDS: Event = Event::Fetched { records: true, end: true };
    const EMPTY_END: Event = Event::Fetched { records: false, end: true };
    const ALL: Event = Event::Flushed { all: true, has_unfinished: false };
    const NOT_ALL: Event = Event::Flushed { all: false, has_unfinished: true };
    use Event::{Failed, StopRequested, Succeeded};

    #[test]
    fn an_empty_parent_ends_without_a_batch() {
        let machine = machine_after(&[Succeeded, EMPTY_END, ALL]);
        assert_eq!(machine.step(), Step::NotifyEnd);
        let machine = machine_after(&[Succeeded, EMPTY_END, ALL, Succeeded, Succeeded]);
        assert_eq!(machine.step(), Step::Finish(ShardOutcome::Ended));
    }

    #[test]
    fn the_end_waits_for_the_acknowledgement_of_the_last_batch() {
        let machine = machine_after(&[Succeeded, LAST_RECORDS]);
        assert_eq!(machine.step(), Step::Process);
        let machine = machine_after(&[Succeeded, LAST_RECORDS, Failed, Failed]);
        assert_eq!(machine.step(), Step::Process);
        let machine = machine_after(&[Succeeded, LAST_RECORDS, Failed, Succeeded]);
        assert_eq!(machine.step(), Step::Flush);
        let machine = machine_after(&[Succeeded, LAST_RECORDS, Succeeded, NOT_ALL]);
        assert_eq!(machine.step(), Step::Flush);
        let machine = machine_after(&[Succeeded, LAST_RECORDS, Succeeded, Event::Redeliver { wait: true }]);
        assert_eq!((machine.step(), machine.is_retrying()), (Step::Process, true));
    }

    #[test]
    fn a_stop_waits_for_the_handler_but_not_for_a_read() {
        let reading = machine_after(&[Succeeded, StopRequested, ALL]);
        assert_eq!(reading.step(), Step::NotifyStop);
        let processing = machine_after(&[Succeeded, RECORDS, StopRequested]);
        assert_eq!(processing.step(), Step::Process);
        let done = [Succeeded, RECORDS, StopRequested, Succeeded, ALL];
        assert_eq!(machine_after(&done).step(), Step::NotifyStop);
        let all = [&done[..], &[Succeeded, Succeeded]].concat();
        assert_eq!(machine_after(&all).step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
    }

    #[test]
    fn a_stop_with_an_unprocessed_batch_is_not_drained() {
        let not_drained = Step::Finish(ShardOutcome::Stopped { drained: false });
        let unprocessed = [Succeeded, RECORDS, Failed, StopRequested, NOT_ALL, Succeeded, Succeeded];
        assert_eq!(machine_after(&unprocessed).step(), not_drained);
        let not_stored = [Succeeded, RECORDS, StopRequested, Succeeded, ALL, Succeeded, Failed];
        assert_eq!(machine_after(&not_stored).step(), not_drained);
        let not_flushed = [Succeeded, RECORDS, Succeeded, StopRequested, Failed, Succeeded, Succeeded];
        assert_eq!(machine_after(&not_flushed).step(), not_drained);
    }

    #[test]
    fn empty_read_is_notified_until_that_succeeds() {
        let empty = [Succeeded, Event::NothingRead];
        assert_eq!(machine_after(&empty).step(), Step::NotifyEmpty);
        let failed = machine_after(&[&empty[..], &[Failed]].concat());
        assert_eq!((failed.step(), failed.is_retrying()), (Step::NotifyEmpty, true));
        assert_eq!(machine_after(&[&empty[..], &[Failed, Succeeded]].concat()).step(), Step::Fetch);
        for done in [Succeeded, Failed] {
            let stopped = machine_after(&[&empty[..], &[StopRequested, done]].concat());
            assert_eq!(stopped.step(), Step::Flush);
        }
    }

    #[test]
    fn a_reached_bound_stops_the_worker_once_all_is_acknowledged() {
        let at_bound = [Succeeded, RECORDS, Succeeded, Event::AtBound];
        assert_eq!(machine_after(&at_bound).step(), Step::Flush);
        assert!(machine_after(&at_bound).flushes_all());
        let waiting = [&at_bound[..], &[NOT_ALL]].concat();
        assert_eq!(machine_after(&waiting).step(), Step::Flush, "it waits without a limit");
        let again = [&waiting[..], &[Event::Redeliver { wait: false }]].concat();
        assert_eq!(machine_after(&again).step(), Step::Process);
        assert_eq!(machine_after(&[&again[..], &[Succeeded]].concat()).step(), Step::Flush);
        let done = [&again[..], &[Succeeded, ALL, Succeeded, Succeeded]].concat();
        assert_eq!(machine_after(&done).step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
    }

    #[test]
    fn a_processor_that_never_started_is_not_notified() {
        assert_eq!(machine_after(&[Event::LeaseLost]).step(), Step::Finish(ShardOutcome::LeaseLost));
        let stopped = machine_after(&[Failed, StopRequested]);
        assert_eq!(stopped.step(), Step::Finish(ShardOutcome::Stopped { drained: true }));
        let given_up = machine_after(&[Failed, Event::GiveUp, Succeeded]);
        assert_eq!(given_up.step(), Step::Finish(ShardOutcome::GivenUp));
    }

    #[test]
    fn a_shard_without_progress_restarts_and_then_gives_up() {
        let hung = [Succeeded, LAST_RECORDS, Event::Restart];
        assert_eq!(machine_after(&hung), ShardStateMachine { retrying: true, ..ShardStateMachine::new() });
        let given_up = [Succeeded, RECORDS, Event::GiveUp];
        assert_eq!(machine_after(&given_up).step(), Step::Checkpoint);
        for flushed in [Succeeded, Failed] {
            let machine = machine_after(&[&given_up[..], &[flushed]].concat());
            assert_eq!(machine.step(), Step::NotifyLoss);
            let machine = machine_after(&[&given_up[..], &[flushed, Succeeded]].concat());
            assert_eq!(machine.step(), Step::Finish(ShardOutcome::GivenUp));
        }
        let stopping = [Succeeded, RECORDS, StopRequested, Event::Restart, Event::GiveUp];
        assert_eq!(machine_after(&stopping).step(), Step::Process, "a stop has its own time limit");
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
        /// For any events: each batch is processed until it succeeds before the next read; the end is recorded only once
        /// all records are acknowledged; after a lost lease nothing is read, processed or written; a stop finishes within
        /// a bounded number of steps.
        #[test]
        fn no_batch_is_skipped(
            events in prop::collection::vec((any_event(), any::<u64>()), 0..300)
        ) {
            let mut machine = ShardStateMachine::new();
            // Batches that wait for processing, and batches that the application has deferred.
            let (mut waiting, mut deferred) = (0_u32, 0_u32);
            let (mut lost, mut steps_since_stop) = (false, 0);
            for (event, draw) in events {
                let step = machine.step();
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
                        0 if deferred > 0 => Event::AtCapacity,
                        1 if deferred > 0 => Event::Redeliver { wait: draw % 16 < 8 },
                        2 => Event::Fetched { records: draw % 16 < 8, end: true },
                        3 => Event::NothingRead,
                        _ => Event::Fetched { records: draw % 16 < 8, end: false },
                    },
                    (Step::Process, Succeeded) if draw % 4 == 0 => Event::MoreToProcess,
                    (Step::Flush, Succeeded) if machine.is_stopping() => {
                        // The flush wait may be too short for all of them.
                        deferred = deferred.min((draw % 2) as u32);
                        let all = waiting == 0 && deferred == 0;
                        Event::Flushed { all, has_unfinished: !all }
                    }
                    (Step::Flush, Succeeded) if draw % 4 == 0 && deferred > 0 => Event::Redeliver { wait: true },
                    (Step::Flush, Succeeded) => {
                        deferred = if machine.flushes_all() { 0 } else { deferred / 2 };
                        Event::Flushed { all: deferred == 0, has_unfinished: deferred > 0 }
                    }
                    _ => event,
                };
                match event {
                    Event::Fetched { records, .. } => waiting = u32::from(records),
                    Event::Redeliver { .. } => {
                        deferred -= 1;
                        waiting += 1;
                    }
                    // The other half of the batch is still waiting.
                    Event::MoreToProcess => deferred += (draw % 2) as u32,
                    Succeeded if step == Step::Process => {
                        waiting = 0;
                        deferred += (draw % 2) as u32;
                    }
                    Event::Restart | Event::GiveUp if machine.is_restartable() => (waiting, deferred) = (0, 0),
                    Event::LeaseLost => lost = true,
                    _ => {}
                }
                machine.on(event);
                // Events from outside are not the result of a step.
                let is_from_outside =
                    matches!(event, StopRequested | Event::LeaseLost | Event::Restart | Event::GiveUp);
                if machine.is_stopping() && !is_from_outside {
                    steps_since_stop += 1;
                    prop_assert!(steps_since_stop <= 8, "a stop does not end: {:?}", machine);
                }
            }
        }
    }
}
