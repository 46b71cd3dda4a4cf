//! Simulated fleets: the real crates, unmodified, over models of Kinesis and DynamoDB, on one paused clock, with faults
//! that follow from a seed.
//!
//! | what | where |
//! | --- | --- |
//! | a simulation as data, and how it follows from a seed | [`plan`], [`scenario`] |
//! | the services, and how a process sees them | [`kinesis`], [`kinesis_client`], [`fan_out`], [`table`], [`table_client`], [`network`] |
//! | the processes | [`worker`], [`application`], [`kcl`] |
//! | what happened, and whether it may | [`event`], [`observer`], [`checks`] |
//! | running, shrinking, showing | [`run`], [`shrink`], [`trace`], [`timeline`], [`page`] |
//!
//! The same plan gives the same trace, byte for byte: every generator is seeded from the plan, the runtime has one
//! thread and its clock moves only when nothing else can.

pub mod application;
pub mod checks;
pub mod event;
#[cfg(feature = "fan-out")]
pub mod fan_out;
#[cfg(not(feature = "fan-out"))]
#[path = "without_fan_out.rs"]
pub mod fan_out;
pub mod kcl;
mod kcl_calls;
pub mod kinesis;
pub mod kinesis_client;
pub mod network;
pub mod observer;
pub mod page;
pub mod plan;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod table;
pub mod table_client;
pub mod timeline;
pub mod trace;
pub mod worker;
