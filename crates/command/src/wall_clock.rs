//! The wall clock: looks, positions and records have times that people read. No decision about ownership depends on it.

use std::time::SystemTime;

/// The time in milliseconds since 1970.
// Looks are shown to people, with the times of the service beside them.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now_millis() -> u64 {
    millis_of(SystemTime::now())
}

/// A time in milliseconds since 1970. A time before 1970 counts as 0.
pub(crate) fn millis_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that a number of milliseconds since 1970 stands for.
pub(crate) fn time_of(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(millis))
}
