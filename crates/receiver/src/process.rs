//! The process that a receiver runs in: its identity on the leases it takes, and whether the process on a lease still runs.
//!
//! Two processes may run under one worker id. The row of a lease names the process that took it, so that a restarted worker
//! knows the leases of its predecessor from those of a namesake.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use lease_store::settings_format::timestamp;
use lease_store::{Lease, ProcessIdentity, WorkerId};

use crate::assignment::namesakes::OwnerProcess;

/// The longest host name on a row, in bytes.
const MAX_HOST_BYTES: usize = 255;

/// The field of `/proc/PID/stat` with the start time of the process, counted from the one after the name.
const START_TICKS_FIELD: usize = 19;

/// The receivers of this process that run or are being started.
static LIVE_INSTANCES: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

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

fn identity_of_this_process(worker_id: &WorkerId, instance: u64) -> ProcessIdentity {
    static HOST_AND_START: OnceLock<(Option<String>, Option<u64>)> = OnceLock::new();
    let pid = std::process::id();
    let (host, start_ticks) =
        HOST_AND_START.get_or_init(|| (host_name(), start_ticks_of(pid).ok().flatten())).clone();
    // The time is shown to people; no decision uses it.
    #[allow(clippy::disallowed_methods)]
    let started = timestamp::text_to_the_second(SystemTime::now()).unwrap_or_else(|| "-".to_owned());
    ProcessIdentity { host, pid, start_ticks, started, instance, worker_id: worker_id.as_str().to_owned() }
}

/// Decides whether the process `other` runs, as seen by the process `me`.
///
/// A live process in another pid namespace of a host with the same name looks gone. So `Gone` has an effect only at the
/// first look of this process; see [`Namesakes`](crate::assignment::namesakes::Namesakes).
fn liveness_of(me: &ProcessIdentity, other: &ProcessIdentity, facts: &HostFacts<'_>) -> Liveness {
    if me.host.is_none() || me.host != other.host {
        return Liveness::Unknown;
    }
    let is_running = if me.pid == other.pid {
        me.start_ticks == other.start_ticks && (facts.is_live_instance)(other.instance)
    } else {
        match (facts.start_ticks_of)(other.pid) {
            Ok(start_ticks) => start_ticks.is_some() && start_ticks == other.start_ticks,
            Err(()) => return Liveness::Unknown,
        }
    };
    if is_running { Liveness::Alive } else { Liveness::Gone }
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
        let identity = identity_of_this_process(worker_id, instance);
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
        match liveness_of(me, &other, &facts) {
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

#[cfg(test)]
mod tests {
    use lease_store::{Position, ShardId};

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
            assert_eq!(liveness_of(&me, &other, &facts), expected, "{case}");
        }
        let unknown = identity(None, 1, Some(70), 2);
        assert_eq!(liveness_of(&unknown, &identity(None, 9, None, 1), &facts), Liveness::Unknown);
        let blind = HostFacts { start_ticks_of: &|_| Err(()), ..facts };
        assert_eq!(liveness_of(&me, &identity(Some("a"), 9, None, 1), &blind), Liveness::Unknown);
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
}
