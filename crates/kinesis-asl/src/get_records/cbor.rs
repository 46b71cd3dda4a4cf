//! Answers of `GetRecords` in the CBOR of AWS (`application/x-amz-cbor-1.1`): payloads come as bytes and stay where they
//! are; a time is a count of milliseconds.
//!
//! Members are found by name, in any order. What is not known is stepped over, definite or indefinite, to a bounded depth.

use aws_sdk_kinesis::types::{ChildShard, HashKeyRange};
use base64_simd::STANDARD;
use bytes::Bytes;
use std::ops::Range;

use super::answer::{Answer, MAX_DEPTH, MAX_RECORDS, RecordParts};
use super::malformed::{Malformed, Undecoded};
use super::{Encoding, time};

const BREAK: u8 = 0xff;

/// Reads an answer. Its records are slices of `body`.
pub(crate) fn decode(body: &Bytes) -> Result<Answer, Undecoded> {
    let mut reader = Reader::new(body);
    let answer = reader.answer()?;
    if reader.at != body.len() {
        return Err(reader.malformed("nothing may follow the answer").into());
    }
    Ok(answer)
}

/// The code and the message of a refusal.
pub(super) fn refusal(body: &Bytes) -> Result<(Option<String>, Option<String>), Malformed> {
    let mut reader = Reader::new(body);
    let (mut code, mut message) = (None, None);
    reader.map(|reader, member| {
        match member {
            b"__type" | b"code" => code = reader.string()?,
            b"message" | b"Message" => message = reader.string()?,
            _ => reader.skip(0)?,
        }
        Ok(())
    })?;
    Ok((code, message))
}

/// The first byte of a data item, with the argument that follows it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Head {
    Unsigned(u64),
    /// Means -1 - n.
    Negative(u64),
    /// `None`: in chunks, up to a break.
    Bytes(Option<u64>),
    Text(Option<u64>),
    Array(Option<u64>),
    Map(Option<u64>),
    Tag,
    Float(f64),
    /// `null` or `undefined`.
    Null,
    Simple,
}

struct Reader<'a> {
    body: &'a Bytes,
    at: usize,
}

/// Reads items in their usual form. `None`: this one is in another, or cut off.
struct Quick<'a> {
    body: &'a [u8],
    at: usize,
}

impl Quick<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn array<const WIDTH: usize>(&mut self) -> Option<[u8; WIDTH]> {
        let bytes = self.body.get(self.at..)?.first_chunk::<WIDTH>()?;
        self.at += WIDTH;
        Some(*bytes)
    }

    #[inline]
    fn took(&mut self, literal: &[u8]) -> bool {
        let is_there = self.body.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        self.at += if is_there { literal.len() } else { 0 };
        is_there
    }

    /// Where the text stands whose head comes next.
    #[inline]
    fn text(&mut self) -> Option<Range<usize>> {
        self.stretch(0x60)
    }

    #[inline]
    fn bytes(&mut self) -> Option<Range<usize>> {
        self.stretch(0x40)
    }

    #[inline]
    fn stretch(&mut self, major: u8) -> Option<Range<usize>> {
        let length = match self.byte()?.checked_sub(major)? {
            length @ 0..=23 => usize::from(length),
            24 => usize::from(self.byte()?),
            25 => usize::from(u16::from_be_bytes(self.array()?)),
            26 => usize::try_from(u32::from_be_bytes(self.array()?)).ok()?,
            _ => return None,
        };
        let start = self.at;
        let end = start.checked_add(length).filter(|&end| end <= self.body.len())?;
        self.at = end;
        Some(start..end)
    }

    /// A time: a tag, and an integer in eight bytes.
    #[inline]
    fn millis(&mut self) -> Option<i64> {
        if self.array()? != [0xc1, 0x1b] {
            return None;
        }
        i64::try_from(u64::from_be_bytes(self.array()?)).ok().map(time::millis_of_integer)
    }
}

impl<'a> Reader<'a> {
    fn new(body: &'a Bytes) -> Self {
        Self { body, at: 0 }
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { encoding: Some(Encoding::Cbor), offset: self.at, what }
    }

    fn truncated(&self) -> Malformed {
        self.malformed("it ends too early")
    }

    fn peek(&self) -> Result<u8, Malformed> {
        self.body.get(self.at).copied().ok_or_else(|| self.truncated())
    }

