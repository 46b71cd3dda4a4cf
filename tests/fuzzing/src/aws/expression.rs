//! An interpreter for the part of DynamoDB's expression language that the lease store uses.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use lease_store::internals::{Item, Update};

/// Whether the condition holds for the row.
pub(super) fn holds(update: &Update, row: &Item) -> bool {
    update.condition.split(" AND ").all(|condition| {
        if let Some(name) = condition.strip_prefix("attribute_not_exists(") {
            return !row
                .contains_key(attribute(update, name.strip_suffix(')').expect("a closing parenthesis")));
        }
        let (name, value) = condition.split_once(" = ").expect("an equation");
        row.get(attribute(update, name)).is_some_and(|found| is_equal(found, operand(update, value)))
    })
}

/// Applies the update. All its operands are read from the row before the update.
pub(super) fn apply(update: &Update, row: &Item) -> Item {
    let mut next = row.clone();
    for (clause, action) in actions(&update.update) {
        let (name, rest) = action.split_once(' ').unwrap_or((action, ""));
        let name = attribute(update, name);
        match clause {
            "SET" => {
                let value = set_value(update, row, rest.strip_prefix("= ").expect("an assignment"));
                next.insert(name.to_owned(), value);
            }
            "ADD" => {
                let sum = number(row.get(name)).unwrap_or(0)
                    + number(Some(operand(update, rest))).expect("a number");
                next.insert(name.to_owned(), AttributeValue::N(sum.to_string()));
            }
            "REMOVE" => drop(next.remove(name)),
            _ => panic!("no clause begins with {clause}"),
        }
    }
    next
}

/// Splits an update into single actions, each with its clause.
fn actions(text: &str) -> Vec<(&str, &str)> {
    let mut clause = "";
    let mut actions = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        for word in ["SET", "ADD", "REMOVE"] {
            if let Some(after) = rest.strip_prefix(word) {
                (clause, rest) = (word, after.trim_start());
            }
        }
        let end = action_end(rest);
        actions.push((clause, &rest[..end]));
        rest = rest[end..].trim_start_matches([',', ' ']);
    }
    actions
}

/// Returns the end of an action: a comma outside of parentheses, or the start of the next clause.
fn action_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => return at,
            b' ' if [" ADD ", " REMOVE "].iter().any(|clause| text[at..].starts_with(clause)) => return at,
            _ => {}
        }
    }
    text.len()
}

fn set_value(update: &Update, row: &Item, text: &str) -> AttributeValue {
    let Some(arguments) = text.strip_prefix("if_not_exists(") else { return operand(update, text).clone() };
    let (name, value) = arguments.trim_end_matches(')').split_once(", ").expect("two arguments");
    row.get(attribute(update, name)).unwrap_or_else(|| operand(update, value)).clone()
}

fn attribute<'a>(update: &'a Update, placeholder: &str) -> &'a str {
    &update.names[placeholder]
}

fn operand<'a>(update: &'a Update, placeholder: &str) -> &'a AttributeValue {
    &update.values[placeholder]
}

/// Whether two values are equal. Numbers are equal by value, regardless of their notation.
fn is_equal(one: &AttributeValue, other: &AttributeValue) -> bool {
    match (number(Some(one)), number(Some(other))) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn number(value: Option<&AttributeValue>) -> Option<u128> {
    value?.as_n().ok()?.parse().ok()
}

/// Returns the attributes that an update names, in its condition or as changed.
pub(super) fn named(update: &Update) -> impl Iterator<Item = &str> {
    let names: &HashMap<String, String> = &update.names;
    names.values().map(String::as_str)
}
