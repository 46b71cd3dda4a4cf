//! The snapshot format: a header, one line for each key, and a checksum.
//!
//! ```text
//! kinesis-state 1                                     the format and its version
//! {"application":"words","stream":"text", ...}        the header: application, shard, position and more
//! ["a",3]                                             one line for each key, in order: key and value
//! ["b",1]
//! crc32 5d9e0b0c                                      the checksum of all bytes before this line
//! ```
//!
//! A snapshot is text, so that people can read its position without the application's code (`head -2`). Decoding never
//! panics, allocates no more than the bytes and their decoded values, and refuses all bytes that are not exactly one snapshot.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use lease_store::{BoxError, HashKey, HashKeyRange, Position, ShardId, StreamIdentity};
use serde::{Deserialize, Serialize};

use crate::error::{StateError, StateErrorKind};
use crate::keyed_state::KeyedState;
use crate::state_logic::{StateLogic, StateSchema, StateValue};

const MAGIC: &str = "kinesis-state ";
const FORMAT_VERSION: u32 = 1;

/// The longest first line, in bytes.
const MAX_FIRST_LINE_BYTES: usize = 32;

/// The longest header, in bytes: the names, and at most 64 ancestors of 128 bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The length of the last line, in bytes: `crc32 `, eight digits and a line feed.
const TRAILER_BYTES: usize = 15;

/// The header of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The application.
    pub application: String,
    /// The name of the stream.
    pub stream: String,
    /// The identity of the stream, if the settings or the lease name it.
    pub stream_identity: Option<StreamIdentity>,
    /// The shard.
    pub shard_id: ShardId,
    /// The hash-key range of the shard.
    pub hash_key_range: HashKeyRange,
    /// The shards that the state was inherited from: the parents and their ancestors.
    pub ancestors: BTreeSet<ShardId>,
    /// The schema of the values.
    pub schema: StateSchema,
    /// The state holds every record up to this position that was not put aside, and no later record.
    pub position: Position,
    /// Records between `position` and this position could not be processed, and the failure policy may have put them aside.
    /// `None` without such records.
    pub passed: Option<Position>,
    /// The worker that wrote the snapshot.
    pub owner: String,
    /// The counter of the lease when its owner took it.
    pub lease_counter: u64,
    /// The newest arrival time of the records, with millisecond precision.
    pub watermark: Option<SystemTime>,
    /// The number of keys.
    pub entries: u64,
}

impl SnapshotHeader {
    /// The position up to which the state misses no record.
    pub fn covers(&self) -> &Position {
        self.passed.as_ref().map_or(&self.position, |passed| passed.max(&self.position))
    }
}

/// The header as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderJson {
    application: String,
    stream: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_identity: Option<StreamIdentity>,
    shard_id: ShardId,
    hash_key_range: (String, String),
    ancestors: Vec<ShardId>,
    schema: StateSchema,
    position: PositionJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passed: Option<PositionJson>,
    owner: String,
    lease_counter: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watermark_millis: Option<u64>,
    entries: u64,
}

/// A position as JSON, with the attribute names of a lease row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PositionJson {
    checkpoint: String,
    sub_sequence_number: u64,
}

impl From<&Position> for PositionJson {
    fn from(position: &Position) -> Self {
        let checkpoint = position.checkpoint().to_owned();
        Self { checkpoint, sub_sequence_number: position.sub_sequence_number() }
    }
}

impl PositionJson {
    fn read(&self) -> Result<Position, StateError> {
        Position::from_checkpoint(&self.checkpoint, self.sub_sequence_number)
            .map_err(|error| corrupt("its position is invalid").with_source(error))
    }
}

impl From<&SnapshotHeader> for HeaderJson {
    fn from(header: &SnapshotHeader) -> Self {
        let range = header.hash_key_range;
        Self {
            application: header.application.clone(),
            stream: header.stream.clone(),
            stream_identity: header.stream_identity.clone(),
            shard_id: header.shard_id.clone(),
            hash_key_range: (range.start().to_string(), range.end().to_string()),
            ancestors: header.ancestors.iter().cloned().collect(),
            schema: header.schema.clone(),
            position: (&header.position).into(),
            passed: header.passed.as_ref().map(Into::into),
            owner: header.owner.clone(),
            lease_counter: header.lease_counter,
            watermark_millis: header.watermark.map(millis_since_1970),
            entries: header.entries,
        }
    }
}

