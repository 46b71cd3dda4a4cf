//! The changes that the page may make: the same operations, checks and words as those of the commands.

use std::sync::Arc;

use axum::body::Bytes;
use fleet_view::plan::Scope;
use lease_store::ShardId;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::guard::Guard;
use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, usage};
use crate::look::Observer;
use crate::operate::arguments::PlanArguments;
use crate::operate::carry_out::Outcome;
use crate::operate::order::{Given, Order, PauseEnd, Shards};
use crate::operate::reset_target::reset_point;
use crate::time_argument::parse_duration;
use crate::wall_clock::now_millis;

/// The largest body of a request, in bytes: the ids of 1,000 shards.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The longest name of a person.
const MAX_NAME_CHARS: usize = 100;

/// What a person does to carry a shown plan out.
const TO_EXECUTE: &str = "carry it out to act";

/// A request for a change, as the page sends it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    action: Action,
    /// The shards; left out with `all`.
    #[serde(default)]
    shards: Vec<String>,
    /// All shards. It must be said, so that an empty list changes nothing.
    #[serde(default)]
    all: bool,
    /// For a pause: how long, such as `30m`.
    #[serde(default, rename = "for")]
    for_time: Option<String>,
    /// For a pause: who pauses.
    #[serde(default)]
    by: Option<String>,
    /// For a reset: `trim-horizon`, `latest`, a time or a duration.
    #[serde(default)]
    to: Option<String>,
    /// For a reset of some shards: those that came from them, too.
    #[serde(default)]
    with_descendants: bool,
    /// For a release or a reset: live owners are asked.
    #[serde(default)]
    live: bool,
    /// For a reset to a time: although workers of the KCL ignore it.
    #[serde(default)]
    even_with_kcl: bool,
    /// Carries the plan out; otherwise it is only shown.
    #[serde(default)]
    execute: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Pause,
    Resume,
    Release,
    Reset,
}

/// The answer to a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    /// What the command prints.
    lines: Vec<String>,
    /// Whether the plan must not be carried out.
    is_refused: bool,
    /// How many rows the plan changes.
    changes: usize,
    /// Whether something was changed.
    is_executed: bool,
    /// Whether all of it was.
    is_done: bool,
}

/// Makes changes, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) guard: Guard,
    application: ApplicationArguments,
    under_way: Arc<Mutex<()>>,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another one is being carried out.
    Busy,
    /// The request is not valid, or a service failed.
    Error(CommandError),
}

impl Orders {
    pub(crate) fn new(guard: Guard, application: ApplicationArguments) -> Self {
        Self { guard, application, under_way: Arc::default() }
    }

    /// Carries a request out to its end, also when the browser that sent it is gone.
    pub(crate) async fn take(&self, body: Bytes) -> Result<Answer, Failure> {
        let request: Request = serde_json::from_slice(&body)
            .map_err(|error| Failure::Error(usage(format!("the request is not valid: {error}"))))?;
        let order = request.order(now_millis()).map_err(Failure::Error)?;
        let alone = self.under_way.clone().try_lock_owned().map_err(|_| Failure::Busy)?;
        let application = self.application.clone();
        let carrying_out = tokio::spawn(async move {
            let _alone = alone;
            let mut observer = Observer::open(&application).await?;
            let given = order.give(&mut observer, PlanArguments::default_times(), request.execute).await?;
            if request.execute {
                eprintln!(
                    "kinesis-streaming: change through the page: {order:?}: {} rows",
                    given.plan.changes.len()
                );
            }
            Ok(answer(&given))
        });
        match carrying_out.await {
            Ok(answered) => answered.map_err(Failure::Error),
            Err(error) => {
                Err(Failure::Error(usage(format!("the change ended: {error}; look at the shards"))))
            }
        }
    }
}

