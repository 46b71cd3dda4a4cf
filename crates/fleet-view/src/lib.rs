//! A fleet of Kinesis consumers as data: who reads which shard, how far behind, and what may be done about it.
//!
//! It works for every lease table of the KCL's kind. Nothing here does I/O, reads a clock or writes: a caller reads the table
//! and the stream into a [`Look`], and carries out a plan through the `LeaseStore` trait.
//!
//! | topic | items |
//! | --- | --- |
//! | what was read | [`Look`] |
//! | its meaning | [`FleetSnapshot`]: shards with their state, workers with their shards, signs that something is wrong |
//! | several looks | [`History`], which gives a [`FleetVerdict`]: ok, falling behind, stuck, …, and the time until records are lost |
//! | rows against their stream | [`row_faults`]: positions, lineage and hash keys that the stream contradicts |
//! | operations | [`plan`]: reset, copy, adopt, assign, release, pause, resume and delete, each a list of conditional row changes |
//! | positions in a file | [`PositionsFile`] |
//! | for people and programs | [`FleetView`]: lines for a terminal of any width, and JSON |

mod coverage;
mod error;
mod history;
mod integrity;
mod judge;
mod lineage;
mod look;
mod owner_process;
mod pace;
pub mod plan;
mod positions_file;
mod render;
mod request;
mod shard_view;
mod signs;
mod snapshot;
mod text;
mod track;
mod verdict;

pub use error::{FleetError, FleetErrorKind};
pub use history::{History, LookRefusal, MAX_SHARDS, Renewal};
pub use integrity::{RowFault, row_faults};
pub use lineage::Lineage;
pub use look::{
    FleetMode, ForeignKind, ForeignRow, LagOrigin, LagSample, Look, MalformedRow, ShardInfo, ShardNotes,
    StreamSummary, WorkerRow,
};
pub use owner_process::OwnerProcess;
pub use positions_file::{MAX_FILE_BYTES, PositionsFile, ShardPosition};
pub use render::{FleetView, MAX_SHOWN_SHARDS, MIN_WIDTH};
pub use request::{OperatorRequest, Pause};
pub use shard_view::{ShardState, ShardView, WorkerView};
pub use signs::Sign;
pub use snapshot::FleetSnapshot;
pub use text::{duration_text, instant_text, parse_position};
pub use verdict::{FleetVerdict, ShardVerdict, TimeToLoss, Verdict};
