//! The positions of an application as a file that people can read and keep. Pure.

use std::collections::BTreeSet;

use lease_store::{HashKeyRange, Position, ShardId, StreamIdentity};
use serde::{Deserialize, Serialize};

use crate::error::{FleetError, FleetErrorKind};
use crate::look::Look;

/// The largest file that is read, in bytes: 50,000 shards with two parents each.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;

/// What the file says about its own format.
const FORMAT: &str = "kinesis-positions/1";

/// The positions of all shards of an application at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionsFile {
    format: String,
    /// The application whose positions they are.
    pub application: String,
    /// When they were read, in milliseconds since 1970.
    pub taken_at_millis: u64,
    /// The stream; `None`: it was not known.
    pub stream: Option<StreamIdentity>,
    /// The positions, in the order of the shard ids.
    pub shards: Vec<ShardPosition>,
}

/// The position of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPosition {
    /// The shard.
    pub shard_id: ShardId,
    /// Its position: a sequence number, or a sentinel of the KCL.
    #[serde(with = "crate::text::position_text")]
    pub position: Position,
    /// The instant that `LATEST` or `AT_TIMESTAMP` stands for, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_time_millis: Option<u64>,
    /// The shards that it came from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub parents: BTreeSet<ShardId>,
    /// The hash keys that it covers.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::text::range_text")]
    pub hash_key_range: Option<HashKeyRange>,
}

impl PositionsFile {
    /// The positions of a look. Malformed rows have none, so they are left out.
    pub fn of(look: &Look) -> Self {
        let mut shards: Vec<ShardPosition> = look
            .leases
            .iter()
            .map(|lease| ShardPosition {
                shard_id: lease.shard_id.clone(),
                position: lease.checkpoint.clone(),
                initial_time_millis: lease.initial_time_millis,
                parents: lease.parents.clone(),
                hash_key_range: lease.hash_key_range,
            })
            .collect();
        shards.sort_by(|a, b| a.shard_id.cmp(&b.shard_id));
        Self {
            format: FORMAT.to_owned(),
            application: look.application.clone(),
            taken_at_millis: look.taken_at_millis,
            stream: look.identity().cloned(),
            shards,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `Malformed` when it is too large, has another format, or names a shard twice.
    pub fn from_json(text: &str) -> Result<Self, FleetError> {
        let malformed = |why: String| FleetError::new(FleetErrorKind::Malformed, why);
        if text.len() > MAX_FILE_BYTES {
            let length = text.len();
            return Err(malformed(format!(
                "the positions file has {length} bytes, more than {MAX_FILE_BYTES}; export it again"
            )));
        }
        let file: Self = serde_json::from_str(text).map_err(|error| {
            malformed(format!("the positions file is malformed: {error}; export it again")).with_source(error)
        })?;
        if file.format != FORMAT {
            return Err(malformed(format!(
                "the positions file has the format {:?}, not {FORMAT:?}; export it again",
                file.format
            )));
        }
        let mut seen = BTreeSet::new();
        match file.shards.iter().find(|shard| !seen.insert(&shard.shard_id)) {
            Some(twice) => {
                Err(malformed(format!("the positions file names {} twice; remove one entry", twice.shard_id)))
            }
            None => Ok(file),
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// `Unwritable` when a value has no JSON; none is known to.
    pub fn to_json(&self) -> Result<String, FleetError> {
        serde_json::to_string_pretty(self).map_err(|error| {
            FleetError::new(FleetErrorKind::Unwritable, "the positions cannot be written as JSON")
                .with_source(error)
        })
    }
}
