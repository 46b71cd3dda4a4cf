//! Simulates fleets: the unmodified crates run over models of Kinesis and DynamoDB, on one paused clock, with faults
//! drawn from a seed.
//!
//! | what | where |
//! | --- | --- |
//! | a simulation as data, and how it follows from a seed | [`plan`], [`scenario`], `draw_plan` |
//! | the services, and each process's view of them | [`kinesis`], [`kinesis_client`], [`fan_out`], [`table`],
//! [`table_client`], [`network`] |
//! | the processes | [`worker`], [`application`], [`kcl`] |
//! | the events, and the promises checked on them | [`event`], [`observer`], [`checks`] |
//! | running, shrinking and showing a plan | [`run`], [`shrink`], [`trace`], [`timeline`], [`page`], [`progress`] |
//!
//! The same plan gives the same trace, byte for byte. Every generator is seeded from the plan, and the runtime has
//! one thread. Its clock advances only when no task can run.

mod account;
pub mod adoption;
pub mod application;
pub mod checks;
mod draw_adoption;
mod draw_plan;
pub mod event;
#[cfg(feature = "fan-out")]
pub mod fan_out;
#[cfg(not(feature = "fan-out"))]
#[path = "without_fan_out.rs"]
pub mod fan_out;
pub mod former_fleet;
pub mod kcl;
mod kcl_calls;
pub mod kinesis;
pub mod kinesis_client;
pub mod network;
pub mod observer;
pub mod operator;
pub mod page;
pub mod plan;
pub mod progress;
pub mod run;
pub mod scenario;
pub mod several_streams;
pub mod shrink;
pub mod table;
pub mod table_client;
pub mod timeline;
pub mod trace;
pub mod worker;
