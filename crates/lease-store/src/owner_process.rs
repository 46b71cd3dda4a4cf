//! The process that took a lease: the text of one attribute of its row.

use std::fmt;

/// The longest text of a row that is read as an identity, in bytes.
const MAX_TEXT_BYTES: usize = 2048;

/// The identity of one receiver in one process; see [`Lease::owner_process`](crate::Lease::owner_process).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// The host, without blanks. `None`: not known; then no other process counts as one of the same host.
    pub host: Option<String>,
    /// The process id on that host.
    pub pid: u32,
    /// The start of the process by the clock of the kernel, in ticks since it booted. It distinguishes two processes with the
    /// same pid. `None`: not known.
    pub start_ticks: Option<u64>,
    /// The start of the receiver for people, in UTC, without blanks. Nothing is decided by it.
    pub started: String,
    /// The number of this receiver among those of its process.
    pub instance: u64,
    /// The worker id. A KCL worker keeps the attribute when it takes the lease, so the identity counts only while this worker
    /// owns the lease.
    pub worker_id: String,
}

impl ProcessIdentity {
    /// Reads the text of a row. `None`: another writer has used the attribute for something else.
    pub fn parse(text: &str) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn identity_survives_its_text(
            host in proptest::option::of("[a-z0-9.]{1,20}"),
            (pid, start_ticks, instance) in any::<(u32, Option<u64>, u64)>(),
            worker_id in ".{0,40}",
        ) {
            let started = "2026-11-29T20:00:00Z".to_owned();
            let identity = ProcessIdentity { host, pid, start_ticks, started, instance, worker_id };
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
