//! The loop of a shard worker: it asks the state machine for the next step and runs it.
//!
//! | file | content |
//! | --- | --- |
//! | `shard_worker` | the parts of a worker |
//! | `options` | how a worker behaves |
//! | `state_machine` | which step comes next; pure |
//! | `steps` | what each step does |
//! | `watchdog` | when a shard without progress is restarted or given up; pure |

pub(crate) mod options;
pub(crate) mod shard_worker;
mod state_machine;
mod steps;
pub(crate) mod watchdog;

use checkpointer::CheckpointErrorKind;

use self::shard_worker::ShardWorker;
use self::state_machine::{Event, ShardStateMachine, Step};
use self::steps::ShardSteps;

pub use self::state_machine::ShardOutcome;

impl ShardWorker {
    /// Works on the shard until it ends, the lease is lost, or a stop is requested.
    pub async fn run(self) -> ShardOutcome {
        let lease_lost = self.context.lease_lost.clone();
        let stop = self.context.stopping.clone();
        let watchdog_commands = self.watchdog_commands.clone();
        let mut checkpointer_stopped = Box::pin(self.checkpointer.stopped());
        let mut machine = ShardStateMachine::new();
        let mut steps = ShardSteps::new(self);
        loop {
            if stop.is_cancelled() && !machine.is_stopping() {
                machine.on(Event::StopRequested);
            }
            if let Step::Finish(outcome) = machine.step() {
                steps.finish(outcome).await;
                return outcome;
            }
            let losing = machine.step() == Step::NotifyLoss;
            let event = tokio::select! {
                biased;
                () = lease_lost.cancelled(), if !losing => Event::LeaseLost,
                kind = &mut checkpointer_stopped, if !losing => {
                    match kind {
                        CheckpointErrorKind::Fenced => tracing::info!("another worker took the lease"),
                        _ => tracing::warn!(?kind, "checkpoints cannot be written any more, releasing the shard"),
                    }
                    // The application is notified in the same way, whether the renewal or a checkpoint found the loss.
                    lease_lost.cancel();
                    Event::LeaseLost
                }
                () = watchdog_commands.give_up_requested(), if machine.is_restartable() => Event::GiveUp,
                () = watchdog_commands.restart_requested(), if machine.is_restartable() => Event::Restart,
                () = stop.cancelled(), if !machine.is_stopping() && machine.is_interruptible() => Event::StopRequested,
                event = steps.run_step(machine) => event,
            };
            if event == Event::Restart {
                steps.restart();
            }
            machine.on(event);
        }
    }
}
