//! The targets that need AWS crates.

mod aws_settings;
mod dynamodb_json;
mod expression;
mod get_records;
mod lease_row;
mod sdk_parser;

use crate::target::Target;

pub(crate) static TARGETS: [Target; 3] = [aws_settings::TARGET, get_records::TARGET, lease_row::TARGET];
