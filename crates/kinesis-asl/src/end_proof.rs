//! Whether an answer or event without continuation and without children is the end of its shard. Pure.
//!
//! AWS names the children of a shard at its end. Other servers do not, and a proxy or a faulty answer may lack any member. So such
//! an answer only raises a suspicion. It is the end if then, in this order, a listing shows the shard as closed, and another read
//! from the last position finds nothing. A closed shard takes no more records, so a read after the listing misses none.

/// The evidence for the end of a shard whose children are not named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EndProof {
    /// The last answer had neither a continuation nor children.
    is_suspected: bool,
    /// A listing showed the shard as closed. A closed shard never opens again.
    is_closed: bool,
}

impl EndProof {
    /// An answer without continuation and without children arrived. Returns whether it is the end of the shard.
    pub(crate) fn unproven_end(&mut self, has_records: bool) -> bool {
        let is_end = self.is_suspected && self.is_closed && !has_records;
        self.is_suspected = true;
        is_end
    }

    /// An answer with a continuation arrived, so the shard has not ended.
    pub(crate) fn continued(&mut self) {
        self.is_suspected = false;
    }

    /// Whether the next read has to wait for a listing.
    pub(crate) fn needs_listing(self) -> bool {
        self.is_suspected && !self.is_closed
    }

    /// A listing showed the shard as closed or as open. An open shard has no end.
    pub(crate) fn listed(&mut self, is_closed: bool) {
        self.is_closed |= is_closed;
        self.is_suspected &= self.is_closed;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer or a listing that a reader gets.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Continued,
        Unproven { has_records: bool },
        Listed { is_closed: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Continued),
            any::<bool>().prop_map(|has_records| Step::Unproven { has_records }),
            any::<bool>().prop_map(|is_closed| Step::Listed { is_closed }),
        ];
        proptest::collection::vec(step, 0..12)
    }

    proptest! {
        /// An end follows a listing of the closed shard, and the answer before it was unproven as well.
        #[test]
        fn end_needs_a_listing_and_a_second_answer(steps in steps()) {
            let mut proof = EndProof::default();
            let (mut was_listed_as_closed, mut was_unproven) = (false, false);
            for step in steps {
                match step {
                    Step::Continued => {
                        proof.continued();
                        was_unproven = false;
                    }
                    Step::Unproven { has_records } => {
                        let expected = was_listed_as_closed && was_unproven && !has_records;
                        prop_assert_eq!(proof.unproven_end(has_records), expected);
                        was_unproven = true;
                    }
                    Step::Listed { is_closed } => {
                        proof.listed(is_closed);
                        was_listed_as_closed |= is_closed;
                        was_unproven &= was_listed_as_closed;
                    }
                }
                prop_assert_eq!(proof.needs_listing(), was_unproven && !was_listed_as_closed);
            }
        }
    }
}
