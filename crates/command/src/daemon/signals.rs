//! Which signal after the first is a second one. Pure but for [`second_signal`].

use std::time::Duration;

use kinesis_streaming::{ShutdownSignal, shutdown_signal};
use tokio::time::Instant;

/// How long the same signal again is still the first one: a launcher passes on what the terminal, or a supervisor that signals a
/// whole group, delivers to this process too.
const ONE_SIGNAL_TIME: Duration = Duration::from_secs(1);

/// Whether a signal is the first one, delivered again.
fn is_first_again(first: Option<ShutdownSignal>, second: ShutdownSignal, after: Duration) -> bool {
    first == Some(second) && after < ONE_SIGNAL_TIME
}

/// The next signal that is not the first one delivered again. `None`: nothing asked for the stop by a signal.
pub(super) async fn second_signal(first: Option<ShutdownSignal>) -> ShutdownSignal {
    let first_at = Instant::now();
    loop {
        let second = shutdown_signal().await.unwrap_or(ShutdownSignal::Terminate);
        if !is_first_again(first, second, first_at.elapsed()) {
            return second;
        }
    }
}

#[cfg(test)]
mod tests {
    use ShutdownSignal::{Interrupt, Terminate};

    use super::*;

    #[test]
    fn same_signal_counts_again_only_later() {
        let soon = ONE_SIGNAL_TIME / 2;
        for (first, second, after, expected) in [
            (Some(Terminate), Terminate, soon, true),
            (Some(Interrupt), Interrupt, soon, true),
            (Some(Interrupt), Interrupt, ONE_SIGNAL_TIME, false),
            (Some(Terminate), Interrupt, soon, false),
            (None, Terminate, soon, false),
        ] {
            assert_eq!(is_first_again(first, second, after), expected, "{first:?} {second:?} {after:?}");
        }
    }
}
