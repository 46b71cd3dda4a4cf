//! The assumptions as data, and what was seen of each. Pure.

use std::collections::BTreeMap;
use std::fmt;

/// An assumption about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumption {
    /// Its name in the report.
    pub id: &'static str,
    /// The assumed behaviour.
    pub assumed: &'static str,
}

const fn assume(id: &'static str, assumed: &'static str) -> Assumption {
    Assumption { id, assumed }
}

/// All assumptions, in the order of the report.
pub const ASSUMPTIONS: [Assumption; 34] = [
    assume("answer.date", "each answer has the header `Date`, the clock of the service"),
    assume("answer.ids", "each answer has the headers `x-amzn-requestid` and `x-amz-id-2`"),
    assume("stream.description", "the summary has ARN, creation time and retention period"),
    assume("stream.distribution", "the distribution of records is `AUTO`, `USER_PARTITION_KEY` or absent"),
    assume("stream.arn", "a call with `StreamARN` alone has the same answer as one with the name"),
    assume("list.pages", "a page token alone returns the next page; the pages contain each shard once"),
    assume("list.open", "`AT_LATEST` lists exactly the shards without an ending sequence number"),
    assume("list.trim-horizon", "`AT_TRIM_HORIZON` lists shards that cover each hash key once"),
    assume("list.after", "`AFTER_SHARD_ID` lists exactly the shards with greater ids"),
    assume("list.since", "`FROM_TIMESTAMP` lists at least the open shards"),
    assume("read.records", "each answer of `GetRecords` has the member `Records`"),
    assume("read.lag", "each answer states its lag, empty ones as well"),
    assume("read.tip", "an empty answer at the tip has the lag 0"),
    assume("read.invalid", "an invalid iterator is refused with a code and a 4xx status"),
    assume("read.formats", "the records are the same in CBOR, in JSON and by the SDK's parser"),
    assume("cbor.answer", "a request in CBOR is answered in CBOR"),
    assume("cbor.map", "the answer is a map of indefinite length (`bf … ff`)"),
    assume("cbor.payload", "a payload is a byte string"),
    assume("cbor.time", "an arrival time is a whole number of milliseconds"),
    assume("iterator.at", "`AT_SEQUENCE_NUMBER` starts with that record"),
    assume("iterator.after", "`AFTER_SEQUENCE_NUMBER` starts after that record"),
    assume("end.iterator", "the last answer of a closed shard has no next iterator"),
    assume("end.children", "the last answer of a closed shard names its children, as the listing does"),
    assume("dry-run.iterator", "a dry run of `GetShardIterator` says whether it is allowed"),
    assume("dry-run.records", "a dry run of `GetRecords` says whether it is allowed"),
    assume("dry-run.subscribe", "a dry run of `SubscribeToShard` says whether it is allowed"),
    assume("fan-out.active", "a registered consumer becomes active within a minute"),
    assume(
        "fan-out.event",
        "the first event of an open shard arrives within ten seconds and has a continuation",
    ),
    assume(
        "fan-out.refusal",
        "a second subscription within five seconds is refused with `ResourceInUseException`",
    ),
    assume("fan-out.end", "the last event of a closed shard has no continuation and names the children"),
    assume("table.active", "a new table becomes active within two minutes"),
    assume("table.condition", "a put or update whose condition is false is refused and changes nothing"),
    assume("table.old-row", "the refusal contains the row"),
    assume("table.scan", "a consistent scan shows the last write"),
];

/// The judgement about an assumption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It could not be tried, or was not asked for.
    NotTried,
    /// The service behaves as assumed.
    Held,
    /// The service behaves otherwise.
    Broken,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotTried => "not tried",
            Self::Held => "held",
            Self::Broken => "BROKEN",
        })
    }
}

/// What was seen of the assumptions.
#[derive(Debug, Default)]
pub struct Findings(BTreeMap<&'static str, (Verdict, String)>);

impl Findings {
    /// Records what was seen. A worse verdict replaces a better one, and never the other way round.
    pub fn record(&mut self, id: &'static str, verdict: Verdict, seen: impl Into<String>) {
        debug_assert!(ASSUMPTIONS.iter().any(|assumption| assumption.id == id), "{id} is not listed");
        if self.0.get(id).is_none_or(|(known, _)| *known < verdict) {
            self.0.insert(id, (verdict, seen.into()));
        }
    }

    /// Records whether the assumption holds.
    pub fn check(&mut self, id: &'static str, holds: bool, seen: impl Into<String>) {
        self.record(id, if holds { Verdict::Held } else { Verdict::Broken }, seen);
    }

    /// Records why these assumptions were not tried.
    pub fn skip(&mut self, ids: &[&'static str], why: &str) {
        for id in ids {
            self.record(id, Verdict::NotTried, why);
        }
    }

    /// The verdict about an assumption, and what was seen.
    pub fn of(&self, id: &str) -> (Verdict, &str) {
        match self.0.get(id) {
            Some((verdict, seen)) => (*verdict, seen),
            None => (Verdict::NotTried, "not reached: a check before it failed or took too long"),
        }
    }

    /// The number of assumptions with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        ASSUMPTIONS.iter().filter(|assumption| self.of(assumption.id).0 == verdict).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_of_assumptions_differ() {
        let ids: BTreeSet<&str> = ASSUMPTIONS.iter().map(|assumption| assumption.id).collect();
        assert_eq!(ids.len(), ASSUMPTIONS.len());
    }

    #[test]
    fn a_broken_assumption_stays_broken() {
        let mut findings = Findings::default();
        assert_eq!(findings.of("read.lag").0, Verdict::NotTried);
        findings.check("read.lag", true, "3 answers");
        findings.check("read.lag", false, "1 of 4 answers without");
        findings.check("read.lag", true, "5 answers");
        findings.skip(&["read.lag"], "no time");
        assert_eq!(findings.of("read.lag"), (Verdict::Broken, "1 of 4 answers without"));
        assert_eq!(findings.count(Verdict::Broken), 1);
        assert_eq!(findings.count(Verdict::NotTried), ASSUMPTIONS.len() - 1);
    }
}
