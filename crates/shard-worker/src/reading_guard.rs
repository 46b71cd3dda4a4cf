//! What each answer of a shard is held against before it is handed over: lost records, the retention period, and the bound of
//! a bounded run. The decisions are pure and stand in modules of their own; here they meet the log and the progress.

use lease_store::{Position, SequenceNumber};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::data_loss::{Kept, LossWatch};
use crate::run_until::Bound;
use crate::{
    DataLossPolicy, FetchedBatch, LossEvidence, LostSpan, ReadFrom, RetentionAlarm, ShardProgress,
    ShardWorkerOptions, SourceError, SourceErrorKind, StreamClock,
};

/// Guards the reading of one shard.
#[derive(Debug)]
pub(crate) struct ReadingGuard {
    policy: DataLossPolicy,
    retention: Option<Duration>,
    clock: Option<StreamClock>,
    watch: LossWatch,
    bound: Option<Bound>,
    /// Where reading starts, as long as it is not known that the stream accepts it.
    unproved_start: Option<Position>,
    /// The stream refused the position to start at, so reading starts at the horizon, to see why.
    starts_at_horizon: bool,
    /// People were told that the shard is not read on.
    is_halted: bool,
    alarm: RetentionAlarm,
    /// How far back the newest answer reached, and when it came.
    newest_answer: (Duration, Instant),
}

impl ReadingGuard {
    pub(crate) fn new(options: &ShardWorkerOptions, start: &Position, now: Instant) -> Self {
        Self {
            policy: options.data_loss,
            retention: options.retention,
            clock: options.stream_clock,
            watch: LossWatch::new(start),
            bound: options.run_until.map(Bound::new),
            unproved_start: Some(start.clone()).filter(|start| matches!(start, Position::After(_))),
            starts_at_horizon: false,
            is_halted: false,
            alarm: RetentionAlarm::default(),
            newest_answer: (Duration::ZERO, now),
        }
    }

    /// Reading starts anew, at what is acknowledged; `first_read` is the first record that was read, which is not
    /// acknowledged if nothing is.
    pub(crate) fn start_anew(
        &mut self,
        options: &ShardWorkerOptions,
        start: &Position,
        first_read: Option<&SequenceNumber>,
    ) {
        let first_read = first_read.map(|first| Position::after(first.clone(), 0));
        let start = match start {
            Position::After(_) => start,
            // It has to be there still, as a stored one.
            sentinel => first_read.as_ref().unwrap_or(sentinel),
        };
        let anew = Self::new(options, start, self.newest_answer.1);
        *self =
            Self { is_halted: self.is_halted, alarm: self.alarm, newest_answer: self.newest_answer, ..anew };
    }

    /// Whether nothing more of the shard is to be delivered in this run.
    pub(crate) fn is_at_bound(&self) -> bool {
        self.bound.as_ref().is_some_and(Bound::is_reached)
    }

    /// Where to open the shard, which would be opened here.
    pub(crate) fn read_from(&self, from: ReadFrom) -> ReadFrom {
        if self.starts_at_horizon { ReadFrom::TrimHorizon } else { from }
    }

    /// Whether this error can mean that the position to start at is past the retention period. Then the shard has to be
    /// opened again: it is read from the horizon, and what is found there says whether it was that. Nothing that is done comes
    /// again, since whatever is not beyond the position is dropped on arrival.
    pub(crate) fn is_start_refused(&mut self, error: &SourceError) -> bool {
        let is_refused = error.kind() == SourceErrorKind::Invalid
            && self.unproved_start.is_some()
            && !self.starts_at_horizon;
        if is_refused {
            tracing::warn!(%error, "the position to start at is refused; looking at the oldest record that is left");
            self.starts_at_horizon = true;
        }
        is_refused
    }

