//! Checks the assumptions of this library about the real services, against an account: `cargo xtask aws-check`.
//!
//! The list of assumptions is data ([`assumption`]), each check is a thin call with a pure judgement, and the report contains no
//! payload, no partition key, no sequence number and no account id. Nothing is written unless the options ask for a consumer or a table.

pub mod assumption;
mod calls;
mod cbor_form;
mod dry_run;
mod end_of_shard;
mod exchange;
mod fan_out;
mod listing;
mod members;
mod reading;
pub mod report;
pub mod run;
mod stream;
mod table;
