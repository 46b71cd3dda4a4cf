//! The shell around `fleet-view`: reads a table and a stream into a [`Look`]. Nothing here writes.
//!
//! A call that fails leaves a [`Gap`] and the rest works; only the scan of the table cannot be done without.

pub(crate) mod clock;
pub(crate) mod gap;
mod listing;
mod mode;
mod probes;
pub(crate) mod recording;
pub(crate) mod rows;
pub(crate) mod target;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_view::{Look, ShardNotes};
use kinesis_asl::KinesisStream;
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Consistency, Lease, ShardId};
use tokio::time::Instant;

use crate::connection::ApplicationArguments;
use crate::exit_code::CommandError;
use crate::look::gap::Gap;
use crate::look::listing::Listing;
use crate::look::mode::ModeReader;
use crate::look::probes::{PROBE_INTERVAL, Probes};
use crate::look::target::Target;
use crate::look::workers::WorkerReader;
use crate::wall_clock::now_millis;

/// How a look is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LookOptions {
    /// Whether the table is read consistently, which costs twice as many read units. A plan needs it, a display does not.
    pub(crate) consistency: Consistency,
    /// How long shards may be probed for their lag; zero: not at all.
    pub(crate) probe_time: Duration,
}

impl LookOptions {
    /// For a display.
    pub(crate) fn for_display(probe_time: Duration) -> Self {
        Self { consistency: Consistency::Eventual, probe_time }
    }

    /// For a plan that is carried out: consistent, and without probes.
    pub(crate) fn for_plan() -> Self {
        Self { consistency: Consistency::Strong, probe_time: Duration::ZERO }
    }
}

/// A look, what it lacks and what it cost.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) look: Look,
    /// What could not be read.
    pub(crate) gaps: Vec<Gap>,
    /// The read units of the table.
    pub(crate) read_units: f64,
    /// How many rows the table has.
    pub(crate) rows: usize,
    /// How many shards were probed.
    pub(crate) probed: usize,
}

/// Looks at one application, again and again.
#[derive(Debug)]
pub(crate) struct Observer {
    target: Target,
    listing: Listing,
    mode: ModeReader,
    workers: WorkerReader,
    probes: Probes,
    /// The time of the newest look, in milliseconds since 1970.
    newest_millis: u64,
}

impl Observer {
    /// Finds the table and the stream of the application.
    ///
    /// # Errors
    /// When the table cannot be read, is no lease table, or has leases of several streams and none is named.
    pub(crate) async fn open(arguments: &ApplicationArguments) -> Result<Self, CommandError> {
        Ok(Self::of(Target::find(arguments).await?))
    }

    /// An observer of this table and stream.
    pub(crate) fn of(target: Target) -> Self {
        Self {
            target,
            listing: Listing::default(),
            mode: ModeReader::default(),
            workers: WorkerReader::default(),
            probes: Probes::default(),
            newest_millis: 0,
        }
    }

    /// The table.
    pub(crate) fn store(&self) -> &DynamoDbLeaseStore {
        &self.target.store
    }

    /// The stream; `None`: nothing names it.
    pub(crate) fn stream(&self) -> Option<&KinesisStream> {
        self.target.stream.as_ref()
    }

    /// Makes a look. The first one may use the scan by which the stream was found.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub(crate) async fn look(&mut self, options: LookOptions) -> Result<Looked, CommandError> {
        let Self { target, listing, mode, workers, probes, newest_millis } = self;
        let stream = target.stream.as_ref();
        let listed = async {
            if let Some(stream) = stream {
                listing.refresh(stream).await;
            }
        };
        let first = target.first_rows.take().filter(|_| options.consistency == Consistency::Eventual);
        let scanned = async {
            match first {
                Some(rows) => Ok(rows),
                None => rows::scan(&target.store, options.consistency).await,
            }
        };
        let reported = async {
            mode.refresh(&target.store).await;
            workers.refresh(&target.store, mode.is_kcl_3, options.consistency).await;
        };
        let (rows, (), ()) = tokio::join!(scanned, listed, reported);
        let mut rows = rows?;
        let own_millis = now_millis();
        let corrected = listing.time.map_or(own_millis, |time| time.correct(own_millis, Instant::now()));
        // A correction does not make a look older than the one before it.
        let taken_at_millis = corrected.max(newest_millis.saturating_add(1));
        *newest_millis = taken_at_millis;
        rows.leases.sort_by(|one, other| one.shard_id.cmp(&other.shard_id));
        let mut gaps = listing.gaps.clone();
        gaps.extend(mode.gap.clone());
        gaps.extend(workers.gap.clone());
        if stream.is_none() {
            gaps.push(Gap {
                unknown: "the stream",
                missing_action: None,
                reason: "the rows do not name it; set --stream".to_owned(),
            });
        }
        let mut probed = 0;
        if let Some(stream) = stream.filter(|_| !options.probe_time.is_zero()) {
            let deadline = Instant::now() + options.probe_time;
            let round =
                probes.run(stream, &unreported(&rows.leases, listing, taken_at_millis), deadline).await;
            probed = round.measured;
            gaps.extend(round.gap.or_else(|| too_slow(round.left)));
        }
        let count = rows.count();
        let notes = rows.leases.iter().map(|lease| (lease.shard_id.clone(), notes_of(lease, probes)));
        let notes: BTreeMap<ShardId, ShardNotes> =
            notes.filter(|(_, notes)| *notes != ShardNotes::default()).collect();
        let mut look = Look {
            taken_at_millis,
            application: target.application.clone(),
            leases: rows.leases,
            malformed: rows.malformed,
            foreign: rows.foreign,
            shards: listing.shards.clone(),
            stream: listing.summary.clone(),
            workers: workers.with_rows(rows.workers),
            notes,
            mode: mode.mode,
        };
        look.note_operators();
        look.note_lags();
        Ok(Looked { look, gaps, read_units: rows.read_units, rows: count, probed })
    }
}

/// The gap of shards that were not probed in time.
fn too_slow(left: usize) -> Option<Gap> {
    (left > 0).then(|| Gap {
        unknown: "the lag of some shards",
        missing_action: None,
        reason: format!("{left} shards are measured by the next looks, or in a longer --probe-time"),
    })
}

/// The leases of listed shards whose lag no worker reported lately.
fn unreported<'a>(leases: &'a [Lease], listing: &Listing, now_millis: u64) -> Vec<&'a Lease> {
    let mut listed: Option<Vec<&ShardId>> =
        listing.shards.as_ref().map(|shards| shards.iter().map(|shard| &shard.shard_id).collect());
    if let Some(listed) = &mut listed {
        listed.sort_unstable();
    }
    let is_listed =
        |lease: &&Lease| listed.as_ref().is_none_or(|listed| listed.binary_search(&&lease.shard_id).is_ok());
    leases.iter().filter(is_listed).filter(|lease| !is_reported(lease, now_millis)).collect()
}

/// Whether the owner reported its lag with its newest write, and lately enough to need no probe.
fn is_reported(lease: &Lease, now_millis: u64) -> bool {
    lease.lag_report().is_some_and(|report| {
        let age = now_millis.saturating_sub(report.measured_at_millis);
        u128::from(age) <= PROBE_INTERVAL.as_millis()
    })
}

/// What the row and the probes tell of a shard beyond its lease.
fn notes_of(lease: &Lease, probes: &Probes) -> ShardNotes {
    ShardNotes { lag: probes.sample(&lease.shard_id).cloned(), ..ShardNotes::default() }
}
