//! How many records a read asks for: fewer after an answer that was cut off, and more again after whole ones. Pure.

/// The most records of one answer (AWS).
const MAX_RECORDS: u32 = 10_000;

/// How many whole answers in a row double the limit. A link that breaks off above some size then loses one read in nine.
const ANSWERS_BEFORE_GROWTH: u32 = 8;

/// The number of records that the next read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadLimit {
    /// [`MAX_RECORDS`]: no limit.
    records: u32,
    /// The whole answers since the last change.
    whole_answers: u32,
}

impl Default for ReadLimit {
    fn default() -> Self {
        Self { records: MAX_RECORDS, whole_answers: 0 }
    }
}

impl ReadLimit {
    /// The limit to send; `None`: as many as the service returns.
    pub(crate) fn get(self) -> Option<u32> {
        (self.records < MAX_RECORDS).then_some(self.records)
    }

    /// An answer was cut off after this many records had begun: the next one has half as many.
    pub(crate) fn cut_off(&mut self, records_begun: usize) {
        let begun = u32::try_from(records_begun).unwrap_or(MAX_RECORDS).max(1);
        *self = Self { records: (self.records.min(begun) / 2).max(1), whole_answers: 0 };
    }

    /// A whole answer arrived.
    pub(crate) fn answered(&mut self) {
        if self.records == MAX_RECORDS {
            return;
        }
        self.whole_answers += 1;
        if self.whole_answers >= ANSWERS_BEFORE_GROWTH {
            *self = Self { records: self.records.saturating_mul(2).min(MAX_RECORDS), whole_answers: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limit_halves_and_recovers() {
        let mut limit = ReadLimit::default();
        assert_eq!(limit.get(), None);
        limit.cut_off(37);
        assert_eq!(limit.get(), Some(18));
        limit.cut_off(18);
        assert_eq!(limit.get(), Some(9));
        for expected in [18, 36, 72, 144, 288, 576, 1152, 2304, 4608, 9216] {
            for _ in 0..ANSWERS_BEFORE_GROWTH {
                limit.answered();
            }
            assert_eq!(limit.get(), Some(expected));
        }
        for _ in 0..ANSWERS_BEFORE_GROWTH {
            limit.answered();
        }
        assert_eq!(limit, ReadLimit::default());
    }

    proptest! {
        /// Whatever number of records a link carries at a time, one cut-off answer is enough to fit the limit to it.
        #[test]
        fn limit_fits_any_link_soon(carried in 1..MAX_RECORDS, available in 1..=MAX_RECORDS) {
            let mut limit = ReadLimit::default();
            let mut cut_offs = 0;
            while limit.get().unwrap_or(MAX_RECORDS).min(available) > carried {
                limit.cut_off(carried as usize);
                cut_offs += 1;
            }
            prop_assert!(cut_offs <= 1);
            for begun in [0, 1, usize::MAX] {
                limit.cut_off(begun);
                prop_assert!((1..MAX_RECORDS).contains(&limit.records));
            }
        }
    }
}
