//! The commands that write: each makes a plan from looks at the application, shows it, and carries it out row by row.

mod adopt;
pub(crate) mod arguments;
mod assign;
pub(crate) mod carry_out;
mod copy;
mod delete;
pub(crate) mod order;
mod pause;
mod positions;
pub(crate) mod report;
mod reset;
pub(crate) mod reset_target;
mod situation;

pub(crate) use adopt::{AdoptArguments, run as run_adopt};
pub(crate) use assign::{AssignArguments, ReleaseArguments, run_assign, run_release};
pub(crate) use copy::{CopyArguments, run as run_copy};
pub(crate) use delete::{DeleteArguments, run as run_delete};
pub(crate) use pause::{PauseArguments, ResumeArguments, run_pause, run_resume};
pub(crate) use positions::{PositionsArguments, run as run_positions};
pub(crate) use reset::{ResetArguments, run as run_reset};