impl HeaderJson {
    fn read(self) -> Result<SnapshotHeader, StateError> {
        let (start, end) = self.hash_key_range;
        let range = start.parse().and_then(|start: HashKey| HashKeyRange::new(start, end.parse()?));
        let watermark = self.watermark_millis.map(|millis| {
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_millis(millis))
                .ok_or_else(|| corrupt("its newest arrival time is out of range"))
        });
        Ok(SnapshotHeader {
            application: self.application,
            stream: self.stream,
            stream_identity: self.stream_identity,
            shard_id: self.shard_id,
            hash_key_range: range
                .map_err(|error| corrupt("its hash-key range is invalid").with_source(error))?,
            ancestors: self.ancestors.into_iter().collect(),
            schema: self.schema,
            position: self.position.read()?,
            passed: self.passed.map(|passed| passed.read()).transpose()?,
            owner: self.owner,
            lease_counter: self.lease_counter,
            watermark: watermark.transpose()?,
            entries: self.entries,
        })
    }
}

/// A snapshot: the state and its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot<S> {
    /// The header.
    pub header: SnapshotHeader,
    /// The state.
    pub state: KeyedState<S>,
}

/// Encodes a snapshot. The number of entries and the watermark come from the state.
///
/// # Errors
/// `TooLarge` when the snapshot exceeds `max_bytes`; `Invalid` when a value does not survive JSON.
pub fn encode_snapshot<S: StateValue>(
    header: &SnapshotHeader,
    state: &KeyedState<S>,
    max_bytes: usize,
) -> Result<Vec<u8>, StateError> {
    let mut written = HeaderJson::from(header);
    written.entries = state.len() as u64;
    written.watermark_millis = state.watermark.map(millis_since_1970);
    let mut output = Limited { bytes: Vec::new(), limit: max_bytes.saturating_sub(TRAILER_BYTES) };
    let too_large = |error: io::Error| {
        let ids = &header.shard_id;
        StateError::new(
            StateErrorKind::TooLarge,
            format!(
                "the state of shard {ids}, {} keys, exceeds max_snapshot_bytes = {max_bytes}; expire keys that are not \
                 needed, split the shard, or raise the limit",
                state.len()
            ),
        )
        .with_source(error)
    };
    writeln!(output, "{MAGIC}{FORMAT_VERSION}").map_err(too_large)?;
    let header_line = serde_json::to_vec(&written).map_err(|error| not_json("the header", error))?;
    if header_line.len() > MAX_HEADER_BYTES {
        return Err(StateError::new(
            StateErrorKind::TooLarge,
            format!("the header of a snapshot has {} bytes, more than {MAX_HEADER_BYTES}", header_line.len()),
        ));
    }
    output.write_all(&header_line).and_then(|()| output.write_all(b"\n")).map_err(too_large)?;
    let mut line = Vec::new();
    for (key, value) in &state.entries {
        line.clear();
        serde_json::to_writer(&mut line, &(key, value)).map_err(|error| not_json("a value", error))?;
        // Without this check an unreadable value would be noticed only at the next start, which is too late.
        if line.contains(&b'\n') || serde_json::from_slice::<(String, S)>(&line).is_err() {
            return Err(StateError::new(
                StateErrorKind::Invalid,
                format!(
                    "a value of schema {} does not survive JSON; a number that is not finite, or a type that is \
                     serialised and deserialised differently, cannot be stored",
                    header.schema
                ),
            ));
        }
        line.push(b'\n');
        output.write_all(&line).map_err(too_large)?;
    }
    let checksum = crc32fast::hash(&output.bytes);
    let mut bytes = output.bytes;
    bytes.extend_from_slice(format!("crc32 {checksum:08x}\n").as_bytes());
    Ok(bytes)
}

/// Decodes a snapshot. The logic migrates values of another schema.
///
/// # Errors
/// `Corrupt`, or `OtherVersion` of the format or the schema.
pub fn decode_snapshot<L: StateLogic>(bytes: &[u8], logic: &L) -> Result<Snapshot<L::State>, StateError> {
    let schema = logic.schema();
    let (header, entries) = split(bytes)?;
    let is_same = header.schema == schema;
    let mut state = KeyedState { watermark: header.watermark, ..KeyedState::default() };
    for (number, line) in entries.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let unread = |error: serde_json::Error| {
            // The error's own text would quote the value.
            let (kind, column) = (error.classify(), error.column());
            corrupt(format!(
                "entry {number} does not match schema {schema} ({kind:?} error at column {column}); raise the version of \
                 the schema whenever its type changes"
            ))
        };
        let (key, value) = if is_same {
            serde_json::from_slice::<(String, L::State)>(line).map_err(unread)?
        } else {
            let (key, value) = serde_json::from_slice::<(String, serde_json::Value)>(line).map_err(unread)?;
            let value = match logic.migrate(&header.schema, &key, value) {
                Some(migrated) => migrated.map_err(|error| not_migrated(&header.schema, &schema, error))?,
                None => return Err(other_schema(&header.schema, &schema)),
            };
            (key, value)
        };
        let is_next = state.entries.last_key_value().is_none_or(|(last, _)| *last < key);
        if !is_next {
            return Err(corrupt(format!("entry {number} is not in order")));
        }
        state.entries.insert(key, value);
    }
    if !is_same && state.is_empty() && header.schema.name != schema.name {
        return Err(other_schema(&header.schema, &schema));
    }
    if state.len() as u64 != header.entries {
        return Err(corrupt(format!(
            "its header states {} entries, but it has {}",
            header.entries,
            state.len()
        )));
    }
    Ok(Snapshot { header, state })
}

