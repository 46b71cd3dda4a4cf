//! The pure planners and state machines, for models, benchmarks and tests of whole fleets. Nothing here is stable.

pub use crate::assignment::fleet_view::{AssignmentLimits, Holdings};
pub use crate::assignment::lease_observations::{LeaseObservations, ObservedLease};
pub use crate::assignment::{AssignmentPlan, is_sure_of_parents, plan_assignment};
pub use crate::lease::renewal::{Renewal, renewal};
pub use crate::shards::cleanup::plan_cleanup;
pub use crate::shards::coverage::{Coverage, coverage};
pub use crate::shards::plan::{StartTime, plan_new_leases};
pub use crate::shards::shard_end::{EndObstacle, EndStep, MAX_CHILD_LOOKUPS, lease_of_child, other_parents};
