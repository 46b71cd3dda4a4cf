//! Rows and expressions for the fuzz targets, which hold them against the model of a lease. No API.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::layout::{MultiStreamKey, RowLayout};
use super::request::Expression;
use super::row::{self, Row};
use crate::{Lease, LeaseChange, LeaseVersion, MalformedLease, ShardId};

/// A row as DynamoDB answers it.
pub type Item = HashMap<String, AttributeValue>;

/// The rows of one application.
#[derive(Debug, Clone)]
pub struct Rows(RowLayout);

/// A conditional update as it is sent.
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
    /// Of an application of one stream, or of this stream of an application of many.
    pub fn new(stream: Option<MultiStreamKey>) -> Self {
        Self(stream.map_or(RowLayout::SingleStream, RowLayout::MultiStream))
    }

    /// Reads a row; `None`: it is no lease of this application, and not meant as one.
    ///
    /// # Errors
    /// What is wrong with a row that is meant as a lease.
    pub fn read(&self, item: &Item) -> Result<Option<Lease>, MalformedLease> {
        match row::read(item, &self.0) {
            Row::Lease(lease) => Ok(Some(*lease)),
            Row::Foreign(_) => Ok(None),
            Row::Malformed(malformed) => Err(malformed),
        }
    }

    /// The whole row of a new lease.
    pub fn write(&self, lease: &Lease) -> Item {
        row::write(lease, &self.0)
    }

    /// The update that makes this change to a row of the expected version.
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
