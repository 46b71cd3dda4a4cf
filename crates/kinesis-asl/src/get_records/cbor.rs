//! Decodes answers of `GetRecords` in the CBOR of AWS (`application/x-amz-cbor-1.1`). Payloads are byte strings and are not
//! copied; a time is a count of milliseconds.
//!
//! Members are found by name, in any order. Unknown members are skipped, up to a bounded depth.

use aws_sdk_kinesis::types::{ChildShard, HashKeyRange};
use base64_simd::STANDARD;
use bytes::Bytes;

use super::answer::{Answer, MAX_DEPTH, MAX_RECORDS, NO_RECORDS, RecordParts};
use super::cbor_record::{BREAK, common_record, further_records};
use super::decode_error::{DecodeError, Malformed};
use super::encoding::Encoding;
use super::time;

/// Decodes an answer. Its records are slices of `body`.
pub(crate) fn decode(body: &Bytes) -> Result<Answer, DecodeError> {
    let mut reader = Reader::new(body);
    let answer = reader.answer()?;
    if reader.at != body.len() {
        return Err(reader.malformed("unexpected bytes after the answer").into());
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
    /// The value is -1 - n.
    Negative(u64),
    /// `None` here and below: of indefinite length, up to a break.
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

impl<'a> Reader<'a> {
    fn new(body: &'a Bytes) -> Self {
        Self { body, at: 0 }
    }

    fn malformed(&self, fault: &'static str) -> Malformed {
        Malformed { encoding: Some(Encoding::Cbor), offset: self.at, fault }
    }

    fn truncated(&self) -> Malformed {
        self.malformed("truncated")
    }

    fn peek(&self) -> Result<u8, Malformed> {
        self.body.get(self.at).copied().ok_or_else(|| self.truncated())
    }

    /// The next `width` bytes as a big-endian number.
    fn big_endian(&mut self, width: usize) -> Result<u64, Malformed> {
        let bytes = self.body.get(self.at..).and_then(|rest| rest.get(..width));
        let bytes = bytes.ok_or_else(|| self.truncated())?;
        self.at += width;
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn head(&mut self) -> Result<Head, Malformed> {
        let first = self.peek()?;
        let info = first & 0x1f;
        let fault = self.malformed("not the start of a data item");
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

    /// The head of a value after at most `MAX_DEPTH` tags.
    fn untagged(&mut self) -> Result<Head, Malformed> {
        for _ in 0..MAX_DEPTH {
            match self.head()? {
                Head::Tag => {}
                head => return Ok(head),
            }
        }
        Err(self.malformed("too many tags"))
    }

    /// The next `length` bytes as a slice.
    fn slice(&mut self, length: u64) -> Result<Bytes, Malformed> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let end = end.filter(|&end| end <= self.body.len()).ok_or_else(|| self.truncated())?;
        let slice = self.body.slice(self.at..end);
        self.at = end;
        Ok(slice)
    }

    /// Bytes or text; joining chunks costs a copy. `None`: null.
    fn blob(&mut self) -> Result<Option<Bytes>, Malformed> {
        match self.untagged()? {
            Head::Bytes(Some(length)) | Head::Text(Some(length)) => self.slice(length).map(Some),
            Head::Bytes(None) | Head::Text(None) => {
                let mut whole = Vec::new();
                while !self.consume_break()? {
                    match self.head()? {
                        Head::Bytes(Some(length)) | Head::Text(Some(length)) => {
                            whole.extend_from_slice(&self.slice(length)?);
                        }
                        _ => return Err(self.malformed("chunk without a length")),
                    }
                }
                Ok(Some(whole.into()))
            }
            Head::Null => Ok(None),
            _ => Err(self.malformed("expected text or bytes")),
        }
    }

    /// A payload. AWS sends a byte string. Some local servers send base64 text as in JSON; like the SDK for Java, accept both.
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

    fn consume_break(&mut self) -> Result<bool, Malformed> {
        let is_break = self.peek()? == BREAK;
        self.at += usize::from(is_break);
        Ok(is_break)
    }

    /// Calls `each` to read each item of an array or map. Every item takes at least one byte, so the size of the body bounds
    /// the loop even if the stated length is wrong.
    fn items(
        &mut self,
        length: Option<u64>,
        mut each: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match length {
            Some(length) => {
                for _ in 0..length {
                    each(self)?;
                }
            }
            None => {
                while !self.consume_break()? {
                    each(self)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a map by calling `each` with each name to read the value. `false`: the map is null.
    fn members(
        &mut self,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<(), DecodeError>,
    ) -> Result<bool, DecodeError> {
        let length = match self.untagged()? {
            Head::Map(length) => length,
            Head::Null => return Ok(false),
            _ => return Err(self.malformed("expected a map").into()),
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
                    // Known names are text of definite length: skip the name and the value.
                    reader.at = start;
                    reader.skip(0)?;
                    reader.skip(0).map_err(DecodeError::from)
                }
            }
        })?;
        Ok(true)
    }

    /// Reads a map whose members cannot fail with `DecodeError::SequenceNumber`.
    fn map(
        &mut self,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        match self.members(|reader, name| each(reader, name).map_err(DecodeError::from)) {
            Ok(_) => Ok(()),
            Err(DecodeError::Malformed(malformed)) => Err(malformed),
            Err(DecodeError::SequenceNumber(_)) => Err(self.malformed("unexpected record")),
        }
    }

    /// Reads an array by calling `each` for each item; null counts as empty.
    fn array(&mut self, each: impl FnMut(&mut Self) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        match self.untagged()? {
            Head::Array(length) => self.items(length, each),
            Head::Null => Ok(()),
            _ => Err(self.malformed("expected an array").into()),
        }
    }

    fn integer(&mut self) -> Result<Option<i64>, Malformed> {
        match self.untagged()? {
            Head::Unsigned(number) => Ok(i64::try_from(number).ok()),
            Head::Negative(number) => Ok(i64::try_from(number).ok().map(|number| -1 - number)),
            Head::Float(number) => Ok(time::rounded(number)),
            Head::Null => Ok(None),
            _ => Err(self.malformed("expected a number")),
        }
    }

    /// A time in milliseconds. Standard CBOR has seconds, AWS has milliseconds: the size of the number shows which of
    /// the two it is.
    fn millis(&mut self) -> Result<Option<i64>, Malformed> {
        let start = self.at;
        if let Head::Float(number) = self.untagged()? {
            return Ok(time::millis_of_float(number));
        }
        self.at = start;
        Ok(self.integer()?.map(time::millis_of_integer))
    }

    fn answer(&mut self) -> Result<Answer, DecodeError> {
        let (mut answer, mut has_records) = (Answer::default(), false);
        let is_map = self.members(|reader, name| {
            match name {
                b"Records" => (answer.records, has_records) = (reader.records()?, true),
                b"NextShardIterator" => answer.next_iterator = reader.string()?,
                b"MillisBehindLatest" => answer.millis_behind_latest = reader.integer()?,
                b"ChildShards" => answer.children = reader.children()?,
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        match (is_map, has_records) {
            (true, true) => Ok(answer),
            (true, false) => Err(self.malformed(NO_RECORDS).into()),
            (false, _) => Err(self.malformed("expected a map").into()),
        }
    }

    fn records(&mut self) -> Result<Vec<shard_worker::Record>, DecodeError> {
        let start = self.at;
        // The stated length may be wrong: reserve no more than the body can hold.
        let expected = match self.untagged()? {
            Head::Array(Some(length)) => usize::try_from(length).unwrap_or(MAX_RECORDS),
            _ => 0,
        };
        let first_at = self.at;
        self.at = start;
        let capacity = expected.min(MAX_RECORDS).min((self.body.len() - self.at) / RecordParts::MIN_BYTES);
        let mut records = Vec::with_capacity(capacity);
        self.array(|reader| {
            if records.len() == MAX_RECORDS {
                return Err(reader.malformed("too many records").into());
            }
            if records.len() == records.capacity() {
                let (read, rest) = (reader.at - first_at, reader.body.len() - reader.at);
                records.reserve_exact(further_records(records.len(), read, rest));
            }
            let parts = reader.record()?;
            records.push(parts.into_record(|fault| reader.malformed(fault))?);
            Ok(())
        })?;
        Ok(records)
    }

    #[inline]
    fn record(&mut self) -> Result<RecordParts, Malformed> {
        if let Some((parts, end)) = common_record(self.body, self.at) {
            self.at = end;
            return Ok(parts);
        }
        self.general_record()
    }

    /// Reads a record in any form.
    fn general_record(&mut self) -> Result<RecordParts, Malformed> {
        let mut parts = RecordParts::default();
        self.map(|reader, name| {
            match name {
                b"SequenceNumber" => parts.sequence_number = reader.blob()?.unwrap_or_default(),
                b"ApproximateArrivalTimestamp" => parts.arrival_millis = reader.millis()?,
                b"Data" => parts.data = reader.payload()?,
                b"PartitionKey" => parts.partition_key = reader.blob()?,
                _ => reader.skip(0)?,
            }
            Ok(())
        })?;
        Ok(parts)
    }

    fn children(&mut self) -> Result<Vec<ChildShard>, DecodeError> {
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

    fn hash_key_range(&mut self) -> Result<Option<HashKeyRange>, DecodeError> {
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

    /// Skips a data item of any type.
    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth == MAX_DEPTH {
            return Err(self.malformed("nested too deeply"));
        }
        match self.head()? {
            Head::Bytes(Some(length)) | Head::Text(Some(length)) => self.slice(length).map(drop),
            Head::Bytes(None) | Head::Text(None) => {
                while !self.consume_break()? {
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
                None if self.consume_break()? => return Ok(()),
                None => {}
            }
            for _ in 0..width {
                self.skip(depth + 1)?;
            }
        }
    }
}

/// A request in CBOR: a map with the iterator.
pub(super) fn request(iterator: &str, limit: Option<u32>, stream_arn: Option<&str>) -> Vec<u8> {
    const NAME: &[u8] = b"ShardIterator";
    const LIMIT: &[u8] = b"Limit";
    const STREAM_ARN: &[u8] = b"StreamARN";
    const MAP: u8 = 0xa0;
    const UNSIGNED_32: u8 = 0x1a;
    let for_arn = stream_arn.map_or(0, |arn| STREAM_ARN.len() + arn.len() + 4);
    let mut request = Vec::with_capacity(iterator.len() + NAME.len() + LIMIT.len() + 10 + for_arn);
    request.push(MAP + 1 + u8::from(limit.is_some()) + u8::from(stream_arn.is_some()));
    push_text(&mut request, NAME);
    push_text(&mut request, iterator.as_bytes());
    if let Some(limit) = limit {
        push_text(&mut request, LIMIT);
        request.push(UNSIGNED_32);
        request.extend(limit.to_be_bytes());
    }
    if let Some(arn) = stream_arn {
        push_text(&mut request, STREAM_ARN);
        push_text(&mut request, arn.as_bytes());
    }
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
                // Cannot overflow: `usize` has at most 64 bits.
                request.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            }
        },
    }
    request.extend(text);
}

#[cfg(test)]
#[path = "cbor_tests.rs"]
mod tests;
