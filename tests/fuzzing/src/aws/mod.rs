//! The targets that need crates of AWS.

mod aws_settings;
mod dynamodb_json;
mod expression;
mod get_records;
mod lease_row;
mod sdk_reading;

use crate::Target;

pub(crate) static TARGETS: [Target; 3] = [aws_settings::TARGET, get_records::TARGET, lease_row::TARGET];
