//! The arguments that the writing commands share.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use lease_store::ShardId;

use crate::exit_code::{CommandError, usage};
use crate::time_argument::parse_duration;

/// How a plan is carried out.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArguments {
    /// The longest time to look for live workers before the plan is made
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "75s")]
    pub(crate) look_time: Duration,

    /// How long to wait until the owners have carried out what they are asked for; then the requests are withdrawn
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m")]
    pub(crate) wait: Duration,

    /// Prints one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The shards that a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShardArguments {
    /// A shard; may be given several times [default: all shards]
    #[arg(long = "shard", value_name = "SHARD")]
    shards: Vec<String>,
}

impl ShardArguments {
    /// The shards; `None`: all.
    pub(crate) fn shards(&self) -> Result<Option<BTreeSet<ShardId>>, CommandError> {
        if self.shards.is_empty() {
            return Ok(None);
        }
        let shards: Result<BTreeSet<ShardId>, CommandError> =
            self.shards.iter().map(|id| shard_id(id)).collect();
        shards.map(Some)
    }
}

/// Reads the id of a shard.
pub(crate) fn shard_id(text: &str) -> Result<ShardId, CommandError> {
    ShardId::new(text.to_owned()).map_err(|error| usage(error.to_string()))
}
