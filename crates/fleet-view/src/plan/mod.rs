//! Operations as plans: conditional changes of rows, their effect on what is read, and the reasons to refuse. Pure.
//!
//! A plan is made from one [`Look`](crate::Look) and the [`History`](crate::History) that it is the newest look of. Its
//! changes are in the order in which they are to be made, and each is conditional on what the look saw: a plan that is cut
//! short, or meets a worker that was faster, skips no record, and can be made again. A refused plan is complete too, so that
//! its effect can be shown.

mod adopt;
mod assign;
mod change;
mod copy;
mod delete;
mod effect;
mod guard;
mod pause;
mod planned;
mod refusal;
mod reset;
mod reset_targets;

pub use adopt::adopt;
pub use assign::{AssignOptions, assign, release};
pub use change::{Change, Expected, NewRow, Progress, RowChange};
pub use copy::copy;
pub use delete::delete;
pub use effect::{Effect, EffectKind};
pub use guard::Situation;
pub use pause::{pause, resume};
pub use planned::Plan;
pub use refusal::{Note, Refusal};
pub use reset::{ResetOptions, reset};
pub use reset_targets::{ResetTo, Scope, TextPosition};
