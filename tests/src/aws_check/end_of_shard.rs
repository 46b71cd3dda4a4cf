//! The checks of the end of a closed shard.

use std::collections::BTreeSet;

use super::assumption::Findings;
use super::calls::{Calls, ReadIn, Start};
use super::listing;
use super::reading::Answers;
use super::stream::StreamFacts;

/// How often a closed shard is read from each start.
const MAX_READS: usize = 20;

/// The records of one read on the way to the end.
const RECORDS_PER_READ: i32 = 1000;

const IDS: [&str; 2] = ["end.iterator", "end.children"];

/// How reading towards the end went.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// Without a next iterator; the ids of the children.
    Ended(BTreeSet<String>),
    /// Nothing is left, and there are still iterators.
    Lingers,
    /// There was more to read.
    TooFar,
    Refused(String),
}

/// Reads a closed shard to its end.
pub(super) async fn check(
    calls: &Calls,
    facts: &StreamFacts,
    answers: &mut Answers,
    findings: &mut Findings,
) {
    // The newest one: its records are least likely to be removed while it is read.
    let is_parent = |id: &str| !listing::children(&facts.shards, id).is_empty();
    let Some(shard) = facts.shards.iter().rev().find(|shard| shard.is_closed && is_parent(&shard.id)) else {
        findings.skip(&IDS, "no closed shard has listed children");
        return;
    };
    let mut reading = Reading::TooFar;
    for start in [Start::Latest, Start::TrimHorizon] {
        reading = read_to_the_end(calls, &shard.id, start, answers).await;
        if matches!(reading, Reading::Ended(_)) {
            break;
        }
    }
    match reading {
        Reading::Ended(children) => {
            findings.check("end.iterator", true, "no next iterator");
            let expected = listing::children(&facts.shards, &shard.id);
            let named: BTreeSet<&str> = children.iter().map(String::as_str).collect();
            let seen = format!("{} children named, {} listed", named.len(), expected.len());
            findings.check("end.children", named == expected, seen);
        }
        Reading::Lingers => {
            findings.check("end.iterator", false, format!("{MAX_READS} reads with nothing left"));
            findings.skip(&["end.children"], "the shard did not end");
        }
        Reading::TooFar => findings.skip(&IDS, &format!("the end is more than {MAX_READS} reads away")),
        Reading::Refused(why) => findings.skip(&IDS, &why),
    }
}

async fn read_to_the_end(calls: &Calls, shard_id: &str, start: Start<'_>, answers: &mut Answers) -> Reading {
    let mut iterator = match calls.iterator(shard_id, start).await {
        Ok(iterator) => iterator,
        Err(refusal) => return Reading::Refused(format!("no iterator: {refusal}")),
    };
    let mut is_over = false;
    for _ in 0..MAX_READS {
        let answer = match calls.read(&iterator, RECORDS_PER_READ, ReadIn::Json).await {
            Ok(answer) => answer,
            Err(refusal) if refusal.is_throttled() => continue,
            Err(refusal) => return Reading::Refused(format!("the read was refused: {refusal}")),
        };
        let Some(members) = answers.count(&answer.body) else {
            return Reading::Refused("an answer is neither CBOR nor JSON".to_owned());
        };
        is_over = members.is_empty() && members.lag.unwrap_or(0) == 0;
        match members.next_iterator {
            Some(next) => iterator = next,
            None => return Reading::Ended(members.children.into_iter().collect()),
        }
    }
    if is_over { Reading::Lingers } else { Reading::TooFar }
}