    /// So many bytes as a big-endian number.
    fn big_endian(&mut self, width: usize) -> Result<u64, Malformed> {
        let bytes = self.body.get(self.at..).and_then(|rest| rest.get(..width));
        let bytes = bytes.ok_or_else(|| self.truncated())?;
        self.at += width;
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn head(&mut self) -> Result<Head, Malformed> {
        let first = self.peek()?;
        let info = first & 0x1f;
        let fault = self.malformed("no data item begins like this");
        self.at += 1;
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24 => Some(self.big_endian(1)?),
            25 => Some(self.big_endian(2)?),
            26 => Some(self.big_endian(4)?),
            27 => Some(self.big_endian(8)?),
            31 => None,
            _ => return Err(fault),
        };
        Ok(match (first >> 5, argument) {
            (0, Some(number)) => Head::Unsigned(number),
            (1, Some(number)) => Head::Negative(number),
            (2, length) => Head::Bytes(length),
            (3, length) => Head::Text(length),
            (4, length) => Head::Array(length),
            (5, length) => Head::Map(length),
            (6, Some(_)) => Head::Tag,
            (7, Some(bits)) => match info {
                22 | 23 => Head::Null,
                25 => Head::Float(time::half_precision(bits)),
                26 => {
                    Head::Float(u32::try_from(bits).map_or(f64::NAN, |bits| f64::from(f32::from_bits(bits))))
                }
                27 => Head::Float(f64::from_bits(bits)),
                _ => Head::Simple,
            },
            _ => return Err(fault),
        })
    }

    /// The head of a value behind any tags; there are at most `MAX_DEPTH`.
    fn untagged(&mut self) -> Result<Head, Malformed> {
        for _ in 0..MAX_DEPTH {
            match self.head()? {
                Head::Tag => {}
                head => return Ok(head),
            }
        }
        Err(self.malformed("too many tags"))
    }

