//! What an operator leaves in the row of a lease: a pause, or a request to its owner. Plain data.

use lease_store::{Lease, OwnerAction, OwnerRequest, Position, WorkerId};
use serde::{Deserialize, Serialize};

/// A shard that is not to be read for a while. The row keeps it, so it survives its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When reading resumes, in milliseconds since 1970; `None`: not before an operator resumes it.
    pub until_millis: Option<u64>,
    /// Who paused it, for people.
    pub by: String,
}

impl Pause {
    /// Whether the pause is in force.
    pub fn is_in_force(&self, now_millis: u64) -> bool {
        self.until_millis.is_none_or(|until| until > now_millis)
    }

    /// The pause that a row has.
    pub fn of(lease: &Lease) -> Option<Self> {
        lease.pause().map(|pause| Self { until_millis: pause.until_millis, by: pause.by })
    }

    /// The pause as a row has it.
    pub(crate) fn to_row(&self) -> lease_store::Pause {
        lease_store::Pause { until_millis: self.until_millis, by: self.by.clone() }
    }
}

/// What an operator asks the owner of a lease. The owner stops at a batch boundary, carries it out and removes the request. A
/// request ends with the ownership of the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorRequest {
    /// Continue from another position.
    Reset {
        /// The new position.
        #[serde(with = "crate::text::position_text")]
        position: Position,
        /// The instant of the position, as in [`Lease::initial_time_millis`](lease_store::Lease::initial_time_millis).
        initial_time_millis: Option<u64>,
    },
    /// Release the lease.
    Release,
}

impl OperatorRequest {
    /// The request that a row has for its present owner.
    pub fn of(lease: &Lease) -> Option<Self> {
        Some(match lease.owner_request()?.action {
            OwnerAction::Reset { position, initial_time_millis } => {
                Self::Reset { position, initial_time_millis }
            }
            OwnerAction::Release => Self::Release,
        })
    }

    /// The request as the row of a lease has it.
    pub(crate) fn to(&self, owner: &WorkerId, id: u64) -> OwnerRequest {
        let action = match self {
            Self::Reset { position, initial_time_millis } => {
                OwnerAction::Reset { position: position.clone(), initial_time_millis: *initial_time_millis }
            }
            Self::Release => OwnerAction::Release,
        };
        OwnerRequest { id, owner: owner.clone(), action }
    }
}
