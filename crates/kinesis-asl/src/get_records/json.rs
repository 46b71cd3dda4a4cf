//! Decodes answers of `GetRecords` in JSON: one pass over the body, in place.
//!
//! Base64 payloads and escaped strings are decoded in place, which works because both only become shorter. After the pass the
//! buffer is shared, and the records are slices of it. The order of the members in one record is the guess for the next.

use aws_sdk_kinesis::types::{ChildShard, HashKeyRange};
use base64_simd::STANDARD;
use bytes::{Bytes, BytesMut};
use memchr::memchr2;
use std::ops::Range;

use super::answer::{Answer, MAX_DEPTH, MAX_RECORDS, NO_RECORDS, RecordParts};
use super::decode_error::{DecodeError, Malformed};
use super::encoding::Encoding;
use super::time;

/// Converts seconds on the wire to milliseconds: three decimal digits.
const MILLIS_SHIFT: i64 = 3;

/// How many members of a record have their order remembered; AWS sends five.
const MAX_ORDERED_MEMBERS: usize = 8;

/// Decodes an answer. Its records are slices of `body`, which is modified.
pub(crate) fn decode(body: impl AsMut<[u8]> + Into<Bytes>) -> Result<Answer, DecodeError> {
    decode_with(body, b"NextShardIterator")
}

/// Decodes an event of enhanced fan-out, which differs from an answer only in what leads to the next one: its `next_iterator` is the
/// continuation sequence number.
pub(crate) fn decode_event(body: BytesMut) -> Result<Answer, DecodeError> {
    decode_with(body, b"ContinuationSequenceNumber")
}

fn decode_with(mut body: impl AsMut<[u8]> + Into<Bytes>, next: &[u8]) -> Result<Answer, DecodeError> {
    let mut reader = Reader { body: body.as_mut(), at: 0 };
    let parsed = reader.answer(next)?;
    reader.end()?;
    let whole: Bytes = body.into();
    let slice = |range: Range<usize>| whole.slice(range);
    let mut records = Vec::with_capacity(parsed.records.len());
    for record in parsed.records {
        let offset = record.sequence_number.start;
        let parts = RecordParts {
            sequence_number: slice(record.sequence_number),
            arrival_millis: record.arrival_millis,
            data: slice(record.data),
            partition_key: record.partition_key.map(slice),
        };
        records.push(parts.into_record(|fault| malformed(offset, fault))?);
    }
    Ok(Answer {
        records,
        next_iterator: parsed.next_iterator,
        millis_behind_latest: parsed.millis_behind_latest,
        children: parsed.children,
    })
}

/// Checks that an answer which the SDK read has the member `Records`. The SDK reads an answer without it as an empty one.
pub(super) fn check_records(mut body: Vec<u8>) -> Result<(), Malformed> {
    let mut reader = Reader { body: &mut body, at: 0 };
    if reader.has_member(b"Records")? { Ok(()) } else { Err(reader.malformed(NO_RECORDS)) }
}

/// The code and the message of a refusal.
pub(super) fn refusal(mut body: Vec<u8>) -> Result<(Option<String>, Option<String>), Malformed> {
    let mut reader = Reader { body: &mut body, at: 0 };
    let (mut code, mut message) = (None, None);
    let is_object = reader.members(|reader, name| {
        match reader.body.get(name).unwrap_or_default() {
            b"__type" | b"code" => code = reader.text()?,
            b"message" | b"Message" => message = reader.text()?,
            _ => reader.skip(0)?,
        }
        Ok(())
    })?;
    if is_object { Ok((code, message)) } else { Err(malformed(0, "expected an object")) }
}

/// A request in JSON: an object with the iterator.
pub(super) fn request(iterator: &str, limit: Option<u32>, stream_arn: Option<&str>) -> Vec<u8> {
    const HEAD: &[u8] = b"{\"ShardIterator\":\"";
    const LIMIT: &str = ",\"Limit\":";
    const STREAM_ARN: &str = ",\"StreamARN\":\"";
    let for_arn = stream_arn.map_or(0, |arn| STREAM_ARN.len() + arn.len() + 1);
    let mut request = Vec::with_capacity(HEAD.len() + iterator.len() + LIMIT.len() + 12 + for_arn);
    request.extend(HEAD);
    for byte in iterator.bytes() {
        match byte {
            b'"' | b'\\' => request.extend([b'\\', byte]),
            0..0x20 => request.extend(format!("\\u{byte:04x}").bytes()),
            _ => request.push(byte),
        }
    }
    request.push(b'"');
    if let Some(limit) = limit {
        request.extend(format!("{LIMIT}{limit}").bytes());
    }
    if let Some(arn) = stream_arn {
        request.extend([STREAM_ARN, arn, "\""].concat().bytes());
    }
    request.push(b'}');
    request
}