    /// So many bytes from here, as a slice.
    fn slice(&mut self, length: u64) -> Result<Bytes, Malformed> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let end = end.filter(|&end| end <= self.body.len()).ok_or_else(|| self.truncated())?;
        let slice = self.body.slice(self.at..end);
        self.at = end;
        Ok(slice)
    }

    /// Bytes or text; chunks are put together, which costs a copy. `None`: null.
    fn blob(&mut self) -> Result<Option<Bytes>, Malformed> {
        match self.untagged()? {
            Head::Bytes(Some(length)) | Head::Text(Some(length)) => self.slice(length).map(Some),
            Head::Bytes(None) | Head::Text(None) => {
                let mut whole = Vec::new();
                while !self.took_break()? {
                    match self.head()? {
                        Head::Bytes(Some(length)) | Head::Text(Some(length)) => {
                            whole.extend_from_slice(&self.slice(length)?);
                        }
                        _ => return Err(self.malformed("a chunk must have a length")),
                    }
                }
                Ok(Some(whole.into()))
            }
            Head::Null => Ok(None),
            _ => Err(self.malformed("text or bytes expected")),
        }
    }

    /// A payload. AWS sends bytes; there are local servers that send base64 as text, as in JSON, and the SDK for Java reads
    /// both.
    fn payload(&mut self) -> Result<Bytes, Malformed> {
        let start = self.at;
        let is_text = matches!(self.untagged()?, Head::Text(_));
        self.at = start;
        let payload = self.blob()?.unwrap_or_default();
        if !is_text {
            return Ok(payload);
        }
        let decoded = STANDARD.decode_to_vec(&payload);
        decoded.map(Bytes::from).map_err(|_| self.malformed("the payload is text, but not base64"))
    }

    fn string(&mut self) -> Result<Option<String>, Malformed> {
        let Some(blob) = self.blob()? else { return Ok(None) };
        match std::str::from_utf8(&blob) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(self.malformed("the text is not UTF-8")),
        }
    }

    fn took_break(&mut self) -> Result<bool, Malformed> {
        let is_break = self.peek()? == BREAK;
        self.at += usize::from(is_break);
        Ok(is_break)
    }

    /// Calls for each item of an array or map, in whose place `each` reads it. Every item takes at least one byte, so the
    /// loop is bounded by the body, whatever length it names.
    fn items(
        &mut self,
        length: Option<u64>,
        mut each: impl FnMut(&mut Self) -> Result<(), Undecoded>,
    ) -> Result<(), Undecoded> {
        match length {
            Some(length) => {
                for _ in 0..length {
                    each(self)?;
                }
            }
            None => {
                while !self.took_break()? {
                    each(self)?;
                }
            }
        }
        Ok(())
    }

    /// A map: calls for each member, named, to read its value. `false`: it is null.
    fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<(), Undecoded>,
    ) -> Result<bool, Undecoded> {
        let length = match self.untagged()? {
            Head::Map(length) => length,
            Head::Null => return Ok(false),
            _ => return Err(self.malformed("a map expected").into()),
        };
        let body = self.body;
        self.items(length, |reader| {
            let start = reader.at;
            match reader.head()? {
                Head::Text(Some(length)) => {
                    let from = reader.at;
                    let end = usize::try_from(length).ok().and_then(|length| from.checked_add(length));
                    let name = end.and_then(|end| body.get(from..end)).ok_or_else(|| reader.truncated())?;
                    reader.at += name.len();
                    each(reader, name)
                }
                _ => {
                    // No name that we know is written like this.
                    reader.at = start;
                    reader.skip(0)?;
                    reader.skip(0).map_err(Undecoded::from)
                }
            }
        })?;
        Ok(true)
    }

    /// A map in which nothing but the encoding can be wrong.
    fn map(
        &mut self,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        match self.members(|reader, name| each(reader, name).map_err(Undecoded::from)) {
            Ok(_) => Ok(()),
            Err(Undecoded::Malformed(malformed)) => Err(malformed),
            Err(Undecoded::SequenceNumber(_)) => Err(self.malformed("no record is expected here")),
        }
    }

    /// An array; null is an empty one.
    fn array(&mut self, each: impl FnMut(&mut Self) -> Result<(), Undecoded>) -> Result<(), Undecoded> {
        match self.untagged()? {
            Head::Array(length) => self.items(length, each),
            Head::Null => Ok(()),
            _ => Err(self.malformed("an array expected").into()),
        }
    }

    fn integer(&mut self) -> Result<Option<i64>, Malformed> {
        match self.untagged()? {
            Head::Unsigned(number) => Ok(i64::try_from(number).ok()),
            Head::Negative(number) => Ok(i64::try_from(number).ok().map(|number| -1 - number)),
            Head::Float(number) => Ok(time::rounded(number)),
            Head::Null => Ok(None),
            _ => Err(self.malformed("a number expected")),
        }
    }

    /// A time in milliseconds. Integers count them; floating-point numbers are seconds, as standard CBOR has it.
    fn millis(&mut self) -> Result<Option<i64>, Malformed> {
        let start = self.at;
        if let Head::Float(seconds) = self.untagged()? {
            return Ok(time::rounded(seconds * 1000.0));
        }
        self.at = start;
        Ok(self.integer()?.map(time::millis_of_integer))
    }

    fn answer(&mut self) -> Result<Answer, Undecoded> {
        let mut answer = Answer::default();
        let is_map = self.members(|reader, name| {
            match name {
                b"Records" => answer.records = reader.records()?,
                b"NextShardIterator" => answer.next_iterator = reader.string()?,
                b"MillisBehindLatest" => answer.millis_behind_latest = reader.integer()?,
                b"ChildShards" => answer.children = reader.children()?,
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        if is_map { Ok(answer) } else { Err(self.malformed("a map expected").into()) }
    }

    fn records(&mut self) -> Result<Vec<shard_worker::Record>, Undecoded> {
        let start = self.at;
        // A length is only a claim: what it names is made room for as far as the body can hold it.
        let expected = match self.untagged()? {
            Head::Array(Some(length)) => usize::try_from(length).unwrap_or(MAX_RECORDS),
            _ => 0,
        };
        self.at = start;
        let room = expected.min(MAX_RECORDS).min((self.body.len() - self.at) / RecordParts::MIN_BYTES);
        let mut records = Vec::with_capacity(room);
        self.array(|reader| {
            if records.len() == MAX_RECORDS {
                return Err(reader.malformed("too many records").into());
            }
            if let Some(parts) = reader.usual_record() {
                records.push(parts.into_record(|what| reader.malformed(what))?);
                return Ok(());
            }
            let mut parts = RecordParts::default();
            reader.map(|reader, name| {
                match name {
                    b"SequenceNumber" => parts.sequence_number = reader.blob()?.unwrap_or_default(),
                    b"ApproximateArrivalTimestamp" => parts.arrival_millis = reader.millis()?,
                    b"Data" => parts.data = reader.payload()?,
                    b"PartitionKey" => parts.partition_key = reader.blob()?,
                    _ => reader.skip(0)?,
                }
                Ok(())
            })?;
            records.push(parts.into_record(|what| reader.malformed(what))?);
            Ok(())
        })?;
        Ok(records)
    }

    /// A record as servers write it: a map of a stated length with the members that are known, in any order, and values in
    /// their plain forms. `None`: it is another one, and nothing is taken of it; then each part is looked at for what it is.
    ///
    /// Small records are made of many small items: a decision for each of them costs more than all else in an answer.
    #[inline]
    fn usual_record(&mut self) -> Option<RecordParts> {
        let mut quick = Quick { body: self.body.as_ref(), at: self.at };
        let members = match quick.byte()? {
            head @ 0xa0..=0xb7 => head & 0x1f,
            _ => return None,
        };
        let (mut sequence_number, mut data, mut key, mut arrival_millis) = (0..0, 0..0, None, None);
        for _ in 0..members {
            // A name is found by its length, which comes first: only two are equally long.
            match quick.peek()? {
                0x6e if quick.took(b"\x6eSequenceNumber") => sequence_number = quick.text()?,
                0x6e if quick.took(b"\x6eEncryptionType") => {
                    quick.text()?;
                }
                0x78 if quick.took(b"\x78\x1bApproximateArrivalTimestamp") => {
                    arrival_millis = Some(quick.millis()?);
                }
                0x64 if quick.took(b"\x64Data") => data = quick.bytes()?,
                0x6c if quick.took(b"\x6cPartitionKey") => key = Some(quick.text()?),
                _ => return None,
            }
        }
        self.at = quick.at;
        let slice = |range: Range<usize>| self.body.slice(range);
        Some(RecordParts {
            sequence_number: slice(sequence_number),
            arrival_millis,
            data: slice(data),
            partition_key: key.map(slice),
        })
    }

    fn children(&mut self) -> Result<Vec<ChildShard>, Undecoded> {
        let mut children = Vec::new();
        self.array(|reader| {
            let mut child = ChildShard::builder().shard_id("").set_parent_shards(Some(Vec::new()));
            reader.members(|reader, name| {
                match name {
                    b"ShardId" => {
                        child = std::mem::take(&mut child).shard_id(reader.string()?.unwrap_or_default());
                    }
                    b"ParentShards" => {
                        let mut parents = Vec::new();
                        reader.array(|reader| {
                            parents.extend(reader.string()?);
                            Ok(())
                        })?;
                        child = std::mem::take(&mut child).set_parent_shards(Some(parents));
                    }
                    b"HashKeyRange" => {
                        let range = reader.hash_key_range()?;
                        child = std::mem::take(&mut child).set_hash_key_range(range);
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

    fn hash_key_range(&mut self) -> Result<Option<HashKeyRange>, Undecoded> {
        let (mut starting, mut ending) = (String::new(), String::new());
        let is_map = self.members(|reader, name| {
            match name {
                b"StartingHashKey" => starting = reader.string()?.unwrap_or_default(),
                b"EndingHashKey" => ending = reader.string()?.unwrap_or_default(),
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        let range = HashKeyRange::builder().starting_hash_key(starting).ending_hash_key(ending).build().ok();
        Ok(range.filter(|_| is_map))
    }

    /// Steps over a data item, whatever it is.
    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth == MAX_DEPTH {
            return Err(self.malformed("it is nested too deeply"));
        }
        match self.head()? {
            Head::Bytes(Some(length)) | Head::Text(Some(length)) => self.slice(length).map(drop),
            Head::Bytes(None) | Head::Text(None) => {
                while !self.took_break()? {
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            Head::Array(length) => self.skip_items(length, 1, depth),
            Head::Map(length) => self.skip_items(length, 2, depth),
            Head::Tag => self.skip(depth + 1),
            Head::Unsigned(_) | Head::Negative(_) | Head::Float(_) | Head::Null | Head::Simple => Ok(()),
        }
    }

    fn skip_items(&mut self, length: Option<u64>, width: usize, depth: usize) -> Result<(), Malformed> {
        let mut left = length;
        loop {
            match &mut left {
                Some(0) => return Ok(()),
                Some(left) => *left -= 1,
                None if self.took_break()? => return Ok(()),
                None => {}
            }
            for _ in 0..width {
                self.skip(depth + 1)?;
            }
        }
    }
}

/// A request in CBOR: one map with the iterator.
pub(super) fn request(iterator: &str) -> Vec<u8> {
    const NAME: &[u8] = b"ShardIterator";
    let mut request = Vec::with_capacity(iterator.len() + NAME.len() + 4);
    request.push(0xa1);
    push_text(&mut request, NAME);
    push_text(&mut request, iterator.as_bytes());
    request
}

fn push_text(request: &mut Vec<u8>, text: &[u8]) {
    const TEXT: u8 = 0x60;
    match u8::try_from(text.len()) {
        Ok(length @ 0..=23) => request.push(TEXT | length),
        Ok(length) => request.extend([TEXT | 24, length]),
        Err(_) => match u16::try_from(text.len()) {
            Ok(length) => {
                request.push(TEXT | 25);
                request.extend(length.to_be_bytes());
            }
            Err(_) => {
                request.push(TEXT | 27);
                // No text is longer than that on any platform.
                request.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            }
        },
    }
    request.extend(text);
}

#[cfg(test)]
#[path = "cbor_tests.rs"]
mod tests;
