//! Checks each answer of a shard before its records are delivered: data loss, the retention period, and the bound of a
//! bounded run. The decisions are pure and in modules of their own; this file logs and counts them.

use lease_store::{Position, SequenceNumber};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::data_loss::{DataLossPolicy, LossDetector, LossEvidence, LostSpan, RetentionWindow};
use super::retention::RetentionAlarm;
use super::run_until::{Bound, RunUntil};
use super::stream_clock::StreamClock;
use super::stream_retention::StreamRetention;
use crate::error::{SourceError, SourceErrorKind};
use crate::progress::ShardProgress;
use crate::source::{FetchedBatch, ReadFrom, StreamSource};

/// The limits that each answer is checked against.
#[derive(Debug, Clone)]
pub(crate) struct ReadChecks {
    /// What to do when the stream has removed unread records.
    pub(crate) data_loss: DataLossPolicy,
    /// How long the stream keeps records.
    pub(crate) retention: StreamRetention,
    /// The clock that stamps the records.
    pub(crate) stream_clock: Option<StreamClock>,
    /// The bound of a bounded run.
    pub(crate) run_until: Option<RunUntil>,
}

/// Checks the answers of one shard.
#[derive(Debug)]
pub(crate) struct ReadGuard {
    policy: DataLossPolicy,
    retention: StreamRetention,
    clock: Option<StreamClock>,
    loss_detector: LossDetector,
    bound: Option<Bound>,
    /// Where reading starts, until the stream has accepted it.
    unproved_start: Option<Position>,
    /// The stream refused the start position, so reading starts at the horizon to find out why.
    starts_at_horizon: bool,
    /// The data loss that stops the reading was logged.
    has_reported_loss: bool,
    alarm: RetentionAlarm,
    /// The lag of the newest answer, and when the answer came.
    newest_lag: (Duration, Instant),
}

impl ReadGuard {
    pub(crate) fn new(checks: ReadChecks, start: &Position, now: Instant) -> Self {
        Self {
            policy: checks.data_loss,
            retention: checks.retention,
            clock: checks.stream_clock,
            loss_detector: LossDetector::new(start),
            bound: checks.run_until.map(Bound::new),
            unproved_start: Some(start.clone()).filter(|start| matches!(start, Position::After(_))),
            starts_at_horizon: false,
            has_reported_loss: false,
            alarm: RetentionAlarm::default(),
            newest_lag: (Duration::ZERO, now),
        }
    }

    /// Reading restarts at the acknowledged position `start`; `first_read` is the first record that was read.
    pub(crate) fn restart(
        &mut self,
        checks: ReadChecks,
        start: &Position,
        first_read: Option<&SequenceNumber>,
    ) {
        let first_read = first_read.map(|first| Position::after(first.clone(), 0));
        let start = match start {
            Position::After(_) => start,
            // No record is acknowledged. The first record that was read must still be there, like that of a checkpoint.
            sentinel => first_read.as_ref().unwrap_or(sentinel),
        };
        let restarted = Self::new(checks, start, self.newest_lag.1);
        *self = Self {
            has_reported_loss: self.has_reported_loss,
            retention: self.retention.clone(),
            alarm: self.alarm,
            newest_lag: self.newest_lag,
            ..restarted
        };
    }

    /// Whether this run delivers no more records of the shard.
    pub(crate) fn is_at_bound(&self) -> bool {
        self.bound.as_ref().is_some_and(Bound::is_reached)
    }

    /// Where to open the shard instead of at `from`.
    pub(crate) fn read_from(&self, from: ReadFrom) -> ReadFrom {
        if self.starts_at_horizon { ReadFrom::TrimHorizon } else { from }
    }

    /// Whether this error can mean that the start position is past the retention period. Then the caller has to open the
    /// shard again, at the horizon; the first record there shows whether that was the cause. No done record is delivered
    /// again, since the unpacker drops records at or before the read position.
    pub(crate) fn is_start_refused(&mut self, error: &SourceError) -> bool {
        let is_refused = error.kind() == SourceErrorKind::Invalid
            && self.unproved_start.is_some()
            && !self.starts_at_horizon;
        if is_refused {
            tracing::warn!(%error, "the stream refused the start position, reading the oldest record to find out why");
            self.starts_at_horizon = true;
        }
        is_refused
    }

    /// Checks an answer, and removes the records beyond the bound.
    ///
    /// # Errors
    /// `DataLost` when records were most likely lost and the policy is to fail. `Invalid` when the stream refused the start
    /// position although it still keeps older records. In both cases the answer must not be delivered, and the caller has
    /// to open the shard again before the next read.
    pub(crate) fn check(
        &mut self,
        fetched: &mut FetchedBatch,
        now: Instant,
        progress: &watch::Sender<ShardProgress>,
    ) -> Result<(), SourceError> {
        let lag_millis = fetched.millis_behind_latest;
        let mut bound = self.bound.clone();
        if let Some(bound) = &mut bound {
            bound.cut(fetched, self.clock.map(|clock| clock.at(now)));
        }
        self.check_start(fetched)?;
        if let Some(span) = self.loss_detector.check(&fetched.records, self.retained(now)) {
            self.report(&span, progress)?;
        }
        // Only an accepted answer moves the run towards its bound.
        self.bound = bound;
        self.has_reported_loss = false;
        let is_at_tip = lag_millis.unwrap_or(0) == 0 && !self.is_at_bound() && !self.starts_at_horizon;
        self.loss_detector.accept(&fetched.records, is_at_tip);
        // The reported lag is that of the last record; the oldest unprocessed record is the first one.
        let age = fetched
            .records
            .first()
            .and_then(|first| self.clock?.at(now).duration_since(first.approximate_arrival?).ok());
        let lag = Duration::from_millis(lag_millis.unwrap_or(0));
        self.newest_lag = (lag.max(age.unwrap_or_default()), now);
        self.watch_retention(now, progress);
        Ok(())
    }

