//! The part of the hash-key space that a shard covers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// A point of the hash-key space, 0 to 2^128 − 1: the MD5 digest of a partition key, or the producer's explicit choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HashKey(pub u128);

impl HashKey {
    /// The first point.
    pub const MIN: Self = Self(0);
    /// The last point.
    pub const MAX: Self = Self(u128::MAX);
}

impl FromStr for HashKey {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let canonical = text == "0" || (text.starts_with(|first: char| matches!(first, '1'..='9')));
        text.parse().ok().filter(|_| canonical).map(Self).ok_or_else(|| {
            StoreError::invalid(format!("hash key {text:?} must be decimal, between 0 and 2^128 - 1"))
        })
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The hash keys that a shard covers, both ends inclusive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HashKeyRange {
    start: HashKey,
    end: HashKey,
}

impl HashKeyRange {
    /// The whole space.
    pub const FULL: Self = Self { start: HashKey::MIN, end: HashKey::MAX };

    /// A range with both ends inclusive.
    ///
    /// # Errors
    /// `Invalid` when the start is greater than the end.
    pub fn new(start: HashKey, end: HashKey) -> Result<Self, StoreError> {
        if start > end {
            return Err(StoreError::invalid(format!(
                "hash-key range starts at {start}, which is greater than its end {end}"
            )));
        }
        Ok(Self { start, end })
    }

    /// The first hash key.
    pub fn start(&self) -> HashKey {
        self.start
    }

    /// The last hash key.
    pub fn end(&self) -> HashKey {
        self.end
    }

    /// Whether a hash key lies in the range.
    pub fn contains(&self, hash_key: HashKey) -> bool {
        (self.start..=self.end).contains(&hash_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_whole_space_and_nothing_else() {
        assert_eq!("0".parse::<HashKey>().unwrap(), HashKey::MIN);
        assert_eq!(u128::MAX.to_string().parse::<HashKey>().unwrap(), HashKey::MAX);
        for text in ["", "-1", "+1", "01", "1.0", "340282366920938463463374607431768211456"] {
            assert!(text.parse::<HashKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn both_ends_are_inclusive() {
        let range = HashKeyRange::new(HashKey(5), HashKey(7)).unwrap();
        assert!([5, 6, 7].into_iter().all(|key| range.contains(HashKey(key))));
        assert!(!range.contains(HashKey(4)) && !range.contains(HashKey(8)));
        assert!(HashKeyRange::new(HashKey(7), HashKey(5)).is_err());
    }
}
