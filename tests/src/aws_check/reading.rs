//! The checks of `GetShardIterator` and `GetRecords`.

use kinesis_streaming::kinesis_asl::{GetRecordsFormat, KinesisStream};
use kinesis_streaming::lease_store::{SequenceNumber, ShardId, StoreError};
use kinesis_streaming::shard_worker::{ReadFrom, Record, SourceError, StreamSource as _};
use tokio::time::sleep;

use super::assumption::Findings;
use super::calls::{Calls, ReadIn, Refusal, Start};
use super::cbor_form::{form, has_indefinite_map};
use super::members::Members;
use super::stream::StreamFacts;

/// In how many shards a record is looked for.
const MAX_SHARDS: usize = 5;

/// How often a shard is read in search of a record.
const READS_PER_SHARD: usize = 8;

/// The records of one read.
const RECORDS_PER_READ: i32 = 10;

/// The checks that need a record.
const OF_RECORDS: [&str; 5] = ["cbor.payload", "cbor.time", "iterator.at", "iterator.after", "read.formats"];

/// What was seen of all answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    reads: u32,
    without_records_member: u32,
    without_lag: u32,
    empty: u32,
    empty_and_behind: u32,
}

impl Answers {
    /// Counts an answer and returns its members. `None`: it is neither CBOR nor JSON.
    pub(super) fn count(&mut self, body: &[u8]) -> Option<Members> {
        self.reads += 1;
        let Some(members) = Members::of(body) else {
            self.without_records_member += 1;
            self.without_lag += 1;
            return None;
        };
        self.without_records_member += u32::from(members.records.is_none());
        self.without_lag += u32::from(members.lag.is_none());
        self.empty += u32::from(members.is_empty());
        self.empty_and_behind += u32::from(members.is_empty() && members.lag.is_some_and(|lag| lag > 0));
        Some(members)
    }

    pub(super) fn judge(&self, findings: &mut Findings) {
        if self.reads == 0 {
            findings.skip(&["read.records", "read.lag"], "nothing could be read");
            return;
        }
        let Self { reads, without_records_member, without_lag, empty, empty_and_behind } = self;
        let seen = format!("{without_records_member} of {reads} answers without it");
        findings.check("read.records", *without_records_member == 0, seen);
        let seen = format!(
            "{without_lag} of {reads} answers without it; {empty} were empty, {empty_and_behind} of these were behind"
        );
        findings.check("read.lag", *without_lag == 0, seen);
    }
}

/// Looks for a record, and judges how it is read.
pub(super) async fn check(
    calls: &Calls,
    facts: &StreamFacts,
    answers: &mut Answers,
    findings: &mut Findings,
) {
    check_invalid_iterator(calls, findings).await;
    check_tip(calls, facts, answers, findings).await;
    let Some((shard_id, body)) = some_record(calls, facts, answers, findings).await else {
        let why = format!("no record in {MAX_SHARDS} shards by {READS_PER_SHARD} reads of each");
        findings.skip(&OF_RECORDS, &why);
        return;
    };
    let records = Members::of(&body).and_then(|members| members.records).unwrap_or_default();
    let Some(first) = records.first() else { return };
    if has_indefinite_map(&body).is_some() {
        let payload = form(&first.data);
        findings.check("cbor.payload", payload == "a byte string", payload);
        let time = form(&first.arrival);
        findings.check("cbor.time", time == "a whole number of milliseconds", time);
    } else {
        findings.skip(&["cbor.payload", "cbor.time"], "the answer is not CBOR");
    }
    check_positions(calls, &shard_id, &first.sequence_number, answers, findings).await;
    check_formats(calls, &shard_id, &first.sequence_number, findings).await;
}

async fn check_invalid_iterator(calls: &Calls, findings: &mut Findings) {
    match calls.read("no-iterator", 1, ReadIn::Json).await {
        Ok(_) => findings.check("read.invalid", false, "answered with success"),
        Err(refusal) => {
            let is_4xx = refusal.status.is_some_and(|status| (400..500).contains(&status));
            findings.check(
                "read.invalid",
                is_4xx && refusal.code.ends_with("Exception"),
                refusal.to_string(),
            );
        }
    }
}

async fn check_tip(calls: &Calls, facts: &StreamFacts, answers: &mut Answers, findings: &mut Findings) {
    let Some(shard) = facts.shards.iter().find(|shard| !shard.is_closed) else {
        findings.skip(&["read.tip"], "no shard is open");
        return;
    };
    let read = async {
        let iterator = calls.iterator(&shard.id, Start::Latest).await?;
        calls.read(&iterator, RECORDS_PER_READ, ReadIn::Json).await
    };
    match read.await {
        Ok(answer) => match answers.count(&answer.body) {
            Some(members) if !members.is_empty() => {
                findings.skip(&["read.tip"], "a record arrived in this moment");
            }
            Some(Members { lag: Some(lag), .. }) => {
                findings.check("read.tip", lag == 0, format!("lag {lag} ms"));
            }
            _ => findings.check("read.tip", false, "the answer states no lag"),
        },
        Err(refusal) => not_read(&["read.tip"], &refusal, findings),
    }
}