    /// Looks at an answer, and takes out what lies beyond the bound.
    ///
    /// # Errors
    /// `DataLost` when records were most likely lost and the policy is to fail, and `Invalid` when the stream has refused the
    /// position to start at although it still keeps older records. The answer must not be delivered; whoever asks the stream
    /// again has to open the shard anew.
    pub(crate) fn look(
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
        if let Some(span) = self.watch.look(&fetched.records, self.kept(now)) {
            self.judge(&span, progress)?;
        }
        // Only an answer that is delivered comes closer to the bound.
        self.bound = bound;
        self.is_halted = false;
        let is_at_tip = lag_millis.unwrap_or(0) == 0 && !self.is_at_bound() && !self.starts_at_horizon;
        self.watch.accept(&fetched.records, is_at_tip);
        // What is not done yet is as old as the first of these; a lag is told of what comes behind them.
        let age = fetched
            .records
            .first()
            .and_then(|first| self.clock?.at(now).duration_since(first.approximate_arrival?).ok());
        let lag = Duration::from_millis(lag_millis.unwrap_or(0));
        self.newest_answer = (lag.max(age.unwrap_or_default()), now);
        self.watch_retention(now, progress);
        Ok(())
    }

    /// The stream no longer has the shard.
    ///
    /// # Errors
    /// `DataLost`, as [`look`](Self::look). Otherwise the shard counts as read to its end.
    pub(crate) fn shard_is_gone(
        &mut self,
        error: &SourceError,
        now: Instant,
        progress: &watch::Sender<ShardProgress>,
    ) -> Result<(), SourceError> {
        match self.watch.shard_is_gone(self.kept(now)) {
            Some(span) => self.judge(&span, progress),
            None => {
                progress.send_modify(|progress| progress.possibly_lost_spans += 1);
                tracing::error!(
                    %error,
                    "the stream no longer has the shard, of which nothing was read; if it held anything, that is past the \
                     retention period"
                );
                Ok(())
            }
        }
    }

    /// While no answer comes, or none is asked for, the tip moves away. Called before a step is done again.
    pub(crate) fn watch_retention(&mut self, now: Instant, progress: &watch::Sender<ShardProgress>) {
        let Some(retention) = self.retention else { return };
        let (lag, since) = self.newest_answer;
        let lag = lag.saturating_add(now.saturating_duration_since(since));
        let alarm = self.alarm.next(lag, retention);
        if alarm > self.alarm {
            match alarm {
                RetentionAlarm::None => {}
                RetentionAlarm::Half => {
                    tracing::warn!(?lag, ?retention, "the shard is behind by half of what the stream keeps");
                }
                RetentionAlarm::FourFifths => tracing::error!(
                    ?lag,
                    ?retention,
                    "the shard is behind by four fifths of what the stream keeps; what is older than the retention period is \
                     lost: speed the application up, or have the stream keep more"
                ),
            }
        }
        self.alarm = alarm;
        progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.retention_alarm, alarm) != alarm);
    }

    fn kept(&self, now: Instant) -> Option<Kept> {
        let (clock, retention) = (self.clock?, self.retention?);
        Some(Kept { horizon: clock.at(now).checked_sub(retention)?, retention })
    }

    /// What the first records say about a position that was refused.
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
                    "the stream refuses to read on after {start}, although it still keeps older records, such as {first}: \
                     the position is not one of this shard; mend or delete its lease",
                    start = start.sequence_number,
                    first = first.sequence_number,
                ),
            ));
        }
        self.unproved_start = None;
        self.starts_at_horizon = false;
        Ok(())
    }

    fn judge(&mut self, span: &LostSpan, progress: &watch::Sender<ShardProgress>) -> Result<(), SourceError> {
        match (span.evidence, self.policy) {
            (LossEvidence::Likely, DataLossPolicy::Fail) => {
                let message = format!(
                    "records are no longer in the stream that were not read: {span}; nothing more of the shard is delivered; \
                     to go on with what is left, set the data-loss policy to CONTINUE"
                );
                if !self.is_halted {
                    self.is_halted = true;
                    progress.send_modify(|progress| progress.lost_spans += 1);
                    tracing::error!("{message}");
                }
                return Err(SourceError::new(SourceErrorKind::DataLost, message));
            }
            (LossEvidence::Likely, DataLossPolicy::Continue) => {
                progress.send_modify(|progress| progress.lost_spans += 1);
                tracing::warn!(
                    "records are no longer in the stream that were not read: {span}; going on behind them"
                );
            }
            (LossEvidence::Possible, _) => {
                progress.send_modify(|progress| progress.possibly_lost_spans += 1);
                tracing::warn!(
                    "if there were records, they are no longer in the stream and were not read: {span}"
                );
            }
        }
        Ok(())
    }
}
