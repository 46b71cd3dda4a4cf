//! The arguments that the writing commands share.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use lease_store::ShardId;

use crate::exit_code::{CommandError, usage};
use crate::operate::order::{OrderTimes, Shards};
use crate::time_argument::parse_duration;

/// How long to look for live workers, where nothing else is said.
const DEFAULT_LOOK_TIME: &str = "75s";

/// How long to wait for owners, where nothing else is said.
const DEFAULT_WAIT: &str = "2m";

/// How a plan is carried out.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArguments {
    /// The longest time to look for live workers before the plan is made
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = DEFAULT_LOOK_TIME)]
    pub(crate) look_time: Duration,

    /// How long to wait until the owners have carried out what they are asked for; then the requests are withdrawn
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = DEFAULT_WAIT)]
    pub(crate) wait: Duration,

    /// Prints one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl PlanArguments {
    /// The times of an order.
    pub(crate) fn times(&self) -> OrderTimes {
        OrderTimes { look_time: self.look_time, wait: self.wait }
    }

    /// The times of an order where nothing else is said.
    pub(crate) fn default_times() -> OrderTimes {
        let time = |text| parse_duration(text).unwrap_or_default();
        OrderTimes { look_time: time(DEFAULT_LOOK_TIME), wait: time(DEFAULT_WAIT) }
    }
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
    pub(crate) fn shards(&self) -> Result<Shards, CommandError> {
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
