//! Watches whether the workers of the fleet may take leases on their own, or a KCL 3.x leader assigns them.

use std::sync::Arc;

use fastrand::Rng;
use lease_store::{LeaseStore, StoreError, StoreErrorKind};
use tokio::time::{Duration, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::jittered;
use crate::handle::Shared;

/// How often the mode is read. With the jitter of a tenth, and the time limit of a read, at least every 60 s.
const CHECK_INTERVAL: Duration = Duration::from_secs(48);

/// How long one read may take.
const CHECK_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The mode of the fleet, as last read. A read that failed changes nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct FleetMode {
    /// Why this worker takes no leases.
    refusal: Option<String>,
    warning: Option<String>,
}

/// The change that a new answer brings, to be logged.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Refused(String),
    Allowed,
    Warning(String),
}

impl FleetMode {
    /// Records an answer. Returns what is new.
    fn record(&mut self, answer: &Result<Option<String>, StoreError>) -> Option<News> {
        let (refusal, warning) = match answer {
            Ok(warning) => (None, warning.clone()),
            Err(error) if error.kind() == StoreErrorKind::Invalid => (Some(error.to_string()), None),
            Err(_) => return None,
        };
        let news = match (&self.refusal, &refusal, &warning) {
            (old, Some(new), _) if old.as_ref() != Some(new) => Some(News::Refused(new.clone())),
            (Some(_), None, _) => Some(News::Allowed),
            (_, None, Some(new)) if self.warning.as_ref() != Some(new) => Some(News::Warning(new.clone())),
            _ => None,
        };
        *self = Self { refusal, warning };
        news
    }
}

/// Reads the mode at least every minute and shows a refusal in the status, until the handle is dropped.
pub(super) fn watch(store: Arc<dyn LeaseStore>, shared: Arc<Shared>, mut rng: Rng) -> AbortOnDropHandle<()> {
    let watching = async move {
        let mut mode = FleetMode::default();
        loop {
            let answer = match tokio::time::timeout(CHECK_TIME_LIMIT, store.check_fleet_mode()).await {
                Ok(answer) => answer,
                Err(_) => Err(StoreError::new(
                    StoreErrorKind::Unavailable,
                    format!("no answer within {CHECK_TIME_LIMIT:?}"),
                )),
            };
            if let Err(error) = answer.as_ref().map_err(StoreError::kind) {
                tracing::debug!(kind = ?error, "reading the mode of the fleet failed, or it is refused");
            }
            match mode.record(&answer) {
                Some(News::Refused(text)) => {
                    tracing::error!("this worker takes no more leases: {text}");
                }
                Some(News::Allowed) => {
                    tracing::info!("this worker takes leases again, the mode of the fleet allows it");
                }
                Some(News::Warning(text)) => tracing::warn!("{text}"),
                None => {}
            }
            shared.live().takes_refused.clone_from(&mode.refusal);
            sleep(jittered(CHECK_INTERVAL, &mut rng)).await;
        }
    };
    AbortOnDropHandle::new(tokio::spawn(watching.instrument(tracing::Span::current())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_the_mode_is_logged_once() {
        let refused = |text: &str| Err(StoreError::invalid(text.to_owned()));
        let warned = |text: &str| Ok(Some(text.to_owned()));
        let unread = || Err(StoreError::new(StoreErrorKind::Throttled, "later"));
        let mut mode = FleetMode::default();
        for (answer, news, is_refused) in [
            (Ok(None), None, false),
            (warned("a"), Some(News::Warning("a".to_owned())), false),
            (warned("a"), None, false),
            (unread(), None, false),
            (refused("b"), Some(News::Refused("b".to_owned())), true),
            (unread(), None, true),
            (refused("b"), None, true),
            (refused("c"), Some(News::Refused("c".to_owned())), true),
            (warned("a"), Some(News::Allowed), false),
            (Ok(None), None, false),
            (warned("a"), Some(News::Warning("a".to_owned())), false),
        ] {
            assert_eq!(mode.record(&answer), news, "{answer:?}");
            assert_eq!(mode.refusal.is_some(), is_refused, "{answer:?}");
        }
    }

    #[test]
    fn the_mode_is_read_at_least_every_minute() {
        let longest = CHECK_INTERVAL.mul_f64(1.1) + CHECK_TIME_LIMIT;
        assert!(longest < Duration::from_secs(60), "{longest:?}");
    }
}
