//! The part of the protobuf encoding that aggregates use: fields are read as slices, never copied.
//!
//! Each length in a message is checked against the remaining bytes before it is used. So no input makes a reader panic, read
//! out of bounds or allocate.

/// The most bytes of a variable-length integer (protobuf encoding: 64 bits, 7 in a byte).
const MAX_VARINT_BYTES: usize = 10;

/// The largest number of a field (protobuf encoding: 29 bits).
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// The low bits of a key that hold the wire type; the bits above are the field's number.
const WIRE_TYPE_BITS: u32 = 3;

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// Why a message cannot be read.
pub(super) type Malformation = &'static str;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A variable-length integer.
    Integer(u64),
    /// Text, bytes or an embedded message.
    Bytes(&'a [u8]),
    /// A number of fixed width, which the format does not use.
    Skipped,
}

/// Reads the fields of a message, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The number and the value of the next field; `None` at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformation> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.integer()?;
        let (number, wire_type) = (key >> WIRE_TYPE_BITS, key & ((1 << WIRE_TYPE_BITS) - 1));
        if number == 0 || number > MAX_FIELD_NUMBER {
            return Err("a field has an impossible number");
        }
        let value = match wire_type {
            VARINT => Value::Integer(self.integer()?),
            LENGTH_DELIMITED => {
                let length = self.integer()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED_64 => self.take(8).map(|_| Value::Skipped)?,
            FIXED_32 => self.take(4).map(|_| Value::Skipped)?,
            // Groups were never part of the format and are gone from protobuf itself.
            _ => return Err("a field has an unknown wire type"),
        };
        Ok(Some((number, value)))
    }

    fn integer(&mut self) -> Result<u64, Malformation> {
        let mut integer = 0;
        for index in 0..MAX_VARINT_BYTES {
            let Some((&byte, rest)) = self.rest.split_first() else {
                return Err("it ends inside an integer");
            };
            self.rest = rest;
            // Only one bit of the tenth byte fits; like protobuf, ignore the others.
            integer |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(integer);
            }
        }
        Err("an integer is too long")
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformation> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((bytes, rest)) = taken else { return Err("a field is longer than the rest of the message") };
        self.rest = rest;
        Ok(bytes)
    }
}

/// Writes an integer field.
pub(super) fn write_integer(field: u64, value: u64, out: &mut Vec<u8>) {
    write_varint(field << WIRE_TYPE_BITS | VARINT, out);
    write_varint(value, out);
}

/// Writes a field of bytes.
pub(super) fn write_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    write_length(field, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Writes the key and the length of a field of `length` bytes.
pub(super) fn write_length(field: u64, length: usize, out: &mut Vec<u8>) {
    write_varint(field << WIRE_TYPE_BITS | LENGTH_DELIMITED, out);
    write_varint(length as u64, out);
}

/// The encoded size of a field of `length` bytes, for the one-byte keys of fields 1 to 15.
pub(super) fn field_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

/// The encoded size of an integer, in bytes.
pub(super) fn varint_bytes(value: u64) -> usize {
    let bits = (u64::BITS - value.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_round_trip_at_the_stated_length(value: u64, shift in 0..64u32) {
            let value = value >> shift;
            let mut message = Vec::new();
            write_integer(1, value, &mut message);
            prop_assert_eq!(message.len(), 1 + varint_bytes(value));
            prop_assert_eq!(Fields::of(&message).next(), Ok(Some((1, Value::Integer(value)))));
        }

        #[test]
        fn bytes_are_slices_of_the_message(bytes in prop::collection::vec(any::<u8>(), 1..300), field in 1..16u64) {
            let mut message = Vec::new();
            write_bytes(field, &bytes, &mut message);
            prop_assert_eq!(message.len(), field_bytes(bytes.len()));
            let Ok(Some((number, Value::Bytes(read)))) = Fields::of(&message).next() else { panic!("not read") };
            prop_assert_eq!((number, read), (field, &bytes[..]));
            prop_assert!(message.as_ptr_range().contains(&read.as_ptr()));
        }
    }

    #[track_caller]
    fn check_malformed(message: &[u8], expected: Malformation) {
        assert_eq!(Fields::of(message).next(), Err(expected), "{message:02x?}");
    }

    #[test]
    fn each_malformation_is_named() {
        check_malformed(&[0x80], "it ends inside an integer");
        check_malformed(&[0x08], "it ends inside an integer");
        check_malformed(
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            "an integer is too long",
        );
        check_malformed(&[0x0a, 0x02, b'x'], "a field is longer than the rest of the message");
        // A length of 2^63: nothing is added to it, so nothing overflows.
        check_malformed(
            &[0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            "a field is longer than the rest of the message",
        );
        check_malformed(&[0x09, 1, 2, 3, 4, 5, 6, 7], "a field is longer than the rest of the message");
        check_malformed(&[0x0b], "a field has an unknown wire type");
        check_malformed(&[0x00, 0x00], "a field has an impossible number");
    }

    #[test]
    fn fields_of_fixed_width_are_stepped_over() {
        let mut fields = Fields::of(&[0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4, 0x18, 5]);
        assert_eq!(fields.next(), Ok(Some((1, Value::Skipped))));
        assert_eq!(fields.next(), Ok(Some((2, Value::Skipped))));
        assert_eq!(fields.next(), Ok(Some((3, Value::Integer(5)))));
        assert_eq!(fields.next(), Ok(None));
    }
}
