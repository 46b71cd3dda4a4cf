//! The decisions of the crates that the models run. They are not part of the public API, so all of them are imported
//! here.

pub(crate) use lease_store::internals::{LeaseState, NextWrite, ReadBack, UnsettledWrite};
pub(crate) use receiver::internals::{
    AssignmentLimits, Coverage, EndStep, Holdings, LeaseObservations, MAX_CHILD_LOOKUPS, ObservedLease,
    Renewal, StartTime, coverage, is_sure_of_parents, lease_of_child, other_parents, plan_assignment,
    plan_cleanup, plan_new_leases, renewal,
};
