//! Rows and expressions for the fuzz targets, which compare them with the model of a lease. Not an API.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::layout::{MultiStreamKey, RowLayout};
use super::request::Expression;
use super::row_reader::{self, Row};
use super::row_writer;
use crate::lease::{Lease, LeaseVersion};
use crate::shard_id::ShardId;
use crate::store::MalformedLease;
use crate::write::LeaseChange;

/// A row as DynamoDB returns it.
pub type Item = HashMap<String, AttributeValue>;

/// Reads and writes the rows of one application.
#[derive(Debug, Clone)]
pub struct Rows(RowLayout);

/// A conditional update in the form that is sent.
#[derive(Debug, Clone)]
pub struct Update {
    /// The text of the condition.
    pub condition: String,
    /// The text of the update.
    pub update: String,
    /// The attributes behind the placeholders.
    pub names: HashMap<String, String>,
    /// The values behind the placeholders.
    pub values: Item,
}

impl Rows {
    /// The rows of a single-stream application, or of one stream of a multi-stream application.
    pub fn new(stream: Option<MultiStreamKey>) -> Self {
        Self(stream.map_or(RowLayout::SingleStream, RowLayout::MultiStream))
    }

    /// Reads a row. `None` when the row is not a lease of this application.
    ///
    /// # Errors
    /// The fault of a malformed lease row.
    pub fn read(&self, item: &Item) -> Result<Option<Lease>, MalformedLease> {
        match row_reader::read(item, &self.0) {
            Row::Lease(lease) => Ok(Some(*lease)),
            Row::Foreign(_) => Ok(None),
            Row::Malformed(malformed) => Err(malformed),
        }
    }

    /// The whole row of a new lease.
    pub fn write(&self, lease: &Lease) -> Item {
        row_writer::write(lease, &self.0)
    }

    /// The update that makes a change to a row of the expected version.
    pub fn update(&self, shard_id: &ShardId, expected: &LeaseVersion, change: &LeaseChange) -> Update {
        let expression = Expression::update(expected, change).with_layout(&self.0, shard_id, change);
        Update {
            condition: expression.condition_text(),
            update: expression.update_text(),
            names: expression.names(),
            values: expression.values().unwrap_or_default(),
        }
    }
}