impl Request {
    /// The operation that is asked for.
    fn order(&self, now_millis: u64) -> Result<Order, CommandError> {
        let shards = self.shards()?;
        Ok(match self.action {
            Action::Pause => {
                let (end, by) = self.pause()?;
                Order::Pause { shards, end, by }
            }
            Action::Resume => Order::Resume { shards },
            Action::Release => Order::Release { shards, is_live: self.live },
            Action::Reset => {
                let asked = self.to.as_deref().unwrap_or_default();
                let to = reset_point(asked, now_millis).ok_or_else(|| {
                    usage(format!("{asked:?} is no trim-horizon, latest, time or duration; write 2h, or 2026-11-30T07:30:00Z"))
                })?;
                let with_descendants = self.with_descendants;
                let scope = shards.map_or(Scope::All, |shards| Scope::Shards { shards, with_descendants });
                Order::Reset { scope, to, is_live: self.live, even_with_kcl: self.even_with_kcl }
            }
        })
    }

    fn shards(&self) -> Result<Shards, CommandError> {
        if self.shards.is_empty() != self.all {
            return Err(usage("name shards, or all of them, and not both"));
        }
        if self.all {
            return Ok(None);
        }
        let id = |text: &String| ShardId::new(text.clone()).map_err(|error| usage(error.to_string()));
        self.shards.iter().map(id).collect::<Result<_, _>>().map(Some)
    }

    fn pause(&self) -> Result<(PauseEnd, String), CommandError> {
        let Some(time) = &self.for_time else { return Err(usage("a pause needs an end, such as 30m")) };
        let time = parse_duration(time).map_err(usage)?;
        let by = self.by.as_deref().map(str::trim).filter(|by| !by.is_empty()).unwrap_or("the page");
        if by.chars().count() > MAX_NAME_CHARS || by.chars().any(char::is_control) {
            return Err(usage(format!(
                "the name must have at most {MAX_NAME_CHARS} characters, and none that moves a cursor"
            )));
        }
        Ok((PauseEnd::After(time), by.to_owned()))
    }
}

fn answer(given: &Given) -> Answer {
    let mut lines = given.report().lines(TO_EXECUTE);
    lines.extend(given.objection.as_ref().map(|objection| format!("refused: {objection}")));
    let outcomes = given.outcomes.as_deref();
    Answer {
        lines,
        is_refused: given.plan.is_refused() || given.objection.is_some(),
        changes: given.plan.changes.len(),
        is_executed: outcomes.is_some(),
        is_done: outcomes.is_some_and(|outcomes| outcomes.iter().all(|one| one.outcome == Outcome::Done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Result<Order, String> {
        let request: Request = serde_json::from_str(json).map_err(|error| error.to_string())?;
        request.order(1_700_000_000_000).map_err(|error| error.to_string())
    }

    /// tchiotludo/akhq #1000: a dialog chose all of them, and reported success when none was chosen.
    #[test]
    fn shards_or_all_of_them_must_be_named() {
        assert!(matches!(order(r#"{"action":"resume","all":true}"#), Ok(Order::Resume { shards: None })));
        for json in [
            r#"{"action":"resume"}"#,
            r#"{"action":"resume","shards":[]}"#,
            r#"{"action":"resume","shards":["shardId-1"],"all":true}"#,
        ] {
            assert!(order(json).unwrap_err().contains("name shards"), "{json}");
        }
    }

    #[test]
    fn requests_that_are_not_valid_name_their_fault() {
        for (json, part) in [
            (r#"{"action":"delete","all":true}"#, "unknown variant"),
            (r#"{"action":"pause","all":true,"surprise":1}"#, "unknown field"),
            (r#"{"action":"pause","all":true}"#, "needs an end"),
            (r#"{"action":"pause","all":true,"for":"soon"}"#, "soon"),
            (r#"{"action":"pause","all":true,"for":"1h","by":"a\u001b[2J"}"#, "cursor"),
            (r#"{"action":"reset","all":true}"#, "is no trim-horizon"),
            // A file of the server is no target.
            (r#"{"action":"reset","all":true,"to":"Cargo.toml"}"#, "is no trim-horizon"),
        ] {
            let fault = order(json).unwrap_err();
            assert!(fault.contains(part), "{part} is not in {fault}");
        }
    }
}
