//! The integration tests in one binary, since linking the AWS SDK is slow. `allocations.rs` has a binary of its own, because the
//! load of other tests changes its counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod support;

#[cfg(feature = "cloudwatch")]
mod cloudwatch;
mod dead_letters;
mod fan_out_consumers;
mod fan_out_memory;
mod fan_out_polling;
mod fan_out_sessions;
mod get_records_formats;
mod hidden_payloads;
mod local_kinesis;
mod odd_answers;
mod polling_answers;
#[cfg(feature = "dynamodb")]
mod silent_connections;
mod slow_links;
mod stream_arns;
mod surroundings;
mod surroundings_of_hosts;
