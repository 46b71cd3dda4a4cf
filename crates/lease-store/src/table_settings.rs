//! The settings of a table that the store creates: plain data, as in a file.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// The most tags of a table (AWS).
const MAX_TAGS: usize = 50;

/// The longest key of a tag, in characters (AWS).
const MAX_TAG_KEY_CHARS: usize = 128;

/// The longest value of a tag, in characters (AWS).
const MAX_TAG_VALUE_CHARS: usize = 256;

/// The billing mode of a table that the store creates. An existing table keeps its own.
///
/// ```
/// use std::num::NonZeroU32;
/// use lease_store::BillingMode;
///
/// assert_eq!(BillingMode::default(), BillingMode::OnDemand);
/// let units = NonZeroU32::new(10).expect("ten is not zero");
/// let provisioned = BillingMode::Provisioned { read_capacity_units: units, write_capacity_units: units };
/// assert_ne!(provisioned, BillingMode::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
#[non_exhaustive]
pub enum BillingMode {
    /// Billed by request, without a fixed limit.
    #[default]
    OnDemand,
    /// Billed by reserved capacity. Each renewal and each checkpoint of a lease costs one write unit.
    Provisioned {
        /// Read units per second.
        read_capacity_units: NonZeroU32,
        /// Write units per second.
        write_capacity_units: NonZeroU32,
    },
}

/// How the store creates its table. An existing table is left as it is.
///
/// ```
/// use lease_store::TableSettings;
///
/// let mut settings = TableSettings::default();
/// settings.deletion_protection = true;
/// settings.tags.insert("team".to_owned(), "orders".to_owned());
/// assert!(settings.faults().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TableSettings {
    /// The billing mode; on demand by default.
    pub billing_mode: BillingMode,
    /// Whether DynamoDB refuses to delete the table; off by default.
    pub deletion_protection: bool,
    /// Whether DynamoDB keeps continuous backups, so that the table can be restored at any second of the last 35 days; off by
    /// default. Needs the permission `dynamodb:UpdateContinuousBackups`; without it a warning is logged, and the table is used.
    pub point_in_time_recovery: bool,
    /// The tags of the table; none by default. With tags, the creation also needs the permission `dynamodb:TagResource`.
    pub tags: BTreeMap<String, String>,
}

impl TableSettings {
    /// All faults, one line each; empty when the settings are valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.tags.len() > MAX_TAGS {
            faults.push(format!("tags has {} tags; at most {MAX_TAGS} are allowed", self.tags.len()));
        }
        for (key, value) in &self.tags {
            if !(1..=MAX_TAG_KEY_CHARS).contains(&key.chars().count()) || key.starts_with("aws:") {
                faults.push(format!(
                    "tags key {key:?} must be 1 to {MAX_TAG_KEY_CHARS} characters and not begin with aws:"
                ));
            }
            if value.chars().count() > MAX_TAG_VALUE_CHARS {
                faults
                    .push(format!("tags value of {key:?} must be at most {MAX_TAG_VALUE_CHARS} characters"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_a_table_follow_the_rules_of_the_api() {
        let with_tag = |key: &str, value: &str| {
            let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            TableSettings { tags, ..TableSettings::default() }.faults().len()
        };
        assert_eq!((with_tag("team", "orders"), with_tag("empty", "")), (0, 0));
        assert_eq!((with_tag("", "v"), with_tag("aws:team", "v")), (1, 1));
        assert_eq!(with_tag("k", &"v".repeat(MAX_TAG_VALUE_CHARS + 1)), 1);
        let many = (0..=MAX_TAGS).map(|key| (key.to_string(), String::new())).collect();
        assert_eq!(TableSettings { tags: many, ..TableSettings::default() }.faults().len(), 1);
    }
}
