//! Which shards of a stream a replay reads, and how far.

use clap::Args;

/// Which shards are read, and how far.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ShardsArguments {
    /// Reads this shard alone; may be given several times [default: all]
    #[arg(long = "shard", value_name = "SHARD")]
    pub(crate) shards: Vec<String>,

    /// Continues after this record of the one --shard, as the end of an earlier run names it
    #[arg(long, value_name = "POSITION", conflicts_with = "from")]
    pub(crate) after: Option<String>,

    /// Where to end: before a time, or with the record at a position of the one --shard [default: now]
    #[arg(long, value_name = "TIME|POSITION")]
    pub(crate) until: Option<String>,

    /// Replays records with these partition keys alone
    #[arg(long = "key", value_name = "KEY")]
    pub(crate) keys: Vec<String>,

    /// Accepts that the stream no longer keeps the first records of the range
    #[arg(long)]
    pub(crate) even_with_gap: bool,

    /// The share of a shard's five reads a second; the rest is left to the applications
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) read_share: u32,
}

impl ShardsArguments {
    /// Whether the end of the range is named.
    pub(crate) fn has_end(&self) -> bool {
        self.until.is_some()
    }
}
