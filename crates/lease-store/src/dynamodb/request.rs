//! A conditional write as DynamoDB expressions.
//!
//! An expression names only the attributes that change, so unknown attributes survive every write.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::attributes;
use super::layout::RowLayout;
use crate::lease::{LeaseFacts, LeaseVersion, PendingCheckpoint};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::worker_id::WorkerId;
use crate::write::LeaseChange;

/// A condition and, for an update, the changes to make if it holds.
///
/// The texts use placeholders for attributes and values, so no name can clash with a reserved word of DynamoDB.
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
        expression.require(attributes::LEASE_KEY, None);
        expression
    }

    /// The condition of a deletion.
    pub(super) fn deletion(expected: &LeaseVersion) -> Self {
        let mut expression = Self::default();
        expression.require(attributes::LEASE_COUNTER, Some(attributes::number_value(expected.counter)));
        // An absent owner is part of the version too: a row that gained an owner is not the row that was seen.
        expression.require(attributes::LEASE_OWNER, worker_value(expected.owner.as_ref()));
        expression.require(attributes::CHECKPOINT_OWNER, worker_value(expected.checkpoint_owner.as_ref()));
        expression
    }

    /// The condition and the changes of an update. They turn a row of the expected version into exactly the result of
    /// [`LeaseChange::apply`].
    pub(super) fn update(expected: &LeaseVersion, change: &LeaseChange) -> Self {
        let mut expression = Self::deletion(expected);
        match change {
            LeaseChange::Reported { change, report } => {
                expression = Self::update(expected, change);
                // The condition fixes the counter that the write increments.
                let counter = expected.counter.saturating_add(1);
                expression.set(attributes::LAG_REPORT, attributes::text_value(&report.text(counter)));
            }
            LeaseChange::Renew => expression.count_up(attributes::LEASE_COUNTER),
            LeaseChange::Checkpoint { position, children } => expression.checkpoint(position, children),
            LeaseChange::PrepareCheckpoint(pending) => expression.prepare_checkpoint(pending),
            LeaseChange::Take { owner, facts } => {
                // The write applies only to a row with the expected counter, so the new counter can be computed here.
                if facts.counter_floor > expected.counter.saturating_add(1) {
                    let counter = attributes::number_value(facts.counter_floor);
                    expression.set(attributes::LEASE_COUNTER, counter);
                } else {
                    expression.count_up(attributes::LEASE_COUNTER);
                }
                expression.give_to(expected, owner, facts.owner_process.as_deref());
                expression.add_facts(facts);
            }
            LeaseChange::HandOver { to } => {
                // In a hand-over of KCL 3.x the row, and so the version, already names the new owner.
                if expected.checkpoint_owner.is_none() {
                    expression.require(attributes::REQUESTED_BY, worker_value(Some(to)));
                }
                // If the version rules the hand-over out, a contradicting condition prevents the write.
                match (&expected.checkpoint_owner, &expected.owner) {
                    (Some(_), Some(new_owner)) if new_owner == to => {}
                    (None, Some(owner)) if owner != to => {}
                    (None, Some(_)) => expression.require(attributes::LEASE_OWNER, None),
                    (_, _) => expression.require(attributes::LEASE_OWNER, worker_value(Some(to))),
                }
                expression.count_up(attributes::LEASE_COUNTER);
                expression.give_to(expected, to, None);
            }
            LeaseChange::Request { by, instead_of } => {
                expression.require(attributes::REQUESTED_BY, worker_value(instead_of.as_ref()));
                expression.set(attributes::REQUESTED_BY, attributes::text_value(by.as_str()));
            }
            LeaseChange::Withdraw { by } => {
                expression.require(attributes::REQUESTED_BY, worker_value(Some(by)));
                expression.remove(attributes::REQUESTED_BY);
            }
            LeaseChange::AskOwner { text, instead_of } => {
                expression.replace_text(attributes::OWNER_REQUEST, text.as_deref(), instead_of.as_deref());
            }
            LeaseChange::Pause { text, instead_of } => {
                expression.replace_text(attributes::PAUSE, text.as_deref(), instead_of.as_deref());
            }
            LeaseChange::Reset { position, initial_time_millis, children, reset_id, owner_request } => {
                let request = owner_request.as_deref().map(attributes::text_value);
                expression.require(attributes::OWNER_REQUEST, request);
                expression.checkpoint(position, children);
                match initial_time_millis {
                    Some(millis) => {
                        expression.set(attributes::INITIAL_TIME_MILLIS, attributes::number_value(*millis));
                    }
                    None => expression.remove(attributes::INITIAL_TIME_MILLIS),
                }
                expression.set(attributes::RESET_ID, attributes::number_value(*reset_id));
                expression.remove(attributes::CHECKPOINT_OWNER);
                expression.free();
            }
            LeaseChange::Offer => {
                expression.count_up(attributes::LEASE_COUNTER);
                match worker_value(expected.owner.as_ref()) {
                    Some(owner) => expression.set(attributes::OFFERED_BY, owner),
                    None => expression.remove(attributes::OFFERED_BY),
                }
            }
            LeaseChange::Release => expression.free(),
        }
        expression
    }

    /// Adds the attributes that the KCL repeats with every checkpoint in a multi-stream table.
    pub(super) fn with_layout(
        mut self,
        layout: &RowLayout,
        shard_id: &ShardId,
        change: &LeaseChange,
    ) -> Self {
        if let (RowLayout::MultiStream(stream), LeaseChange::Checkpoint { .. } | LeaseChange::Reset { .. }) =
            (layout, change.without_report())
        {
            self.set(attributes::STREAM_NAME, attributes::text_value(stream.as_str()));
            self.set(attributes::SHARD_ID, attributes::text_value(shard_id.as_str()));
        }
        self
    }

    /// The text of the condition: the conjunction of all parts.
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

    /// The values behind the placeholders; `None` when there are none, because DynamoDB refuses an empty map.
    pub(super) fn values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }

    fn checkpoint(&mut self, position: &Position, children: &BTreeSet<ShardId>) {
        self.count_up(attributes::LEASE_COUNTER);
        self.set(attributes::CHECKPOINT, attributes::text_value(position.checkpoint()));
        let sub_sequence_number = attributes::number_value(position.sub_sequence_number());
        self.set(attributes::CHECKPOINT_SUB_SEQUENCE_NUMBER, sub_sequence_number);
        self.set(attributes::OWNER_SWITCHES_SINCE_CHECKPOINT, attributes::number_value(0));
        if !children.is_empty() {
            self.set(attributes::CHILD_SHARD_IDS, attributes::shard_ids_value(children));
        }
        self.remove(attributes::PENDING_CHECKPOINT);
        self.remove(attributes::PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER);
        self.remove(attributes::PENDING_CHECKPOINT_STATE);
    }

    /// Removes the owner and what belongs to its ownership.
    fn free(&mut self) {
        self.remove(attributes::LEASE_OWNER);
        self.remove(attributes::REQUESTED_BY);
        self.remove(attributes::OFFERED_BY);
        self.remove(attributes::OWNER_PROCESS);
        self.remove(attributes::OWNER_REQUEST);
    }

    /// Sets or removes a text, if the attribute still has the text that was seen.
    fn replace_text(&mut self, attribute: &str, text: Option<&str>, instead_of: Option<&str>) {
        self.require(attribute, instead_of.map(attributes::text_value));
        match text {
            Some(text) => self.set(attribute, attributes::text_value(text)),
            None => self.remove(attribute),
        }
    }

    /// Changes the owner. An update expression has no *if*, so it is decided here whether the take counts as a switch.
    /// The rule depends on both owners, and the condition fixes both. The table itself increments the count.
    fn give_to(&mut self, expected: &LeaseVersion, owner: &WorkerId, owner_process: Option<&str>) {
        self.set(attributes::LEASE_OWNER, attributes::text_value(owner.as_str()));
        if LeaseChange::counts_as_owner_switch(expected, owner) {
            self.count_up(attributes::OWNER_SWITCHES_SINCE_CHECKPOINT);
        }
        self.remove(attributes::CHECKPOINT_OWNER);
        self.remove(attributes::REQUESTED_BY);
        self.remove(attributes::OFFERED_BY);
        self.remove(attributes::OWNER_REQUEST);
        match owner_process {
            Some(process) => self.set(attributes::OWNER_PROCESS, attributes::text_value(process)),
            None => self.remove(attributes::OWNER_PROCESS),
        }
    }

    fn add_facts(&mut self, facts: &LeaseFacts) {
        if let Some(stream) = &facts.stream {
            self.fill_in(attributes::STREAM_ARN, attributes::text_value(&stream.arn));
            self.fill_in(
                attributes::STREAM_CREATION_EPOCH,
                attributes::number_value(stream.creation_epoch_seconds),
            );
        }
        if let Some(application) = &facts.application {
            self.fill_in(attributes::APPLICATION, attributes::text_value(application));
        }
        if let Some(row_id) = facts.row_id {
            self.fill_in(attributes::ROW_ID, attributes::number_value(row_id));
        }
        if let Some(initial_time_millis) = facts.initial_time_millis {
            self.fill_in(attributes::INITIAL_TIME_MILLIS, attributes::number_value(initial_time_millis));
        }
        if let Some(range) = &facts.hash_key_range {
            self.fill_in(attributes::STARTING_HASH_KEY, attributes::text_value(&range.start().to_string()));
            self.fill_in(attributes::ENDING_HASH_KEY, attributes::text_value(&range.end().to_string()));
        }
    }

    fn prepare_checkpoint(&mut self, pending: &PendingCheckpoint) {
        self.count_up(attributes::LEASE_COUNTER);
        self.set(attributes::PENDING_CHECKPOINT, attributes::text_value(pending.position.checkpoint()));
        let sub_sequence_number = attributes::number_value(pending.position.sub_sequence_number());
        self.set(attributes::PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER, sub_sequence_number);
        match &pending.state {
            Some(state) => self.set(attributes::PENDING_CHECKPOINT_STATE, attributes::bytes_value(state)),
            None => self.remove(attributes::PENDING_CHECKPOINT_STATE),
        }
    }

    /// Requires that the attribute has this value; `None` requires that it is absent.
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

    /// Sets the attribute if it is absent.
    fn fill_in(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (self.name(attribute), self.value(value));
        self.set.push(format!("{name} = if_not_exists({name}, {value})"));
    }

    /// Increments a counter. DynamoDB does the addition, so nothing can overflow here.
    fn count_up(&mut self, attribute: &str) {
        let (name, one) = (self.name(attribute), self.value(attributes::number_value(1)));
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
    worker_id.map(|worker_id| attributes::text_value(worker_id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::layout::MultiStreamKey;
    use super::*;
    use crate::hash_key_range::HashKeyRange;
    use crate::lag_report::LagReport;
    use crate::stream_identity::StreamIdentity;

    fn worker(name: &'static str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn version(owner: Option<&'static str>, checkpoint_owner: Option<&'static str>) -> LeaseVersion {
        LeaseVersion { counter: 7, owner: owner.map(worker), checkpoint_owner: checkpoint_owner.map(worker) }
    }

    fn take(owner: &'static str) -> LeaseChange {
        LeaseChange::take(worker(owner))
    }

    /// The text with its placeholders replaced by attributes and values.
    fn filled(expression: &Expression, mut text: String) -> String {
        // The longest first: one placeholder can be the beginning of another.
        let mut values: Vec<_> = expression.values.iter().collect();
        values.sort_by_key(|(placeholder, _)| std::cmp::Reverse(placeholder.len()));
        for (placeholder, value) in values {
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
                LeaseChange::PrepareCheckpoint(PendingCheckpoint { position: position.clone(), state: None }),
                LeaseChange::Offer,
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
    fn an_update_names_only_changed_attributes() {
        let update = |change| update(&version(Some("a"), None), &change);
        assert_eq!(update(LeaseChange::Renew), "ADD leaseCounter 1");
        assert_eq!(
            update(LeaseChange::Release),
            "REMOVE leaseOwner, handOverRequestedBy, handOverOfferedBy, leaseOwnerProcess, operatorRequest"
        );
        assert_eq!(update(LeaseChange::Offer), "SET handOverOfferedBy = a ADD leaseCounter 1");
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
    fn a_report_adds_one_attribute_to_a_write() {
        let report =
            LagReport { behind_millis: 5, measured_at_millis: 9, processed_bytes_per_second: Some(3) };
        let change = LeaseChange::Reported { change: Box::new(LeaseChange::Renew), report };
        let plain = Expression::update(&version(Some("a"), None), &LeaseChange::Renew);
        let reported = Expression::update(&version(Some("a"), None), &change);
        assert_eq!(condition(&reported), condition(&plain));
        assert_eq!(
            update(&version(Some("a"), None), &change),
            "SET ownerLag = behind=5 at=9 rate=3 counter=8 ADD leaseCounter 1"
        );
    }

    #[test]
    fn a_take_counts_as_a_switch_by_the_kcl_rule() {
        let removed = "REMOVE checkpointOwner, handOverRequestedBy, handOverOfferedBy, operatorRequest, leaseOwnerProcess";
        let plain = format!("SET leaseOwner = b ADD leaseCounter 1 {removed}");
        let counted =
            format!("SET leaseOwner = b ADD leaseCounter 1, ownerSwitchesSinceCheckpoint 1 {removed}");
        for (owner, checkpoint_owner, wanted) in [
            (None, None, &plain),
            (Some("b"), None, &plain),
            (Some("b"), Some("a"), &plain),
            (Some("a"), None, &counted),
            (Some("a"), Some("b"), &counted),
            (None, Some("b"), &counted),
        ] {
            let text = update(&version(owner, checkpoint_owner), &take("b"));
            assert_eq!(&text, wanted, "{owner:?} {checkpoint_owner:?}");
        }
    }

    #[test]
    fn a_take_adds_only_missing_facts() {
        let facts = LeaseFacts {
            stream: Some(StreamIdentity { arn: "arn".to_owned(), creation_epoch_seconds: 17 }),
            application: Some("orders".to_owned()),
            row_id: Some(99),
            initial_time_millis: Some(42),
            hash_key_range: Some(HashKeyRange::FULL),
            owner_process: Some("host-1 17".to_owned()),
            counter_floor: 0,
        };
        let text = update(&version(None, None), &LeaseChange::Take { owner: worker("a"), facts });
        for filled in [
            "streamArn = if_not_exists(streamArn, arn)",
            "streamCreationEpoch = if_not_exists(streamCreationEpoch, 17)",
            "leaseApplication = if_not_exists(leaseApplication, orders)",
            "leaseRowId = if_not_exists(leaseRowId, 99)",
            "initialTimeMillis = if_not_exists(initialTimeMillis, 42)",
            "startingHashKey = if_not_exists(startingHashKey, 0)",
            "endingHashKey = if_not_exists(endingHashKey, 340282366920938463463374607431768211455)",
            "leaseOwnerProcess = host-1 17,",
        ] {
            assert!(text.contains(filled), "{filled} in {text}");
        }
    }

    #[test]
    fn a_hand_over_requires_the_request_of_the_new_owner() {
        let hand_over = LeaseChange::HandOver { to: worker("b") };
        let of_a_request = Expression::update(&version(Some("a"), None), &hand_over);
        assert!(
            condition(&of_a_request).ends_with(" AND handOverRequestedBy = b"),
            "{}",
            condition(&of_a_request)
        );
        let of_kcl_3 = Expression::update(&version(Some("b"), Some("a")), &hand_over);
        assert_eq!(condition(&of_kcl_3), "leaseCounter = 7 AND leaseOwner = b AND checkpointOwner = a");
        let text = filled(&of_a_request, of_a_request.update_text());
        assert_eq!(text, update(&version(Some("a"), None), &take("b")), "the update is that of a take");
    }

    #[test]
    fn a_hand_over_ruled_out_by_the_version_cannot_apply() {
        let hand_over = LeaseChange::HandOver { to: worker("b") };
        for (owner, checkpoint_owner, contradiction) in [
            (None, None, "leaseOwner = b"),
            (Some("b"), None, "attribute_not_exists(leaseOwner)"),
            (Some("c"), Some("a"), "leaseOwner = b"),
            (None, Some("a"), "leaseOwner = b"),
        ] {
            let text = condition(&Expression::update(&version(owner, checkpoint_owner), &hand_over));
            assert!(text.ends_with(&format!(" AND {contradiction}")), "{text}");
        }
    }

    #[test]
    fn a_request_keeps_the_counter_and_unseen_requests() {
        for (instead_of, required) in [
            (None, "attribute_not_exists(handOverRequestedBy)"),
            (Some(worker("c")), "handOverRequestedBy = c"),
        ] {
            let request = LeaseChange::Request { by: worker("b"), instead_of };
            let expression = Expression::update(&version(Some("a"), None), &request);
            let wanted = format!(
                "leaseCounter = 7 AND leaseOwner = a AND attribute_not_exists(checkpointOwner) AND {required}"
            );
            assert_eq!(condition(&expression), wanted);
            assert_eq!(filled(&expression, expression.update_text()), "SET handOverRequestedBy = b");
        }
    }

    #[test]
    fn notes_of_operators_keep_the_counter_and_unseen_notes() {
        let note = |is_pause: bool, text: Option<&str>, instead_of: Option<&str>| {
            let (text, instead_of) = (text.map(str::to_owned), instead_of.map(str::to_owned));
            if is_pause {
                LeaseChange::Pause { text, instead_of }
            } else {
                LeaseChange::AskOwner { text, instead_of }
            }
        };
        for (is_pause, attribute) in [(false, "operatorRequest"), (true, "operatorPause")] {
            let set = Expression::update(&version(Some("a"), None), &note(is_pause, Some("x"), None));
            let wanted = format!(" AND attribute_not_exists({attribute})");
            assert!(condition(&set).ends_with(&wanted), "{}", condition(&set));
            assert_eq!(filled(&set, set.update_text()), format!("SET {attribute} = x"));
            let removed = Expression::update(&version(Some("a"), None), &note(is_pause, None, Some("x")));
            assert!(condition(&removed).ends_with(&format!(" AND {attribute} = x")));
            assert_eq!(filled(&removed, removed.update_text()), format!("REMOVE {attribute}"));
        }
    }

    #[test]
    fn reset_sets_or_removes_the_instant_in_one_write() {
        let reset = |initial_time_millis| LeaseChange::Reset {
            position: Position::Latest,
            initial_time_millis,
            children: BTreeSet::new(),
            reset_id: 7,
            owner_request: Some("r".to_owned()),
        };
        let expression = Expression::update(&version(Some("a"), None), &reset(Some(42)));
        assert!(condition(&expression).ends_with(" AND operatorRequest = r"));
        let text = update(&version(Some("a"), None), &reset(Some(42)));
        assert!(
            text.contains("initialTimeMillis = 42, operatorResetId = 7 ADD leaseCounter 1 REMOVE"),
            "{text}"
        );
        assert!(text.contains("leaseOwner, handOverRequestedBy"), "{text}");
        let text = update(&version(Some("a"), None), &reset(None));
        assert!(
            text.contains("pendingCheckpointState, initialTimeMillis, checkpointOwner, leaseOwner"),
            "{text}"
        );
    }

    #[test]
    fn a_checkpoint_in_a_multi_stream_table_names_the_stream() {
        let layout = RowLayout::MultiStream(MultiStreamKey::new("12", "orders", 17).unwrap());
        let checkpoint = LeaseChange::Checkpoint { position: Position::ShardEnd, children: BTreeSet::new() };
        for (change, names_stream) in [(checkpoint, true), (LeaseChange::Renew, false)] {
            let expression = Expression::update(&version(Some("a"), None), &change);
            let expression = expression.with_layout(&layout, &ShardId::numbered(4), &change);
            let text = filled(&expression, expression.update_text());
            assert_eq!(
                text.contains("streamName = 12:orders:17, shardId = shardId-000000000004"),
                names_stream,
                "{text}"
            );
        }
    }
}
