//! The range of a replay: where it starts and ends, and what of it the stream no longer keeps. Pure.

use std::time::SystemTime;

use fleet_view::{duration_text, instant_text, parse_position};
use lease_store::{Position, RecordPosition, SequenceNumber};

use super::arguments::ShardsArguments;
use crate::exit_code::{CommandError, CommandErrorKind, usage};
use crate::read::start::Start;
use crate::wall_clock::{millis_of, time_of};

/// The range of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    /// Where each shard starts.
    pub(crate) start: Start,
    /// Where each shard ends; `None`: at the time of the call.
    pub(crate) end: Option<End>,
}

/// The end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Before the first record that arrived at this time or later.
    Before(SystemTime),
    /// After this record.
    At(RecordPosition),
}

impl Range {
    /// Reads the range of the command line, at this time of the stream.
    ///
    /// # Errors
    /// `Usage` when it has no start, is empty, lies in the future, or has a position without one shard.
    pub(crate) fn parse(
        from: Option<&str>,
        shards: &ShardsArguments,
        now_millis: u64,
    ) -> Result<Self, CommandError> {
        let start = match (from, &shards.after) {
            (_, Some(after)) => {
                Start::After(record(after).map_err(|fault| usage(format!("--after {fault}")))?)
            }
            (Some(from), None) => {
                Start::parse(from, now_millis).map_err(|fault| usage(format!("--from {fault}")))?
            }
            (None, None) => {
                return Err(usage(
                    "a replay needs a start: add --from trim-horizon, --from TIME, or --after",
                ));
            }
        };
        let end = match &shards.until {
            None => None,
            Some(until) => {
                Some(End::parse(until, now_millis).map_err(|fault| usage(format!("--until {fault}")))?)
            }
        };
        let range = Self { start, end };
        range.check(shards.shards.len(), now_millis)?;
        Ok(range)
    }

    fn check(&self, shards: usize, now_millis: u64) -> Result<(), CommandError> {
        let is_position =
            matches!(self.start, Start::Record(_) | Start::After(_)) || matches!(self.end, Some(End::At(_)));
        if is_position && shards != 1 {
            return Err(usage("a position is one of a single shard; add --shard with its id"));
        }
        let is_future = |time: SystemTime| millis_of(time) > now_millis;
        match (&self.start, &self.end) {
            (Start::Tip, _) => Err(usage("a replay cannot start at the tip; use tail to follow the stream")),
            (Start::Time(time), _) if is_future(*time) => Err(usage("--from is in the future; use tail")),
            (_, Some(End::Before(time))) if is_future(*time) => {
                Err(usage("--until is in the future; use tail to follow the stream"))
            }
            (Start::Time(from), Some(End::Before(until))) if from >= until => {
                Err(usage("--until must be later than --from"))
            }
            (Start::Record(from), Some(End::At(until))) if from > until => {
                Err(usage("--until must not be before --from"))
            }
            (Start::After(after), Some(End::At(until))) if after >= until => {
                Err(usage("--until must be after --after"))
            }
            _ => Ok(()),
        }
    }
}

impl End {
    fn parse(text: &str, now_millis: u64) -> Result<Self, String> {
        match Start::parse(text, now_millis)? {
            Start::Time(time) => Ok(Self::Before(time)),
            Start::Record(record) => Ok(Self::At(record)),
            _ => Err(format!("{text:?} must be a time or the position of a record")),
        }
    }
}

/// Reads the position of a record.
pub(crate) fn record(text: &str) -> Result<RecordPosition, String> {
    match parse_position(text) {
        Ok(Position::After(record)) => Ok(record),
        Ok(_) => Err(format!("{text:?} is no position of a record")),
        Err(error) => Err(error.to_string()),
    }
}

/// How far the default end of a range lies behind the time that the stream tells, in milliseconds.
const END_MARGIN_MILLIS: u64 = 2_000;

/// What the stream tells about the records that it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The time at the stream, in milliseconds since 1970.
    pub(crate) now_millis: u64,
    pub(crate) retention_millis: u64,
}

