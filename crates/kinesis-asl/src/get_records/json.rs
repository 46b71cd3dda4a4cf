//! Answers of `GetRecords` in JSON: one pass over the body, in place.
//!
//! Payloads are decoded from base64, and strings with escapes are resolved, where they stand: both only get shorter. When
//! the pass is over the buffer is shared, and the records are slices of it. The order of the members is learnt from one
//! record to the next, never assumed.

use aws_sdk_kinesis::types::{ChildShard, HashKeyRange};
use base64_simd::STANDARD;
use bytes::Bytes;
use memchr::memchr2;
use std::ops::Range;

use super::answer::{Answer, MAX_DEPTH, MAX_RECORDS, RecordParts};
use super::malformed::{Malformed, Undecoded};
use super::{Encoding, time};

/// Seconds on the wire, milliseconds here.
const MILLIS_SHIFT: i64 = 3;

/// How many members of a record are remembered in their order; AWS sends five.
const LEARNT_MEMBERS: usize = 8;

/// Reads an answer. Its records are slices of `body`, which is changed on the way.
pub(crate) fn decode(mut body: Vec<u8>) -> Result<Answer, Undecoded> {
    let mut reader = Reader { body: &mut body, at: 0 };
    let parsed = reader.answer()?;
    reader.end()?;
    let whole = Bytes::from(body);
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
        records.push(parts.into_record(|what| malformed(offset, what))?);
    }
    Ok(Answer {
        records,
        next_iterator: parsed.next_iterator,
        millis_behind_latest: parsed.millis_behind_latest,
        children: parsed.children,
    })
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
    if is_object { Ok((code, message)) } else { Err(malformed(0, "an object expected")) }
}

/// A request in JSON: one object with the iterator.
pub(super) fn request(iterator: &str) -> Vec<u8> {
    const HEAD: &[u8] = b"{\"ShardIterator\":\"";
    const END: &[u8] = b"\"}";
    let mut request = Vec::with_capacity(HEAD.len() + iterator.len() + END.len());
    request.extend(HEAD);
    for byte in iterator.bytes() {
        match byte {
            b'"' | b'\\' => request.extend([b'\\', byte]),
            0..0x20 => request.extend(format!("\\u{byte:04x}").bytes()),
            _ => request.push(byte),
        }
    }
    request.extend(END);
    request
}

fn malformed(offset: usize, what: &'static str) -> Malformed {
    Malformed { encoding: Some(Encoding::Json), offset, what }
}

/// An answer whose records are places in the body.
#[derive(Default)]
struct Parsed {
    records: Vec<Places>,
    next_iterator: Option<String>,
    millis_behind_latest: Option<i64>,
    children: Vec<ChildShard>,
}

/// The members of a record, as places in the body.
#[derive(Default)]
struct Places {
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

    /// The name as it stands in a body without spaces. `None`: it is not known, so it is looked at each time.
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

/// The members of the record before, in their order.
type Learnt = [Option<Member>; LEARNT_MEMBERS];

struct Reader<'a> {
    body: &'a mut [u8],
    at: usize,
}

