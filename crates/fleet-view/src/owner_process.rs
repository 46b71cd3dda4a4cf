//! The process on a lease row, as the workers of this library write it. Pure.

use lease_store::{Lease, ProcessIdentity, WorkerId};
use serde::{Deserialize, Serialize};

/// The process that took a lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OwnerProcess {
    /// Its host; `None`: not known.
    pub host: Option<String>,
    /// Its process id on that host.
    pub pid: u32,
    /// When it started, as it wrote it, for people.
    pub started: String,
    /// The number of the receiver among those of its process.
    pub instance: u64,
}

impl OwnerProcess {
    /// The process of the present owner. `None`: the owner is no worker of this library. A KCL worker keeps the attribute when
    /// it takes a lease, so the text counts only if it names the owner.
    pub fn of(lease: &Lease) -> Option<Self> {
        let ProcessIdentity { host, pid, started, instance, worker_id, .. } =
            ProcessIdentity::parse(lease.owner_process.as_deref()?)?;
        let is_owner = lease.owner.as_ref().map(WorkerId::as_str) == Some(&worker_id);
        is_owner.then_some(Self { host, pid, started, instance })
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{Position, ShardId};

    use super::*;

    #[test]
    fn process_counts_only_for_its_worker() {
        let text = "host=h pid=7 ticks=- started=2026-11-30T00:00:00Z instance=2 worker=a b";
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.owner_process = Some(text.to_owned());
        assert_eq!(OwnerProcess::of(&lease), None, "the lease is unowned");
        lease.owner = Some(WorkerId::new("java").unwrap());
        assert_eq!(OwnerProcess::of(&lease), None, "a KCL worker keeps the attribute");
        lease.owner = Some(WorkerId::new("a b").unwrap());
        let process = OwnerProcess::of(&lease).unwrap();
        assert_eq!((process.host.as_deref(), process.pid, process.instance), (Some("h"), 7, 2));
        lease.owner_process = Some("a note".to_owned());
        assert_eq!(OwnerProcess::of(&lease), None);
    }
}
