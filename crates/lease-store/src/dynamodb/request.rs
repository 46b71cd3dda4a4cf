//! A conditional write as DynamoDB expressions.
//!
//! Only what changes is named, so attributes that we do not know survive every write.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::row;
use crate::{LeaseChange, LeaseVersion, Position, ShardId, WorkerId};

/// A condition and, for an update, what changes when it holds.
///
/// Attributes and values stand in the texts as placeholders, so no name can clash with a word that DynamoDB reserves.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Expression {
    conditions: Vec<String>,
    set: Vec<String>,
    add: Vec<String>,
    remove: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Expression {
    /// The condition of a creation.
    pub(super) fn creation() -> Self {
        let mut expression = Self::default();
        expression.require(row::LEASE_KEY, None);
        expression
    }

    /// The condition of a deletion.
    pub(super) fn deletion(expected: &LeaseVersion) -> Self {
        let mut expression = Self::default();
        expression.require(row::LEASE_COUNTER, Some(row::number_value(expected.counter)));
        // Absent is a value like any other: a row that gained an owner is not the row that was seen.
        expression.require(row::LEASE_OWNER, worker_value(expected.owner.as_ref()));
        expression.require(row::CHECKPOINT_OWNER, worker_value(expected.checkpoint_owner.as_ref()));
        expression
    }

    /// The condition of an update and what it changes: exactly what [`LeaseChange::apply`] makes of a row of the
    /// expected version.
    pub(super) fn update(expected: &LeaseVersion, change: &LeaseChange) -> Self {
        let mut expression = Self::deletion(expected);
        match change {
            LeaseChange::Renew => expression.count_up(row::LEASE_COUNTER),
            LeaseChange::Checkpoint { position, children } => expression.checkpoint(position, children),
            LeaseChange::Take { owner } => expression.take(expected, owner),
            LeaseChange::Release => expression.remove(row::LEASE_OWNER),
        }
        expression
    }

    /// The text of the condition; all parts must hold.
    pub(super) fn condition_text(&self) -> String {
        self.conditions.join(" AND ")
    }

    /// The text of the update.
    pub(super) fn update_text(&self) -> String {
        [("SET", &self.set), ("ADD", &self.add), ("REMOVE", &self.remove)]
            .into_iter()
            .filter(|(_, actions)| !actions.is_empty())
            .map(|(clause, actions)| format!("{clause} {}", actions.join(", ")))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The attributes behind the placeholders.
    pub(super) fn names(&self) -> HashMap<String, String> {
        self.names.clone()
    }

    /// The values behind the placeholders; `None` when there are none, as DynamoDB refuses an empty map.
    pub(super) fn values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }

    fn checkpoint(&mut self, position: &Position, children: &BTreeSet<ShardId>) {
        self.count_up(row::LEASE_COUNTER);
        self.set(row::CHECKPOINT, row::text_value(position.checkpoint()));
        let sub_sequence_number = row::number_value(position.sub_sequence_number());
        self.set(row::CHECKPOINT_SUB_SEQUENCE_NUMBER, sub_sequence_number);
        self.set(row::OWNER_SWITCHES_SINCE_CHECKPOINT, row::number_value(0));
        if !children.is_empty() {
            self.set(row::CHILD_SHARD_IDS, row::shard_ids_value(children));
        }
        self.remove(row::PENDING_CHECKPOINT);
        self.remove(row::PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER);
        self.remove(row::PENDING_CHECKPOINT_STATE);
    }

    /// An update has no *if*, so whether this take counts as a switch is decided here. The condition holds the row to
    /// all that the rule looks at, both owners; only the count itself is the table's to know.
    fn take(&mut self, expected: &LeaseVersion, owner: &WorkerId) {
        self.count_up(row::LEASE_COUNTER);
        self.set(row::LEASE_OWNER, row::text_value(owner.as_str()));
        if LeaseChange::counts_as_owner_switch(expected, owner) {
            self.count_up(row::OWNER_SWITCHES_SINCE_CHECKPOINT);
        }
        self.remove(row::CHECKPOINT_OWNER);
    }

    /// The attribute must have this value, or be absent.
    fn require(&mut self, attribute: &str, value: Option<AttributeValue>) {
        let name = self.name(attribute);
        let condition = match value {
            Some(value) => format!("{name} = {}", self.value(value)),
            None => format!("attribute_not_exists({name})"),
        };
        self.conditions.push(condition);
    }

    fn set(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (self.name(attribute), self.value(value));
        self.set.push(format!("{name} = {value}"));
    }

    /// The table adds, so no counter can overflow here.
    fn count_up(&mut self, attribute: &str) {
        let (name, one) = (self.name(attribute), self.value(row::number_value(1)));
        self.add.push(format!("{name} {one}"));
    }

    fn remove(&mut self, attribute: &str) {
        let name = self.name(attribute);
        self.remove.push(name);
    }

    fn name(&mut self, attribute: &str) -> String {
        let placeholder = format!("#{attribute}");
        self.names.insert(placeholder.clone(), attribute.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }
}

fn worker_value(worker_id: Option<&WorkerId>) -> Option<AttributeValue> {
    worker_id.map(|worker_id| row::text_value(worker_id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &'static str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn version(owner: Option<&'static str>, checkpoint_owner: Option<&'static str>) -> LeaseVersion {
        LeaseVersion { counter: 7, owner: owner.map(worker), checkpoint_owner: checkpoint_owner.map(worker) }
    }

    fn take(owner: &'static str) -> LeaseChange {
        LeaseChange::Take { owner: worker(owner) }
    }

    /// A text with attributes and values in place of their placeholders.
    fn filled(expression: &Expression, mut text: String) -> String {
        for (placeholder, value) in &expression.values {
            let value = match value {
                AttributeValue::S(value) | AttributeValue::N(value) => value.clone(),
                other => format!("{other:?}"),
            };
            text = text.replace(placeholder, &value);
        }
        for (placeholder, attribute) in &expression.names {
            assert_eq!(placeholder, &format!("#{attribute}"));
        }
        text.replace('#', "")
    }

    fn condition(expression: &Expression) -> String {
        filled(expression, expression.condition_text())
    }

    fn update(expected: &LeaseVersion, change: &LeaseChange) -> String {
        let expression = Expression::update(expected, change);
        filled(&expression, expression.update_text())
    }

    #[test]
    fn every_write_is_conditional_on_the_whole_version() {
        let position = Position::after(4959.into(), 3);
        let versions = [
            (None, None, "attribute_not_exists(leaseOwner) AND attribute_not_exists(checkpointOwner)"),
            (Some("a"), None, "leaseOwner = a AND attribute_not_exists(checkpointOwner)"),
            (Some("a"), Some("b"), "leaseOwner = a AND checkpointOwner = b"),
        ];
        for (owner, checkpoint_owner, owners) in versions {
            let expected = version(owner, checkpoint_owner);
            let wanted = format!("leaseCounter = 7 AND {owners}");
            assert_eq!(condition(&Expression::deletion(&expected)), wanted);
            for change in [
                LeaseChange::Renew,
                LeaseChange::Checkpoint { position: position.clone(), children: BTreeSet::new() },
                take("c"),
                LeaseChange::Release,
            ] {
                assert_eq!(condition(&Expression::update(&expected, &change)), wanted, "{change:?}");
            }
        }
        assert_eq!(condition(&Expression::creation()), "attribute_not_exists(leaseKey)");
        assert_eq!(Expression::creation().values(), None);
    }

    #[test]
    fn only_what_changes_is_written() {
        let update = |change| update(&version(Some("a"), None), &change);
        assert_eq!(update(LeaseChange::Renew), "ADD leaseCounter 1");
        assert_eq!(update(LeaseChange::Release), "REMOVE leaseOwner");
        let position = Position::after(4959.into(), 3);
        assert_eq!(
            update(LeaseChange::Checkpoint { position, children: BTreeSet::new() }),
            "SET checkpoint = 4959, checkpointSubSequenceNumber = 3, ownerSwitchesSinceCheckpoint = 0 \
             ADD leaseCounter 1 \
             REMOVE pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState"
        );
        let children = BTreeSet::from([ShardId::new("s8").unwrap(), ShardId::new("s9").unwrap()]);
        let end = update(LeaseChange::Checkpoint { position: Position::ShardEnd, children });
        assert!(end.contains(r#", childShardIds = Ss(["s8", "s9"]) ADD"#), "{end}");
    }

    #[test]
    fn a_take_counts_as_a_switch_by_the_rule_of_the_kcl() {
        let plain = "SET leaseOwner = b ADD leaseCounter 1 REMOVE checkpointOwner";
        let counted =
            "SET leaseOwner = b ADD leaseCounter 1, ownerSwitchesSinceCheckpoint 1 REMOVE checkpointOwner";
        for (owner, checkpoint_owner, wanted) in [
            (None, None, plain),
            (Some("b"), None, plain),
            (Some("b"), Some("a"), plain),
            (Some("a"), None, counted),
            (Some("a"), Some("b"), counted),
            (None, Some("b"), counted),
        ] {
            let text = update(&version(owner, checkpoint_owner), &take("b"));
            assert_eq!(text, wanted, "{owner:?} {checkpoint_owner:?}");
        }
    }
}