fn malformed(offset: usize, fault: &'static str) -> Malformed {
    Malformed { encoding: Some(Encoding::Json), offset, fault }
}

/// An answer whose records are ranges of the body.
#[derive(Default)]
struct Parsed {
    records: Vec<RecordRanges>,
    next_iterator: Option<String>,
    millis_behind_latest: Option<i64>,
    children: Vec<ChildShard>,
}

/// The members of a record, as ranges of the body.
#[derive(Default)]
struct RecordRanges {
    sequence_number: Range<usize>,
    data: Range<usize>,
    partition_key: Option<Range<usize>>,
    arrival_millis: Option<i64>,
}

/// A member of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    SequenceNumber,
    Arrival,
    Data,
    PartitionKey,
    EncryptionType,
    Unknown,
}

impl Member {
    fn of(name: &[u8]) -> Self {
        match name {
            b"SequenceNumber" => Self::SequenceNumber,
            b"ApproximateArrivalTimestamp" => Self::Arrival,
            b"Data" => Self::Data,
            b"PartitionKey" => Self::PartitionKey,
            b"EncryptionType" => Self::EncryptionType,
            _ => Self::Unknown,
        }
    }

    /// The name with its quotes and colon, as written without spaces. `None`: the name is not known and has no literal.
    fn literal(self) -> Option<&'static [u8]> {
        match self {
            Self::SequenceNumber => Some(b"\"SequenceNumber\":"),
            Self::Arrival => Some(b"\"ApproximateArrivalTimestamp\":"),
            Self::Data => Some(b"\"Data\":"),
            Self::PartitionKey => Some(b"\"PartitionKey\":"),
            Self::EncryptionType => Some(b"\"EncryptionType\":"),
            Self::Unknown => None,
        }
    }
}

/// The members of the previous record, in order.
type MemberOrder = [Option<Member>; MAX_ORDERED_MEMBERS];

struct Reader<'a> {
    body: &'a mut [u8],
    at: usize,
}