/// A shard with a record, and the answer in CBOR that holds it.
async fn some_record(
    calls: &Calls,
    facts: &StreamFacts,
    answers: &mut Answers,
    findings: &mut Findings,
) -> Option<(String, Vec<u8>)> {
    // Open shards first: their records last longer.
    let (open, closed): (Vec<_>, Vec<_>) = facts.shards.iter().partition(|shard| !shard.is_closed);
    for shard in open.into_iter().chain(closed).take(MAX_SHARDS) {
        let mut iterator = calls.iterator(&shard.id, Start::TrimHorizon).await.ok();
        for _ in 0..READS_PER_SHARD {
            let Some(at) = iterator.take() else { break };
            let answer = match calls.read(&at, RECORDS_PER_READ, ReadIn::Cbor).await {
                Ok(answer) => answer,
                Err(refusal) if refusal.is_throttled() => {
                    iterator = Some(at);
                    continue;
                }
                Err(refusal) => {
                    not_read(&["cbor.answer", "cbor.map"], &refusal, findings);
                    break;
                }
            };
            check_encoding(&answer.body, findings);
            let members = answers.count(&answer.body)?;
            if !members.is_empty() {
                return Some((shard.id.clone(), answer.body));
            }
            iterator = members.next_iterator;
        }
    }
    None
}

fn check_encoding(body: &[u8], findings: &mut Findings) {
    match has_indefinite_map(body) {
        Some(is_indefinite) => {
            findings.check("cbor.answer", true, "CBOR");
            let seen = if is_indefinite { "a map of indefinite length" } else { "a map of stated length" };
            findings.check("cbor.map", is_indefinite, seen);
        }
        None => {
            findings.check("cbor.answer", false, "another encoding");
            findings.skip(&["cbor.map"], "the answer is not CBOR");
        }
    }
}

async fn check_positions(
    calls: &Calls,
    shard_id: &str,
    number: &str,
    answers: &mut Answers,
    findings: &mut Findings,
) {
    let starts = [("iterator.at", Start::At(number)), ("iterator.after", Start::After(number))];
    for (id, start) in starts {
        let read = async {
            let iterator = calls.iterator(shard_id, start).await?;
            calls.read(&iterator, RECORDS_PER_READ, ReadIn::Json).await
        };
        let members = match read.await {
            Ok(answer) => answers.count(&answer.body).unwrap_or_default(),
            Err(refusal) => {
                not_read(&[id], &refusal, findings);
                continue;
            }
        };
        let records = members.records.unwrap_or_default();
        let is_first = records.first().map(|record| record.sequence_number == number);
        match (start, is_first) {
            (Start::At(_), None) => findings.skip(&[id], "the first answer was empty"),
            (Start::At(_), Some(true)) => findings.check(id, true, "starts with the record"),
            (Start::At(_), Some(false)) => findings.check(id, false, "starts with another record"),
            (_, _) => {
                let is_left_out = records.iter().all(|record| record.sequence_number != number);
                findings.check(id, is_left_out, if is_left_out { "starts after it" } else { "contains it" });
            }
        }
    }
}

/// Reads the same records in all formats of the library.
async fn check_formats(calls: &Calls, shard_id: &str, number: &str, findings: &mut Findings) {
    const ID: &str = "read.formats";
    let mut read_by: Vec<Vec<Record>> = Vec::new();
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json, GetRecordsFormat::Sdk] {
        match read_in(format, calls, shard_id, number).await {
            Ok(records) => read_by.push(records),
            Err(fault) => {
                findings.check(ID, false, format!("in {format}: {fault}"));
                return;
            }
        }
    }
    // Records may arrive between the reads, so only those that all reads have are compared.
    let common = read_by.iter().map(Vec::len).min().unwrap_or(0);
    if common == 0 {
        findings.skip(&[ID], "an answer was empty");
        return;
    }
    let is_same = read_by.iter().all(|records| records[..common] == read_by[0][..common]);
    let seen = if is_same { "equal records" } else { "records, which differ" };
    findings.check(ID, is_same, format!("{common} {seen}"));
}

/// The first records from this one on, by the library. A fault is shown without its message, which may name the account.
async fn read_in(
    format: GetRecordsFormat,
    calls: &Calls,
    shard_id: &str,
    number: &str,
) -> Result<Vec<Record>, String> {
    sleep(calls.pace.before_read).await;
    let kind = |error: SourceError| format!("{:?}", error.kind());
    let invalid = |_: StoreError| "an invalid id or sequence number".to_owned();
    let stream = calls.arn().or(calls.name()).unwrap_or_default();
    let stream = KinesisStream::from_client(calls.client.clone(), stream).with_get_records_format(format);
    let shard_id = ShardId::new(shard_id.to_owned()).map_err(invalid)?;
    let from = ReadFrom::At(SequenceNumber::new(number.to_owned()).map_err(invalid)?);
    let mut source = stream.open(&shard_id, &from).await.map_err(kind)?;
    Ok(source.next_batch().await.map_err(kind)?.records)
}

/// Records why these were not tried: the read was refused.
fn not_read(ids: &[&'static str], refusal: &Refusal, findings: &mut Findings) {
    findings.skip(ids, &format!("the read was refused: {refusal}"));
}

#[cfg(test)]
mod tests {
    use super::super::assumption::Verdict;
    use super::*;

    #[test]
    fn one_answer_without_a_member_breaks_the_assumption() {
        let mut answers = Answers::default();
        let mut findings = Findings::default();
        answers.judge(&mut findings);
        assert_eq!(findings.of("read.records").0, Verdict::NotTried);
        answers.count(br#"{"Records": [], "MillisBehindLatest": 7, "NextShardIterator": "i"}"#);
        answers.judge(&mut findings);
        assert_eq!(findings.of("read.records").0, Verdict::Held);
        let seen = "0 of 1 answers without it; 1 were empty, 1 of these were behind";
        assert_eq!(findings.of("read.lag"), (Verdict::Held, seen));
        answers.count(b"{}");
        answers.judge(&mut findings);
        assert_eq!(findings.of("read.records"), (Verdict::Broken, "1 of 2 answers without it"));
        assert_eq!(findings.of("read.lag").0, Verdict::Broken);
    }
}