/// Decodes the header of a snapshot, without the application's code. It checks the whole snapshot for damage, but does not
/// decode its values.
///
/// # Errors
/// `Corrupt`, or `OtherVersion` of the format.
pub fn decode_snapshot_header(bytes: &[u8]) -> Result<SnapshotHeader, StateError> {
    split(bytes).map(|(header, _)| header)
}

/// Checks version and checksum, and returns the header and the lines of the entries.
fn split(bytes: &[u8]) -> Result<(SnapshotHeader, &[u8]), StateError> {
    let first_line_end = bytes.iter().take(MAX_FIRST_LINE_BYTES).position(|byte| *byte == b'\n');
    let version = first_line_end
        .and_then(|end| bytes.get(..end))
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(|line| line.strip_prefix(MAGIC));
    let (Some(version), Some(first_line_end)) = (version, first_line_end) else {
        return Err(corrupt("its first line is not that of a snapshot"));
    };
    match version.parse::<u32>() {
        // The encoder writes neither a sign nor leading zeros.
        Ok(number) if number.to_string() != version => {
            return Err(corrupt("its first line names no version"));
        }
        Ok(FORMAT_VERSION) => {}
        Ok(other) => {
            return Err(StateError::new(
                StateErrorKind::OtherVersion,
                format!(
                    "the snapshot has format version {other}, this program reads version {FORMAT_VERSION}; run the \
                     version of this library that wrote it"
                ),
            ));
        }
        Err(_) => return Err(corrupt("its first line names no version")),
    }
    let Some((content, trailer)) =
        bytes.len().checked_sub(TRAILER_BYTES).and_then(|end| bytes.split_at_checked(end))
    else {
        return Err(corrupt("it is truncated"));
    };
    let checksum = crc32fast::hash(content);
    if trailer != format!("crc32 {checksum:08x}\n").as_bytes() {
        return Err(corrupt("its checksum is wrong, or it is truncated"));
    }
    let rest = content.get(first_line_end + 1..).unwrap_or_default();
    let Some(header_end) = rest.iter().take(MAX_HEADER_BYTES + 1).position(|byte| *byte == b'\n') else {
        return Err(corrupt("its header has no end"));
    };
    let (header, entries) = rest.split_at_checked(header_end + 1).unwrap_or((rest, &[]));
    let header: HeaderJson = serde_json::from_slice(header).map_err(|error| {
        corrupt(format!("its header cannot be read ({:?} error)", error.classify())).with_source(error)
    })?;
    Ok((header.read()?, entries))
}

fn corrupt(reason: impl Into<String>) -> StateError {
    let reason: String = reason.into();
    StateError::new(StateErrorKind::Corrupt, format!("the snapshot is damaged: {reason}"))
}

fn not_json(subject: &str, error: serde_json::Error) -> StateError {
    StateError::new(StateErrorKind::Invalid, format!("{subject} of the state cannot be written as JSON"))
        .with_source(error)
}

fn other_schema(found: &StateSchema, expected: &StateSchema) -> StateError {
    StateError::new(
        StateErrorKind::OtherVersion,
        format!(
            "the snapshot holds a state of schema {found}, the application expects {expected}; implement \
             `StateLogic::migrate`, run the version of the application that wrote it, or start under another \
             application name"
        ),
    )
}

fn not_migrated(found: &StateSchema, expected: &StateSchema, error: BoxError) -> StateError {
    StateError::new(
        StateErrorKind::OtherVersion,
        format!("a value of schema {found} could not be migrated to {expected}; fix `StateLogic::migrate`"),
    )
    .with_source(error)
}

fn millis_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A writer with a size limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("more than {} bytes", self.limit),
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