impl Reader<'_> {
    fn malformed(&self, fault: &'static str) -> Malformed {
        malformed(self.at, fault)
    }

    fn truncated(&self) -> Malformed {
        self.malformed("truncated")
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The next byte that is not a space, without consuming it.
    fn next(&mut self) -> Result<u8, Malformed> {
        self.skip_spaces();
        self.peek().ok_or_else(|| self.truncated())
    }

    fn expect_byte(&mut self, byte: u8, fault: &'static str) -> Result<(), Malformed> {
        if self.next()? != byte {
            return Err(self.malformed(fault));
        }
        self.at += 1;
        Ok(())
    }

    fn consume(&mut self, literal: &[u8]) -> bool {
        let is_there = self.body.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        self.at += if is_there { literal.len() } else { 0 };
        is_there
    }

    fn consume_null(&mut self) -> Result<bool, Malformed> {
        Ok(self.next()? == b'n' && self.consume(b"null"))
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.skip_spaces();
        if self.at == self.body.len() {
            Ok(())
        } else {
            Err(self.malformed("unexpected bytes after the answer"))
        }
    }

    /// A string: the range of its text, after any escapes are resolved in place.
    fn string(&mut self) -> Result<Range<usize>, Malformed> {
        self.expect_byte(b'"', "expected a string")?;
        let start = self.at;
        let rest = self.body.get(start..).unwrap_or_default();
        let Some(length) = memchr2(b'"', b'\\', rest) else {
            self.at = self.body.len();
            return Err(self.truncated());
        };
        let end = start + length;
        if self.body.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(start..end);
        }
        self.at = end;
        self.unescape(start)
    }

    /// The rest of a string from its first escape on. A resolved escape is never longer than the escape.
    fn unescape(&mut self, start: usize) -> Result<Range<usize>, Malformed> {
        let mut write = self.at;
        loop {
            match self.peek().ok_or_else(|| self.truncated())? {
                b'"' => {
                    self.at += 1;
                    return Ok(start..write);
                }
                b'\\' => {
                    let resolved = self.escape()?;
                    let mut buffer = [0; 4];
                    for &byte in resolved.encode_utf8(&mut buffer).as_bytes() {
                        self.put(&mut write, byte);
                    }
                }
                byte => {
                    self.at += 1;
                    self.put(&mut write, byte);
                }
            }
        }
    }

    fn put(&mut self, write: &mut usize, byte: u8) {
        if let Some(slot) = self.body.get_mut(*write) {
            *slot = byte;
            *write += 1;
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        let start = self.at;
        self.at += 1; // the backslash
        let kind = self.peek().ok_or_else(|| self.truncated())?;
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex4()?;
                let code = match first {
                    0xd800..0xdc00 if self.consume(b"\\u") => {
                        let second = self.hex4()?;
                        if !(0xdc00..0xe000).contains(&second) {
                            return Err(malformed(start, "unpaired surrogate"));
                        }
                        0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    _ => first,
                };
                char::from_u32(code).ok_or_else(|| malformed(start, "unpaired surrogate"))?
            }
            _ => return Err(malformed(start, "invalid escape")),
        })
    }

    fn hex4(&mut self) -> Result<u32, Malformed> {
        let mut number = 0;
        for _ in 0..4 {
            let digit = self.peek().ok_or_else(|| self.truncated())?;
            let digit =
                char::from(digit).to_digit(16).ok_or_else(|| self.malformed("expected a hex digit"))?;
            number = number << 4 | digit;
            self.at += 1;
        }
        Ok(number)
    }

    /// A string or null, copied.
    fn text(&mut self) -> Result<Option<String>, Malformed> {
        if self.consume_null()? {
            return Ok(None);
        }
        let range = self.string()?;
        let start = range.start;
        match std::str::from_utf8(self.body.get(range).unwrap_or_default()) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(malformed(start, "the text is not UTF-8")),
        }
    }

    /// A payload in base64, decoded in place.
    fn payload(&mut self) -> Result<Range<usize>, Malformed> {
        let range = self.string()?;
        let start = range.start;
        let text = self.body.get_mut(range).unwrap_or_default();
        match STANDARD.decode_inplace(text) {
            Ok(payload) => Ok(start..start + payload.len()),
            Err(_) => Err(malformed(start, "the payload is not base64")),
        }
    }

    /// A number or null, multiplied by ten to the power of `shift`.
    fn number(&mut self, shift: i64) -> Result<Option<i64>, Malformed> {
        if self.consume_null()? {
            return Ok(None);
        }
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let token = self.body.get(start..self.at).unwrap_or_default();
        if !token.iter().any(u8::is_ascii_digit) {
            return Err(malformed(start, "expected a number"));
        }
        Ok(time::scaled_decimal(token, shift))
    }

    /// Reads an object by calling `each` with each name to read the value. `false`: the object is null.
    fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, Range<usize>) -> Result<(), Malformed>,
    ) -> Result<bool, Malformed> {
        if self.consume_null()? {
            return Ok(false);
        }
        self.expect_byte(b'{', "expected an object")?;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(true);
        }
        loop {
            self.skip_spaces();
            let name = self.string()?;
            self.expect_byte(b':', "expected a colon")?;
            each(self, name)?;
            if self.is_last(b'}')? {
                return Ok(true);
            }
        }
    }

    /// Reads the byte after a member or an item, and returns whether that was the last one.
    fn is_last(&mut self, end: u8) -> Result<bool, Malformed> {
        match self.next()? {
            b',' => {
                self.at += 1;
                Ok(false)
            }
            byte if byte == end => {
                self.at += 1;
                Ok(true)
            }
            _ => Err(self.malformed("expected a comma or the end")),
        }
    }

    /// Reads an array by calling `each` for each item; null counts as empty.
    fn items(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        if self.consume_null()? {
            return Ok(());
        }
        self.expect_byte(b'[', "expected an array")?;
        if self.next()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self)?;
            if self.is_last(b']')? {
                return Ok(());
            }
        }
    }

    /// Reads an answer; the member `next` leads to the next one.
    fn answer(&mut self, next: &[u8]) -> Result<Parsed, Malformed> {
        let (mut parsed, mut has_records) = (Parsed::default(), false);
        let is_object = self.members(|reader, name| {
            match reader.body.get(name).unwrap_or_default() {
                b"Records" => (parsed.records, has_records) = (reader.records()?, true),
                name if name == next => parsed.next_iterator = reader.text()?,
                b"MillisBehindLatest" => parsed.millis_behind_latest = reader.number(0)?,
                b"ChildShards" => parsed.children = reader.children()?,
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        match (is_object, has_records) {
            (true, true) => Ok(parsed),
            (true, false) => Err(self.malformed(NO_RECORDS)),
            (false, _) => Err(self.malformed("expected an object")),
        }
    }

    /// Whether an object has this member.
    fn has_member(&mut self, wanted: &[u8]) -> Result<bool, Malformed> {
        let mut is_there = false;
        let is_object = self.members(|reader, name| {
            is_there |= reader.body.get(name).unwrap_or_default() == wanted;
            reader.skip(0)
        })?;
        Ok(is_object && is_there)
    }

    fn records(&mut self) -> Result<Vec<RecordRanges>, Malformed> {
        let mut records = Vec::new();
        let mut order = MemberOrder::default();
        self.items(|reader| {
            if records.len() == MAX_RECORDS {
                return Err(reader.malformed("too many records"));
            }
            let start = reader.at;
            let record = reader.record(&mut order)?;
            if records.is_empty() {
                // Reserve for records of the size of the first one, up to the end of the body.
                let (used, rest) = ((reader.at - start).max(1), reader.body.len() - reader.at);
                records.reserve_exact((rest / used + 1).min(MAX_RECORDS));
            }
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    fn record(&mut self, order: &mut MemberOrder) -> Result<RecordRanges, Malformed> {
        let mut ranges = RecordRanges::default();
        self.expect_byte(b'{', "expected a record")?;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(ranges);
        }
        for index in 0.. {
            let member = self.member(order.get_mut(index))?;
            match member {
                Member::SequenceNumber if !self.consume_null()? => ranges.sequence_number = self.string()?,
                Member::Data if !self.consume_null()? => ranges.data = self.payload()?,
                Member::PartitionKey => {
                    ranges.partition_key = if self.consume_null()? { None } else { Some(self.string()?) };
                }
                Member::Arrival => ranges.arrival_millis = self.number(MILLIS_SHIFT)?,
                Member::SequenceNumber | Member::Data => {}
                Member::EncryptionType | Member::Unknown => self.skip(0)?,
            }
            if self.is_last(b'}')? {
                break;
            }
        }
        Ok(ranges)
    }

    /// Reads the name of a member and the colon. Tries the member that the previous record had in this place first.
    fn member(&mut self, order: Option<&mut Option<Member>>) -> Result<Member, Malformed> {
        let expected = order.as_ref().and_then(|order| **order);
        if let Some(member) = expected
            && let Some(literal) = member.literal()
            && self.consume(literal)
        {
            return Ok(member);
        }
        self.skip_spaces();
        let name = self.string()?;
        let member = Member::of(self.body.get(name).unwrap_or_default());
        self.expect_byte(b':', "expected a colon")?;
        if let Some(order) = order {
            *order = Some(member);
        }
        Ok(member)
    }

    fn children(&mut self) -> Result<Vec<ChildShard>, Malformed> {
        let mut children = Vec::new();
        self.items(|reader| {
            let mut child = ChildShard::builder().shard_id("").set_parent_shards(Some(Vec::new()));
            reader.members(|reader, name| {
                match reader.body.get(name).unwrap_or_default() {
                    b"ShardId" => {
                        child = std::mem::take(&mut child).shard_id(reader.text()?.unwrap_or_default());
                    }
                    b"ParentShards" => {
                        let mut parents = Vec::new();
                        reader.items(|reader| {
                            parents.extend(reader.text()?);
                            Ok(())
                        })?;
                        child = std::mem::take(&mut child).set_parent_shards(Some(parents));
                    }
                    b"HashKeyRange" => {
                        child = std::mem::take(&mut child).set_hash_key_range(reader.hash_key_range()?);
                    }
                    _ => reader.skip(0)?,
                }
                Ok(())
            })?;
            children.push(child.build().map_err(|_| reader.malformed("a child shard lacks a member"))?);
            Ok(())
        })?;
        Ok(children)
    }

    fn hash_key_range(&mut self) -> Result<Option<HashKeyRange>, Malformed> {
        let (mut starting, mut ending) = (String::new(), String::new());
        let is_object = self.members(|reader, name| {
            match reader.body.get(name).unwrap_or_default() {
                b"StartingHashKey" => starting = reader.text()?.unwrap_or_default(),
                b"EndingHashKey" => ending = reader.text()?.unwrap_or_default(),
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        let range = HashKeyRange::builder().starting_hash_key(starting).ending_hash_key(ending).build().ok();
        Ok(range.filter(|_| is_object))
    }

    /// Skips a value of any type.
    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth == MAX_DEPTH {
            return Err(self.malformed("nested too deeply"));
        }
        match self.next()? {
            b'"' => self.string().map(drop),
            b'{' => self.members(|reader, _| reader.skip(depth + 1)).map(drop),
            b'[' => self.items(|reader| reader.skip(depth + 1)),
            b'-' | b'0'..=b'9' => self.number(0).map(drop),
            _ if self.consume(b"true") || self.consume(b"false") || self.consume(b"null") => Ok(()),
            _ => Err(self.malformed("expected a value")),
        }
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
