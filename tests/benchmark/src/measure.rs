//! What a process uses, as the kernel counts it. Linux only.

use std::fs;
use std::time::Duration;

/// The unit of times in `/proc/PID/stat`: 100 in a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The time that this process has run so far, user and system, over its threads that live.
pub(crate) fn cpu_time() -> Option<Duration> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let nanos = tasks.filter_map(|task| {
        let statistics = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        statistics.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanos.sum()))
}

/// The time that another process has run so far, user and system, with that of threads that have ended.
pub(crate) fn cpu_time_of(process: u32) -> Option<Duration> {
    let statistics = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything; behind it the times are the 12th and the 13th.
    let mut times = statistics.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (times.next()?.parse::<u32>().ok()?, times.next()?.parse::<u32>().ok()?);
    Some(TICK * (user + system))
}

/// A figure of `/proc/PID/status` in bytes: `VmRSS` is what a process has in memory, `VmHWM` the most it had.
pub(crate) fn memory_bytes(process: Option<u32>, name: &str) -> Option<u64> {
    let process = process.map_or_else(|| "self".to_owned(), |process| process.to_string());
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The load of the machine over the last minute.
pub(crate) fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The name of the processor.
pub(crate) fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}