impl Kept {
    /// Refuses a start before the oldest record that the stream keeps: the records in between are gone. `arrived_at` is the arrival
    /// of a record, where it is known.
    ///
    /// # Errors
    /// `BadAnswer`, which names how much is gone.
    pub(crate) fn check(
        self,
        start: &Start,
        arrived_at: impl Fn(&SequenceNumber) -> Option<SystemTime>,
    ) -> Result<(), CommandError> {
        let begins_at = match start {
            Start::Time(time) => Some(millis_of(*time)),
            Start::Record(record) | Start::After(record) => {
                arrived_at(&record.sequence_number).map(millis_of)
            }
            Start::TrimHorizon | Start::Tip => None,
        };
        let horizon = self.now_millis.saturating_sub(self.retention_millis);
        match begins_at {
            Some(begins_at) if begins_at < horizon => Err(CommandError::new(
                CommandErrorKind::BadAnswer,
                format!(
                    "the range starts at {}, {} before the oldest record that the stream keeps, so a part of it is gone; start at \
                     trim-horizon, or add --even-with-gap",
                    instant_text(begins_at),
                    duration_text(horizon - begins_at)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The end of a range without one: after all records that were in the stream at the call. The stream tells its time in whole
    /// seconds, rounded down.
    pub(crate) fn end(self) -> Option<SystemTime> {
        time_of(self.now_millis.saturating_add(END_MARGIN_MILLIS))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 14 November 2023.
    const NOW: u64 = 1_700_000_000_000;

    const NUMBER: &str = "49590338271490256608559692538361571095921575989136588898";

    fn parse(
        from: Option<&str>,
        after: Option<&str>,
        until: Option<&str>,
        shards: usize,
    ) -> Result<Range, String> {
        let shards = ShardsArguments {
            shards: vec!["shardId-1".to_owned(); shards],
            after: after.map(str::to_owned),
            until: until.map(str::to_owned),
            ..ShardsArguments::default()
        };
        Range::parse(from, &shards, NOW).map_err(|error| error.to_string())
    }

    #[test]
    fn ranges_have_several_forms() {
        let range = parse(Some("trim-horizon"), None, None, 0).unwrap();
        assert_eq!(range, Range { start: Start::TrimHorizon, end: None });
        let position = record(&format!("{NUMBER}/3")).unwrap();
        let range = parse(None, Some(NUMBER), Some(&format!("{NUMBER}/3")), 1).unwrap();
        assert_eq!(range.end, Some(End::At(position)));
        assert!(matches!(range.start, Start::After(_)));
        assert!(matches!(parse(Some("2h"), None, Some("1h"), 0).unwrap().end, Some(End::Before(_))));
    }

    #[test]
    fn impossible_ranges_name_their_remedy() {
        for (from, after, until, shards, part) in [
            (None, None, None, 0, "--from trim-horizon"),
            (Some("tip"), None, None, 0, "use tail"),
            (Some("2999-01-01"), None, None, 0, "in the future"),
            (Some("1h"), None, Some("2999-01-01"), 0, "in the future"),
            (Some("1h"), None, Some("2h"), 0, "later than --from"),
            (Some(NUMBER), None, None, 0, "--shard"),
            (Some(NUMBER), None, None, 2, "--shard"),
            (None, Some(NUMBER), Some(NUMBER), 1, "must be after --after"),
            (None, Some("LATEST"), None, 1, "no position"),
            (Some("1h"), None, Some("tip"), 0, "must be a time"),
        ] {
            let fault = parse(from, after, until, shards).unwrap_err();
            assert!(fault.contains(part), "{part} is not in {fault}");
        }
    }

    #[test]
    fn start_outside_the_retention_is_refused() {
        let day = 86_400_000;
        let kept = Kept { now_millis: 10 * day, retention_millis: day };
        let at = |millis| Start::Time(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        let unknown = |_: &SequenceNumber| None;
        kept.check(&at(9 * day), unknown).unwrap();
        let error = kept.check(&at(8 * day), unknown).unwrap_err();
        assert_eq!(error.kind(), CommandErrorKind::BadAnswer);
        assert!(error.to_string().contains("1d00h before"), "{error}");
        let old = |_: &SequenceNumber| Some(SystemTime::UNIX_EPOCH);
        let start = Start::After(record(NUMBER).unwrap());
        assert!(kept.check(&start, old).is_err());
        kept.check(&start, unknown).unwrap();
        kept.check(&Start::TrimHorizon, old).unwrap();
    }
}