impl Reader<'_> {
    fn malformed(&self, what: &'static str) -> Malformed {
        malformed(self.at, what)
    }

    fn truncated(&self) -> Malformed {
        self.malformed("it ends too early")
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The next byte that is no space, which stays.
    fn next(&mut self) -> Result<u8, Malformed> {
        self.skip_spaces();
        self.peek().ok_or_else(|| self.truncated())
    }

    fn take(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.next()? != byte {
            return Err(self.malformed(what));
        }
        self.at += 1;
        Ok(())
    }

    fn took(&mut self, literal: &[u8]) -> bool {
        let is_there = self.body.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        self.at += if is_there { literal.len() } else { 0 };
        is_there
    }

    fn took_null(&mut self) -> Result<bool, Malformed> {
        Ok(self.next()? == b'n' && self.took(b"null"))
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.skip_spaces();
        if self.at == self.body.len() { Ok(()) } else { Err(self.malformed("nothing may follow the answer")) }
    }

    /// A string: where its text stands, with any escapes resolved.
    fn string(&mut self) -> Result<Range<usize>, Malformed> {
        self.take(b'"', "a string expected")?;
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

    /// The rest of a string from its first escape on; what is resolved is never longer than what stood there.
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
        if let Some(place) = self.body.get_mut(*write) {
            *place = byte;
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
                    0xd800..0xdc00 if self.took(b"\\u") => {
                        let second = self.hex4()?;
                        if !(0xdc00..0xe000).contains(&second) {
                            return Err(malformed(start, "half of a surrogate pair"));
                        }
                        0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    _ => first,
                };
                char::from_u32(code).ok_or_else(|| malformed(start, "half of a surrogate pair"))?
            }
            _ => return Err(malformed(start, "no such escape")),
        })
    }

    fn hex4(&mut self) -> Result<u32, Malformed> {
        let mut number = 0;
        for _ in 0..4 {
            let digit = self.peek().ok_or_else(|| self.truncated())?;
            let digit =
                char::from(digit).to_digit(16).ok_or_else(|| self.malformed("a hex digit expected"))?;
            number = number << 4 | digit;
            self.at += 1;
        }
        Ok(number)
    }

    /// A string or null, as text of its own.
    fn text(&mut self) -> Result<Option<String>, Malformed> {
        if self.took_null()? {
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

    /// A number or null, times ten to the power of `shift`.
    fn number(&mut self, shift: i64) -> Result<Option<i64>, Malformed> {
        if self.took_null()? {
            return Ok(None);
        }
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let token = self.body.get(start..self.at).unwrap_or_default();
        if !token.iter().any(u8::is_ascii_digit) {
            return Err(malformed(start, "a number expected"));
        }
        Ok(time::scaled_decimal(token, shift))
    }

    /// An object: calls for each member, named, to read its value. `false`: it is null.
    fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, Range<usize>) -> Result<(), Malformed>,
    ) -> Result<bool, Malformed> {
        if self.took_null()? {
            return Ok(false);
        }
        self.take(b'{', "an object expected")?;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(true);
        }
        loop {
            self.skip_spaces();
            let name = self.string()?;
            self.take(b':', "a colon expected")?;
            each(self, name)?;
            if self.is_last(b'}')? {
                return Ok(true);
            }
        }
    }

    /// Behind a member or an item: whether it was the last one.
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
            _ => Err(self.malformed("a comma or the end expected")),
        }
    }

    /// An array: calls for each item, to read it. Null is an empty one.
    fn items(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        if self.took_null()? {
            return Ok(());
        }
        self.take(b'[', "an array expected")?;
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

    fn answer(&mut self) -> Result<Parsed, Malformed> {
        let mut parsed = Parsed::default();
        let is_object = self.members(|reader, name| {
            match reader.body.get(name).unwrap_or_default() {
                b"Records" => parsed.records = reader.records()?,
                b"NextShardIterator" => parsed.next_iterator = reader.text()?,
                b"MillisBehindLatest" => parsed.millis_behind_latest = reader.number(0)?,
                b"ChildShards" => parsed.children = reader.children()?,
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        if is_object { Ok(parsed) } else { Err(self.malformed("an object expected")) }
    }

    fn records(&mut self) -> Result<Vec<Places>, Malformed> {
        let mut records = Vec::new();
        let mut learnt = Learnt::default();
        self.items(|reader| {
            if records.len() == MAX_RECORDS {
                return Err(reader.malformed("too many records"));
            }
            let start = reader.at;
            let record = reader.record(&mut learnt)?;
            if records.is_empty() {
                // Room for records like the first, as far as the body goes.
                let (taken, left) = ((reader.at - start).max(1), reader.body.len() - reader.at);
                records.reserve_exact((left / taken + 1).min(MAX_RECORDS));
            }
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    fn record(&mut self, learnt: &mut Learnt) -> Result<Places, Malformed> {
        let mut places = Places::default();
        self.take(b'{', "a record expected")?;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(places);
        }
        for index in 0.. {
            let member = self.member(learnt.get_mut(index))?;
            match member {
                Member::SequenceNumber if !self.took_null()? => places.sequence_number = self.string()?,
                Member::Data if !self.took_null()? => places.data = self.payload()?,
                Member::PartitionKey => {
                    places.partition_key = if self.took_null()? { None } else { Some(self.string()?) };
                }
                Member::Arrival => places.arrival_millis = self.number(MILLIS_SHIFT)?,
                Member::SequenceNumber | Member::Data => {}
                Member::EncryptionType | Member::Unknown => self.skip(0)?,
            }
            if self.is_last(b'}')? {
                break;
            }
        }
        Ok(places)
    }

    /// The name of a member, up to its value: first looked for where the record before had it.
    fn member(&mut self, learnt: Option<&mut Option<Member>>) -> Result<Member, Malformed> {
        let expected = learnt.as_ref().and_then(|learnt| **learnt);
        if let Some(member) = expected
            && let Some(literal) = member.literal()
            && self.took(literal)
        {
            return Ok(member);
        }
        self.skip_spaces();
        let name = self.string()?;
        let member = Member::of(self.body.get(name).unwrap_or_default());
        self.take(b':', "a colon expected")?;
        if let Some(learnt) = learnt {
            *learnt = Some(member);
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

    /// Steps over a value, whatever it is.
    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth == MAX_DEPTH {
            return Err(self.malformed("it is nested too deeply"));
        }
        match self.next()? {
            b'"' => self.string().map(drop),
            b'{' => self.members(|reader, _| reader.skip(depth + 1)).map(drop),
            b'[' => self.items(|reader| reader.skip(depth + 1)),
            b'-' | b'0'..=b'9' => self.number(0).map(drop),
            _ if self.took(b"true") || self.took(b"false") || self.took(b"null") => Ok(()),
            _ => Err(self.malformed("a value expected")),
        }
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
