//! The process that a receiver runs in: its identity on the leases it takes, and whether the process on a lease still runs.
//!
//! Two processes may run under one worker id. The row of a lease names the process that took it, so that a restarted worker
//! knows the leases of its predecessor from those of a namesake.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lease_store::{Lease, WorkerId};

use crate::assignment::namesakes::OwnerProcess;

/// The longest host name on a row, in bytes.
const MAX_HOST_BYTES: usize = 255;

/// The longest text of a row that is read as an identity, in bytes.
const MAX_TEXT_BYTES: usize = 2048;

/// The field of `/proc/PID/stat` with the start time of the process, counted from the one after the name.
const START_TICKS_FIELD: usize = 19;

/// The receivers of this process that run or are being started.
static LIVE_INSTANCES: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

/// The identity of one receiver in one process. Its text is one attribute of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// `None`: not known; then no other process counts as one of the same host.
    host: Option<String>,
    pid: u32,
    /// The start of the process by the clock of the kernel. It distinguishes two processes with the same pid. `None`: not
    /// known.
    start_ticks: Option<u64>,
    /// The start of the receiver for people, in UTC. Nothing is decided by it.
    started: String,
    /// The number of this receiver among those of its process.
    instance: u64,
    /// A KCL worker keeps the attribute when it takes the lease, so it counts only while this worker owns the lease.
    worker_id: String,
}

/// Whether the process of an identity runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    Alive,
    Gone,
    /// The process belongs to another host, so this host cannot find out.
    Unknown,
}

/// The facts about the processes of this host that a decision needs.
struct HostFacts<'a> {
    /// Whether this receiver of this process runs.
    is_live_instance: &'a dyn Fn(u64) -> bool,
    /// The start of the process with this pid; `None` without such a process. `Err`: this host does not report it.
    start_ticks_of: &'a dyn Fn(u32) -> Result<Option<u64>, ()>,
}

impl ProcessIdentity {
    fn of_this_process(worker_id: &WorkerId, instance: u64) -> Self {
        static HOST_AND_START: OnceLock<(Option<String>, Option<u64>)> = OnceLock::new();
        let pid = std::process::id();
        let (host, start_ticks) =
            HOST_AND_START.get_or_init(|| (host_name(), start_ticks_of(pid).ok().flatten())).clone();
        // The time is shown to people; no decision uses it.
        #[allow(clippy::disallowed_methods)]
        let started = utc_text(SystemTime::now());
        Self { host, pid, start_ticks, started, instance, worker_id: worker_id.as_str().to_owned() }
    }

    /// Reads the text of a row. `None`: another writer has used the attribute for something else.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let (fields, worker_id) = text.split_once(" worker=")?;
        let mut fields = fields.split(' ');
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let host = field("host")?;
        let pid = field("pid")?.parse().ok()?;
        let start_ticks = field("ticks")?.parse().ok();
        let started = field("started")?.to_owned();
        let instance = field("instance")?.parse().ok()?;
        let host = (host != "-").then(|| host.to_owned());
        Some(Self { host, pid, start_ticks, started, instance, worker_id: worker_id.to_owned() })
    }

    /// Decides whether the process of another identity runs.
    ///
    /// A live process in another pid namespace of a host with the same name looks gone. So `Gone` has an effect only at the
    /// first look of this process; see [`Namesakes`](crate::assignment::namesakes::Namesakes).
    fn liveness_of(&self, other: &Self, facts: &HostFacts<'_>) -> Liveness {
        if self.host.is_none() || self.host != other.host {
            return Liveness::Unknown;
        }
        let is_running = if self.pid == other.pid {
            self.start_ticks == other.start_ticks && (facts.is_live_instance)(other.instance)
        } else {
            match (facts.start_ticks_of)(other.pid) {
                Ok(start_ticks) => start_ticks.is_some() && start_ticks == other.start_ticks,
                Err(()) => return Liveness::Unknown,
            }
        };
        if is_running { Liveness::Alive } else { Liveness::Gone }
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("-");
        let Self { pid, started, instance, worker_id, .. } = self;
        let ticks = self.start_ticks.map_or_else(|| "-".to_owned(), |ticks| ticks.to_string());
        write!(
            formatter,
            "host={host} pid={pid} ticks={ticks} started={started} instance={instance} worker={worker_id}"
        )
    }
}

