//! How often the table is read: within a budget of read units that grows with the number of its leases. Pure.

use std::time::Duration;

/// How many leases allow one read unit in a second.
const LEASES_PER_READ_UNIT: usize = 100;

/// The longest wait between two looks. A verdict needs several of them.
const MAX_LOOK_INTERVAL: Duration = Duration::from_secs(120);

/// The wait from one look to the next: the asked one, or longer if the last scan cost more than the budget allows.
pub(crate) fn next_interval(asked: Duration, rows: usize, read_units: f64) -> Duration {
    let units_per_second = rows.div_ceil(LEASES_PER_READ_UNIT).max(1);
    // Far fewer than 2^52 rows.
    #[allow(clippy::cast_precision_loss)]
    let seconds = read_units.max(0.0) / units_per_second as f64;
    let least = Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LOOK_INTERVAL);
    asked.max(least.min(MAX_LOOK_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_stay_within_one_read_unit_for_100_leases() {
        let asked = Duration::from_secs(10);
        assert_eq!(next_interval(asked, 4, 0.5), asked);
        assert_eq!(next_interval(asked, 2_000, 150.0), asked);
        assert_eq!(next_interval(asked, 2_000, 400.0), Duration::from_secs(20));
        assert_eq!(next_interval(asked, 1, 30.0), Duration::from_secs(30));
        assert_eq!(next_interval(asked, 0, f64::INFINITY), MAX_LOOK_INTERVAL);
        assert_eq!(next_interval(asked, 10, f64::NAN), asked);
    }
}
