//! What the owner of a lease reports of its lag in the row: one text attribute, written with renewals and checkpoints. Pure.
//!
//! Workers of the KCL keep the attribute and ignore it. The text names the counter of the write that it came with, so a report
//! counts only while the row is as the owner left it.

use std::fmt::Write as _;

/// The longest text of a report, in bytes: four numbers of 20 digits with their names.
pub const MAX_LAG_REPORT_BYTES: usize = 128;

/// How far the stored position of a lease was behind the stream when its owner wrote the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LagReport {
    /// The age of the first record after the stored position, in milliseconds; 0: no record waited.
    pub behind_millis: u64,
    /// When the owner measured it, in milliseconds since 1970 by the clock of the stream. It is for readers; ownership never
    /// depends on it.
    pub measured_at_millis: u64,
    /// The bytes that the owner processed in a second, lately; `None`: not measured yet.
    pub processed_bytes_per_second: Option<u64>,
}

impl LagReport {
    /// The text for the write that gives the row this counter.
    pub fn text(&self, counter: u64) -> String {
        let mut text = format!("behind={} at={}", self.behind_millis, self.measured_at_millis);
        if let Some(rate) = self.processed_bytes_per_second {
            // Writing to a string cannot fail.
            let _ = write!(text, " rate={rate}");
        }
        let _ = write!(text, " counter={counter}");
        text
    }

    /// Reads the text of a row with this counter. `None`: the report came with another write, or cannot be read. Fields of later
    /// versions are ignored.
    pub fn parse(text: &str, counter: u64) -> Option<Self> {
        if text.len() > MAX_LAG_REPORT_BYTES {
            return None;
        }
        let (mut behind, mut at, mut rate, mut written) = (None, None, None, None);
        for field in text.split(' ') {
            let (name, value) = field.split_once('=')?;
            let slot = match name {
                "behind" => &mut behind,
                "at" => &mut at,
                "rate" => &mut rate,
                "counter" => &mut written,
                _ => continue,
            };
            *slot = Some(value.parse::<u64>().ok()?);
        }
        let report =
            Self { behind_millis: behind?, measured_at_millis: at?, processed_bytes_per_second: rate };
        (written? == counter).then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_survives_its_text_and_is_bounded() {
        let report = |rate| LagReport {
            behind_millis: u64::MAX,
            measured_at_millis: u64::MAX,
            processed_bytes_per_second: rate,
        };
        for report in [report(None), report(Some(u64::MAX))] {
            let text = report.text(u64::MAX);
            assert!(text.len() <= MAX_LAG_REPORT_BYTES, "{} bytes", text.len());
            assert_eq!(LagReport::parse(&text, u64::MAX), Some(report));
            assert_eq!(LagReport::parse(&text, 3), None, "of another write");
        }
    }

    #[test]
    fn unreadable_reports_count_as_absent() {
        for text in
            ["", "behind=1", "behind=-1 at=2 counter=3", "behind at counter", "behind=1 at=2 counter=x"]
        {
            assert_eq!(LagReport::parse(text, 3), None, "{text:?}");
        }
        assert_eq!(LagReport::parse(&format!("behind=1 at=2 counter=3 {}", "x=1 ".repeat(99)), 3), None);
        let of_later = LagReport::parse("behind=1 new=many at=2 counter=3", 3);
        assert_eq!(of_later.map(|report| report.behind_millis), Some(1));
    }
}
