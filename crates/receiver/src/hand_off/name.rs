//! The names of stored blocks: what of a shard is in one, without reading it.
//!
//! `056<digits>-056<digits>-000120-1f2e3d4c.v1.block`: the first and the last sequence number, each after the number of
//! its digits so that the order of the text is the order of the numbers; how many records; a tag of application and
//! stream; the version of the format. The end of a shard is `end-1f2e3d4c.v1.block`.

use lease_store::{SequenceNumber, StreamIdentity};
use shard_worker::Record;

use super::block::Unshared as _;

/// The version of names and blocks.
pub(super) const FORMAT_VERSION: u8 = 1;

/// The most digits of a sequence number in a name, so that no name exceeds the 255 bytes of file systems. Kinesis gives 56.
const MAX_DIGITS: usize = 104;

/// The records of one block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockRange {
    /// The first number.
    pub(super) first: SequenceNumber,
    /// The last number, which may be the first.
    pub(super) last: SequenceNumber,
    /// How many records; at least one.
    pub(super) records: u32,
}

/// What a block holds. Ordered as in the shard: its end comes after all its records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockName {
    Records(BlockRange),
    End,
}

/// What the name of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    Block {
        name: BlockName,
        tag: u32,
    },
    /// A block, but of another format.
    OtherVersion(String),
    /// No block.
    Unknown,
}

impl BlockName {
    /// The name of a block of these records; `None` without any.
    pub(super) fn of(records: &[Record]) -> Option<Self> {
        Some(Self::Records(BlockRange {
            first: records.first()?.sequence_number.unshared(),
            last: records.last()?.sequence_number.unshared(),
            records: u32::try_from(records.len()).ok()?,
        }))
    }

    /// Whether the name can be written; otherwise how many digits are too many.
    pub(super) fn too_many_digits(&self) -> Option<usize> {
        match self {
            Self::Records(range) => Some(range.last.as_str().len().max(range.first.as_str().len())),
            Self::End => None,
        }
        .filter(|digits| *digits > MAX_DIGITS)
    }

    /// The name of the file.
    pub(super) fn file_name(&self, tag: u32) -> String {
        match self {
            Self::Records(BlockRange { first, last, records }) => {
                let digits = |number: &SequenceNumber| format!("{:03}{number}", number.as_str().len());
                format!("{}-{}-{records:06}-{tag:08x}.v{FORMAT_VERSION}.block", digits(first), digits(last))
            }
            Self::End => format!("end-{tag:08x}.v{FORMAT_VERSION}.block"),
        }
    }

    /// Reads the name of a file.
    pub(super) fn parse(file_name: &str) -> Parsed {
        let Some((stem, version)) = file_name.strip_suffix(".block").and_then(|rest| rest.rsplit_once(".v"))
        else {
            return Parsed::Unknown;
        };
        if version != FORMAT_VERSION.to_string() {
            return Parsed::OtherVersion(version.to_owned());
        }
        Self::parse_stem(stem).map_or(Parsed::Unknown, |(name, tag)| Parsed::Block { name, tag })
    }

    fn parse_stem(stem: &str) -> Option<(Self, u32)> {
        let (content, tag) = stem.rsplit_once('-')?;
        let tag = u32::from_str_radix(tag, 16).ok()?;
        if content == "end" {
            return Some((Self::End, tag));
        }
        let mut parts = content.split('-');
        let (first, last) = (parse_number(parts.next()?)?, parse_number(parts.next()?)?);
        let records: u32 = parts.next()?.parse().ok()?;
        let is_sound = parts.next().is_none() && first <= last && records > 0;
        is_sound.then_some((Self::Records(BlockRange { first, last, records }), tag))
    }
}

fn parse_number(text: &str) -> Option<SequenceNumber> {
    let (length, digits) = text.split_at_checked(3)?;
    let number = SequenceNumber::new(digits.to_owned()).ok()?;
    (length.parse::<usize>().ok()? == digits.len()).then_some(number)
}

impl std::fmt::Display for BlockName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Records(range) => write!(formatter, "{} to {}", range.first, range.last),
            Self::End => formatter.write_str("the end of the shard"),
        }
    }
}

/// Tells blocks of another application or stream by their names.
pub(super) fn identity_tag(application: &str, identity: &StreamIdentity) -> u32 {
    let text = format!("{application}\n{}\n{}", identity.arn, identity.creation_epoch_seconds);
    crc32fast::hash(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(first: u128, last: u128, records: u32) -> BlockName {
        BlockName::Records(BlockRange { first: first.into(), last: last.into(), records })
    }

    proptest! {
        #[test]
        fn names_round_trip_and_sort_as_the_shard_does(one: u128, other: u128, records in 1..=u32::MAX, tag: u32) {
            let (first, last) = (one.min(other), one.max(other));
            let named = name(first, last, records);
            let expected = Parsed::Block { name: named.clone(), tag };
            prop_assert_eq!(BlockName::parse(&named.file_name(tag)), expected);
            let later = name(last, u128::MAX, records);
            prop_assert_eq!(named.file_name(0) <= later.file_name(0), first <= last);
            prop_assert!(named.file_name(tag) < BlockName::End.file_name(tag));
            prop_assert!(named < BlockName::End);
        }

        #[test]
        fn any_name_of_a_file_is_safe(text in "\\PC{0,80}") {
            let _ = BlockName::parse(&text);
            let _ = BlockName::parse(&format!("{text}.v1.block"));
        }
    }

    #[test]
    fn the_longest_name_fits_a_file_system() {
        let longest = SequenceNumber::new("9".repeat(MAX_DIGITS)).unwrap();
        let range = BlockRange { first: longest.clone(), last: longest, records: u32::MAX };
        let named = BlockName::Records(range);
        assert_eq!(named.too_many_digits(), None);
        assert!(named.file_name(u32::MAX).len() <= 255);
        let longer = SequenceNumber::new("9".repeat(MAX_DIGITS + 1)).unwrap();
        let range = BlockRange { first: longer.clone(), last: longer, records: 1 };
        assert_eq!(BlockName::Records(range).too_many_digits(), Some(MAX_DIGITS + 1));
    }

    #[test]
    fn files_that_are_no_blocks_of_this_version_are_told_apart() {
        for unknown in [
            "",
            "x",
            ".block",
            "end.block",
            "0011-0011-000001-00000000.v1.block~",
            "0012-0011-000001-0.v1.block",
        ] {
            assert_eq!(BlockName::parse(unknown), Parsed::Unknown, "{unknown}");
        }
        let other = "0011-0011-000001-00000000.v2.block";
        assert_eq!(BlockName::parse(other), Parsed::OtherVersion("2".to_owned()));
    }
}