/// The identity of a receiver, which counts as alive until the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct LiveProcess(Arc<Registered>);

#[derive(Debug)]
struct Registered {
    identity: ProcessIdentity,
    text: String,
}

impl LiveProcess {
    pub(crate) fn register(worker_id: &WorkerId) -> Self {
        let instance = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        live_instances().insert(instance);
        let identity = ProcessIdentity::of_this_process(worker_id, instance);
        let text = identity.to_string();
        Self(Arc::new(Registered { identity, text }))
    }

    /// The text for the rows of this receiver's leases.
    pub(crate) fn text(&self) -> &str {
        &self.0.text
    }

    /// Which process the row names, if its owner is this worker.
    pub(crate) fn owner_of(&self, lease: &Lease) -> OwnerProcess {
        let Some(text) = lease.owner_process.as_deref() else { return OwnerProcess::Unnamed };
        if text == self.text() {
            return OwnerProcess::This;
        }
        let me = &self.0.identity;
        let Some(other) = ProcessIdentity::parse(text).filter(|other| other.worker_id == me.worker_id) else {
            return OwnerProcess::Unnamed;
        };
        let facts = HostFacts {
            is_live_instance: &|instance| live_instances().contains(&instance),
            start_ticks_of: &start_ticks_of,
        };
        match me.liveness_of(&other, &facts) {
            Liveness::Gone => OwnerProcess::Gone,
            Liveness::Alive | Liveness::Unknown => OwnerProcess::Other,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        live_instances().remove(&self.identity.instance);
    }
}

fn live_instances() -> std::sync::MutexGuard<'static, BTreeSet<u64>> {
    LIVE_INSTANCES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of this host, without blanks.
pub(crate) fn host_name() -> Option<String> {
    let of_kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = of_kernel.or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    let is_usable = !name.is_empty() && name != "-" && name.len() <= MAX_HOST_BYTES;
    (is_usable && !name.contains(char::is_whitespace)).then(|| name.to_owned())
}

/// The start of a process of this host by the clock of its kernel; `None` without such a process. `Err`: there is no `/proc`.
fn start_ticks_of(pid: u32) -> Result<Option<u64>, ()> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(start_ticks_in(&stat)),
        Err(_) if fs::exists("/proc/self/stat").unwrap_or(false) => Ok(None),
        Err(_) => Err(()),
    }
}

/// The name in front of the fields may contain blanks and parentheses.
fn start_ticks_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(START_TICKS_FIELD)?.parse().ok()
}

