//! Reads the output of a test program: how many tests passed, and which failed.

use std::collections::BTreeSet;

/// The counts and failures of one test program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) failures: BTreeSet<String>,
    /// The total lines as the test harness printed them: `test result: ok. 3 passed; ...`.
    pub(super) totals: Vec<String>,
}

impl Report {
    /// Reads an output. A program that failed without a failed test (an abort, an exit) counts as one failure.
    pub(super) fn read(output: &str, succeeded: bool) -> Self {
        let mut report = Self::default();
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                report.passed += count(counts, " passed");
                report.failed += count(counts, " failed");
                report.totals.push(line.to_owned());
            } else if let Some(test) =
                line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
            {
                report.failures.insert(test.to_owned());
            }
        }
        if !succeeded && report.failed == 0 {
            report.failed = 1;
            report
                .failures
                .insert("(the program ended with an error and reported no failed test)".to_owned());
        }
        report
    }
}

/// The number before a word in `ok. 12 passed; 0 failed; ...`.
fn count(counts: &str, word: &str) -> u64 {
    let before = counts.split(word).next().filter(|before| before.len() < counts.len());
    before.and_then(|before| before.rsplit(' ').next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ok\n\n\
        test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.01s\n";

    #[test]
    fn counts_and_failures_are_read_from_the_output() {
        let report = Report::read(OUTPUT, false);
        assert_eq!((report.passed, report.failed), (2, 1));
        assert_eq!(report.failures, BTreeSet::from(["b::c".to_owned()]));
        assert_eq!(report.totals.len(), 1);
    }

    #[test]
    fn an_abort_counts_as_one_failure() {
        let report = Report::read("running 3 tests\ntest a ... ok\n", false);
        assert_eq!((report.passed, report.failed), (0, 1));
        assert_eq!(Report::read("", true), Report::default());
    }

    #[test]
    fn the_totals_of_several_crates_are_added_up() {
        let output = "test result: ok. 2 passed; 0 failed; 0 ignored\ntest result: ok. 10 passed; 0 failed; 0 ignored\n";
        assert_eq!(Report::read(output, true).passed, 12);
    }
}
