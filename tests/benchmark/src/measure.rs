//! The resources that a process uses, as the Linux kernel counts them.

use std::fs;
use std::time::Duration;

/// The unit of times in `/proc/PID/stat`: 1/100 s on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Returns the user and system time of this process, over its live threads.
pub(crate) fn cpu_time() -> Option<Duration> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let nanos = tasks.filter_map(|task| {
        let statistics = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        statistics.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanos.sum()))
}

/// Returns the user and system time of another process, including ended threads.
pub(crate) fn cpu_time_of(process: u32) -> Option<Duration> {
    let statistics = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program name in parentheses may contain anything; after it the times are the 12th and 13th field.
    let mut times = statistics.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (times.next()?.parse::<u32>().ok()?, times.next()?.parse::<u32>().ok()?);
    Some(TICK * (user + system))
}

/// Returns a figure of `/proc/PID/status` in bytes: `VmRSS` is the resident memory, `VmHWM` its peak.
pub(crate) fn memory_bytes(process: Option<u32>, name: &str) -> Option<u64> {
    let process = process.map_or_else(|| "self".to_owned(), |process| process.to_string());
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Returns the load of the machine over the last minute.
pub(crate) fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// Returns the name of the processor.
pub(crate) fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}