/// An instant in UTC, to the second.
fn utc_text(at: SystemTime) -> String {
    const SECONDS_PER_DAY: u64 = 86_400;
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    // Days since 1 March of year 0, so that the leap day is the last day of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lease_store::{Position, ShardId};
    use proptest::prelude::*;

    use super::*;

    fn identity(host: Option<&str>, pid: u32, start_ticks: Option<u64>, instance: u64) -> ProcessIdentity {
        ProcessIdentity {
            host: host.map(str::to_owned),
            pid,
            start_ticks,
            started: "2026-11-29T20:00:00Z".to_owned(),
            instance,
            worker_id: "w".to_owned(),
        }
    }

    #[test]
    fn process_on_the_same_host_is_gone_or_alive() {
        let me = identity(Some("a"), 1, Some(70), 2);
        let facts = HostFacts {
            is_live_instance: &|instance| instance == 3,
            start_ticks_of: &|pid| Ok((pid == 8).then_some(50)),
        };
        for (case, other, expected) in [
            ("a live receiver of this process", identity(Some("a"), 1, Some(70), 3), Liveness::Alive),
            ("a receiver of this process that ended", identity(Some("a"), 1, Some(70), 1), Liveness::Gone),
            ("the container before a restart", identity(Some("a"), 1, Some(60), 3), Liveness::Gone),
            ("a live process", identity(Some("a"), 8, Some(50), 1), Liveness::Alive),
            ("a process that had this pid before", identity(Some("a"), 8, Some(40), 1), Liveness::Gone),
            ("a process without a known start", identity(Some("a"), 8, None, 1), Liveness::Gone),
            ("a process that ended", identity(Some("a"), 9, Some(50), 1), Liveness::Gone),
            ("another host", identity(Some("b"), 1, Some(70), 1), Liveness::Unknown),
            ("an unknown host", identity(None, 1, Some(70), 1), Liveness::Unknown),
        ] {
            assert_eq!(me.liveness_of(&other, &facts), expected, "{case}");
        }
        let unknown = identity(None, 1, Some(70), 2);
        assert_eq!(unknown.liveness_of(&identity(None, 9, None, 1), &facts), Liveness::Unknown);
        let blind = HostFacts { start_ticks_of: &|_| Err(()), ..facts };
        assert_eq!(me.liveness_of(&identity(Some("a"), 9, None, 1), &blind), Liveness::Unknown);
    }

    #[test]
    fn dropped_receiver_of_this_process_is_gone() {
        let worker_id = WorkerId::new("w").unwrap();
        let (me, other) = (LiveProcess::register(&worker_id), LiveProcess::register(&worker_id));
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        assert_eq!(me.owner_of(&lease), OwnerProcess::Unnamed);
        lease.owner_process = Some(me.text().to_owned());
        assert_eq!(me.owner_of(&lease), OwnerProcess::This);
        lease.owner_process = Some(other.text().to_owned());
        assert_eq!(me.owner_of(&lease), OwnerProcess::Other);
        drop(other);
        if me.0.identity.host.is_some() {
            assert_eq!(me.owner_of(&lease), OwnerProcess::Gone);
        }
        let namesake_of_another = LiveProcess::register(&WorkerId::new("v").unwrap());
        lease.owner_process = Some(namesake_of_another.text().to_owned());
        assert_eq!(me.owner_of(&lease), OwnerProcess::Unnamed, "the owner in the row is another worker");
        lease.owner_process = Some("a note of the team".to_owned());
        assert_eq!(me.owner_of(&lease), OwnerProcess::Unnamed);
    }

    #[test]
    fn start_is_read_from_a_stat_with_an_odd_name() {
        let stat =
            "23537 (a (b) 7 ) R 23531 23531 29906 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 486870 3133440 363";
        assert_eq!(start_ticks_in(stat), Some(486_870));
        assert_eq!(start_ticks_in("23537 (a) R 1"), None);
        assert_eq!(start_ticks_in(""), None);
    }

    #[test]
    fn instants_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_796_000_461, "2026-11-30T01:01:01Z"),
        ] {
            assert_eq!(utc_text(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    proptest! {
        #[test]
        fn identity_survives_its_text(
            host in proptest::option::of("[a-z0-9.]{1,20}"),
            (pid, start_ticks, instance) in any::<(u32, Option<u64>, u64)>(),
            worker_id in ".{0,40}",
        ) {
            let identity = ProcessIdentity { worker_id, ..identity(host.as_deref(), pid, start_ticks, instance) };
            prop_assert_eq!(ProcessIdentity::parse(&identity.to_string()), Some(identity));
        }

        #[test]
        fn any_text_is_an_identity_or_none(text in ".{0,200}") {
            if let Some(identity) = ProcessIdentity::parse(&text) {
                prop_assert_eq!(ProcessIdentity::parse(&identity.to_string()), Some(identity));
            }
        }
    }
}
