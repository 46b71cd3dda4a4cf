//! The names of stored blocks: which records of a shard a block holds, without reading it.
//!
//! `056<digits>-056<digits>-000120-1f2e3d4c.v1.block` consists of the first and the last sequence number, the number of
//! records, a tag of application and stream, and the format version. Each sequence number follows the count of its digits,
//! so that names sort like numbers. The end of a shard is `end-1f2e3d4c.v1.block`.

use lease_store::{SequenceNumber, StreamIdentity};
use shard_worker::Record;

use crate::unshared::Unshared as _;

/// The format version of names and blocks.
pub(crate) const FORMAT_VERSION: u8 = 1;

/// The most digits of a sequence number in a name, so that no name exceeds the 255 bytes that file systems allow. Kinesis
/// numbers have 56.
const MAX_DIGITS: usize = 104;

/// The range of records in one block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockRange {
    /// The first sequence number.
    pub(crate) first: SequenceNumber,
    /// The last sequence number; equal to `first` in a block of one record.
    pub(crate) last: SequenceNumber,
    /// The number of records, at least one.
    pub(crate) records: u32,
}

/// The content of a block. Names order as in the shard: its end comes after all records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BlockName {
    Records(BlockRange),
    End,
}

/// A parsed file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    Block {
        name: BlockName,
        tag: u32,
    },
    /// A block of another format version.
    OtherVersion(String),
    /// Not a block.
    Unknown,
}

impl BlockName {
    /// The name of a block of these records; `None` without records.
    pub(crate) fn of(records: &[Record]) -> Option<Self> {
        Some(Self::Records(BlockRange {
            first: records.first()?.sequence_number.unshared(),
            last: records.last()?.sequence_number.unshared(),
            records: u32::try_from(records.len()).ok()?,
        }))
    }

    /// The number of digits if it exceeds the limit; `None` if the name can be written.
    pub(crate) fn too_many_digits(&self) -> Option<usize> {
        match self {
            Self::Records(range) => Some(range.last.as_str().len().max(range.first.as_str().len())),
            Self::End => None,
        }
        .filter(|digits| *digits > MAX_DIGITS)
    }

    /// The file name.
    pub(crate) fn file_name(&self, tag: u32) -> String {
        match self {
            Self::Records(BlockRange { first, last, records }) => {
                let digits = |number: &SequenceNumber| format!("{:03}{number}", number.as_str().len());
                format!("{}-{}-{records:06}-{tag:08x}.v{FORMAT_VERSION}.block", digits(first), digits(last))
            }
            Self::End => format!("end-{tag:08x}.v{FORMAT_VERSION}.block"),
        }
    }

    /// Parses a file name.
    pub(crate) fn parse(file_name: &str) -> Parsed {
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
        let is_valid = parts.next().is_none() && first <= last && records > 0;
        is_valid.then_some((Self::Records(BlockRange { first, last, records }), tag))
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

/// The tag in file names, which distinguishes blocks of other applications and streams.
pub(crate) fn identity_tag(application: &str, identity: &StreamIdentity) -> u32 {
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
        fn names_round_trip_and_sort_like_the_shard(one: u128, other: u128, records in 1..=u32::MAX, tag: u32) {
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
        fn no_file_name_panics(text in "\\PC{0,80}") {
            let _ = BlockName::parse(&text);
            let _ = BlockName::parse(&format!("{text}.v1.block"));
        }
    }

    #[test]
    fn the_longest_name_fits_file_systems() {
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
    fn other_files_and_other_versions_are_distinguished() {
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