    /// The stream no longer has the shard. `Ok`: it counts as read to its end.
    ///
    /// # Errors
    /// `DataLost`, as [`check`](Self::check).
    pub(crate) fn shard_is_gone(
        &mut self,
        error: &SourceError,
        now: Instant,
        progress: &watch::Sender<ShardProgress>,
    ) -> Result<(), SourceError> {
        match self.loss_detector.shard_is_gone(self.retained(now)) {
            Some(span) => self.report(&span, progress),
            None => {
                progress.send_modify(|progress| progress.possibly_lost_spans += 1);
                tracing::error!(
                    %error,
                    "the stream no longer has the shard, and no record of it was read; any records are lost past the \
                     retention period"
                );
                Ok(())
            }
        }
    }

    /// Updates the retention alarm. Without new answers the lag grows with time, so a retry calls this too.
    pub(crate) fn watch_retention(&mut self, now: Instant, progress: &watch::Sender<ShardProgress>) {
        let Some(retention) = self.retention.period() else { return };
        let (lag, since) = self.newest_lag;
        let lag = lag.saturating_add(now.saturating_duration_since(since));
        let alarm = self.alarm.next(lag, retention);
        if alarm > self.alarm {
            match alarm {
                RetentionAlarm::None => {}
                RetentionAlarm::Half => {
                    tracing::warn!(?lag, ?retention, "the lag of the shard is half of the retention period");
                }
                RetentionAlarm::FourFifths => tracing::error!(
                    ?lag,
                    ?retention,
                    "the lag of the shard is four fifths of the retention period, and older records are lost; speed the \
                     application up, or raise the retention period of the stream"
                ),
            }
        }
        self.alarm = alarm;
        progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.retention_alarm, alarm) != alarm);
    }

    fn retained(&self, now: Instant) -> Option<RetentionWindow> {
        self.retention.window(self.clock?.at(now))
    }

    /// Whether the answer is evidence of a loss only if the retention period was shortened since the stream was described.
    /// Then the caller has to call [`describe_again`](Self::describe_again) and read again.
    pub(crate) fn is_doubtful(&self, fetched: &FetchedBatch, now: Instant) -> bool {
        let Some(clock) = self.clock else { return false };
        let Some(shortest) = self.retention.shortest_window(clock.at(now), now) else { return false };
        let is_likely = |retained: Option<RetentionWindow>| {
            let span = self.loss_detector.check(&fetched.records, retained);
            span.is_some_and(|span| span.evidence == LossEvidence::Likely)
        };
        is_likely(Some(shortest)) && !is_likely(self.retained(now))
    }

    /// Describes the stream again, for its retention period.
    ///
    /// # Errors
    /// A throttled or unavailable stream: ask again.
    pub(crate) async fn describe_again(&self, source: &dyn StreamSource) -> Result<(), SourceError> {
        self.retention.describe_again(source, self.clock).await
    }

    /// Checks a refused start position against the first record.
    fn check_start(&mut self, fetched: &FetchedBatch) -> Result<(), SourceError> {
        let Some(first) = fetched.records.first() else { return Ok(()) };
        if self.starts_at_horizon
            && let Some(Position::After(start)) = &self.unproved_start
            && first.sequence_number <= start.sequence_number
        {
            self.starts_at_horizon = false;
            return Err(SourceError::new(
                SourceErrorKind::Invalid,
                format!(
                    "the stream refuses to read after {start}, although it still keeps older records such as {first}: the \
                     position does not belong to this shard; correct or delete its lease",
                    start = start.sequence_number,
                    first = first.sequence_number,
                ),
            ));
        }
        self.unproved_start = None;
        self.starts_at_horizon = false;
        Ok(())
    }

    fn report(
        &mut self,
        span: &LostSpan,
        progress: &watch::Sender<ShardProgress>,
    ) -> Result<(), SourceError> {
        match (span.evidence, self.policy) {
            (LossEvidence::Likely, DataLossPolicy::Fail) => {
                let message = format!(
                    "the stream removed unread records: {span}; the shard is halted; to continue with the remaining records, \
                     set the data-loss policy to CONTINUE"
                );
                if !self.has_reported_loss {
                    self.has_reported_loss = true;
                    progress.send_modify(|progress| progress.lost_spans += 1);
                    tracing::error!("{message}");
                }
                return Err(SourceError::new(SourceErrorKind::DataLost, message));
            }
            (LossEvidence::Likely, DataLossPolicy::Continue) => {
                progress.send_modify(|progress| progress.lost_spans += 1);
                tracing::warn!(
                    "the stream removed unread records: {span}; continuing with the remaining records"
                );
            }
            (LossEvidence::Possible, _) => {
                progress.send_modify(|progress| progress.possibly_lost_spans += 1);
                tracing::warn!("the stream may have removed unread records: {span}");
            }
        }
        Ok(())
    }
}
