//! The load of an application as a few numbers, and how many workers it wants. Pure.
//!
//! The number of workers follows the lag and the shards that have waiting records, not the number of shards: an idle shard needs no
//! worker. A shard is read by one worker, so more workers than shards with waiting records do not help.

use clap::Args;
use fleet_view::{FleetView, ShardState, Verdict};
use serde::Serialize;

use crate::time_argument::parse_duration;

/// The most by which one step may multiply the workers. The next look sees what the step did.
const MAX_GROWTH_PERCENT: u64 = 200;

/// What a scaler aims at.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScaleGoal {
    /// The lag up to which the workers are enough
    #[arg(long, value_name = "DURATION", value_parser = parse_millis, default_value = "60s")]
    pub(crate) target_lag: u64,

    /// The fewest workers that are wanted while no record waits
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) min_workers: u64,

    /// The most workers that are ever wanted
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_workers: Option<u64>,
}

fn parse_millis(text: &str) -> Result<u64, String> {
    let millis = parse_duration(text)?.as_millis();
    u64::try_from(millis).ok().filter(|millis| *millis > 0).ok_or_else(|| format!("{text:?} must be above 0"))
}

/// The load of an application. A scaler reads these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Load {
    /// The application.
    pub(crate) application: String,
    /// The age of the oldest waiting record of all shards; `None`: not known.
    pub(crate) behind_millis: Option<u64>,
    /// The verdict about the application.
    pub(crate) verdict: Verdict,
    /// The workers that own shards.
    pub(crate) workers: u64,
    /// The workers that the load wants.
    pub(crate) wanted_workers: u64,
    /// The shards that can be read now.
    pub(crate) shards: u64,
    /// Those in which records wait, or may wait.
    pub(crate) waiting_shards: u64,
    /// When records are lost at the present pace; `None`: no loss is in sight.
    pub(crate) loss_in_millis: Option<u64>,
}

impl Load {
    /// The load by the newest look.
    pub(crate) fn of(view: &FleetView, goal: &ScaleGoal) -> Self {
        let mut needs = Vec::new();
        let mut shards = 0;
        for shard in &view.snapshot.shards {
            let verdict = view.verdict.shards.get(&shard.shard_id);
            let is_paused = verdict.is_some_and(|verdict| verdict.verdict == Verdict::Paused);
            let is_readable =
                matches!(shard.state, ShardState::Owned | ShardState::Unowned | ShardState::NoRow);
            if !is_readable || is_paused {
                continue;
            }
            shards += 1;
            let is_stuck = verdict.is_some_and(|verdict| verdict.verdict == Verdict::Stuck);
            let behind = verdict.and_then(|verdict| verdict.behind_millis);
            needs.extend(need_percent(behind, is_stuck, goal.target_lag));
        }
        let workers = view.snapshot.workers.iter().filter(|worker| !worker.shards.is_empty()).count() as u64;
        let waiting = needs.len() as u64;
        Self {
            application: view.snapshot.application.clone(),
            behind_millis: view.verdict.behind_millis,
            verdict: view.verdict.verdict,
            workers,
            wanted_workers: wanted(workers, shards, &needs, goal),
            shards,
            waiting_shards: waiting,
            loss_in_millis: view.verdict.first_loss.as_ref().map(|(_, millis)| *millis),
        }
    }
}

/// How much of the work of today a shard needs, in percent; `None`: no record waits. More workers do not help a stuck shard.
fn need_percent(behind_millis: Option<u64>, is_stuck: bool, target_millis: u64) -> Option<u64> {
    match behind_millis {
        Some(0) => None,
        Some(behind) if behind > target_millis && !is_stuck => {
            let ratio = u128::from(behind) * 100 / u128::from(target_millis.max(1));
            Some(u64::try_from(ratio).unwrap_or(u64::MAX).min(MAX_GROWTH_PERCENT))
        }
        Some(_) | None => Some(100),
    }
}

/// The workers for these shards: each worker reads its share of all of them today.
fn wanted(workers: u64, shards: u64, needs: &[u64], goal: &ScaleGoal) -> u64 {
    let most = goal.max_workers.unwrap_or(u64::MAX);
    if needs.is_empty() {
        return goal.min_workers.min(most);
    }
    let sum: u64 = needs.iter().sum();
    let wanted = (sum * workers.max(1)).div_ceil(100 * shards.max(1));
    wanted.clamp(1, needs.len() as u64).max(goal.min_workers).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: ScaleGoal = ScaleGoal { target_lag: 60_000, min_workers: 0, max_workers: None };

    fn of(workers: u64, behind: &[u64]) -> u64 {
        let needs: Vec<u64> =
            behind.iter().filter_map(|behind| need_percent(Some(*behind), false, GOAL.target_lag)).collect();
        wanted(workers, behind.len() as u64, &needs, &GOAL)
    }

    #[test]
    fn workers_follow_the_lag_and_the_waiting_shards() {
        assert_eq!(of(4, &[0; 8]), 0, "nothing waits");
        assert_eq!(of(0, &[1_000, 0, 0]), 1, "the first record starts a worker");
        assert_eq!(of(4, &[1_000; 8]), 4, "the workers are enough");
        assert_eq!(of(4, &[90_000; 8]), 6, "half as many again");
        assert_eq!(of(4, &[9_000_000; 8]), 8, "at most twice as many");
        assert_eq!(of(8, &[9_000_000; 8]), 8, "at most one for each shard");
        assert_eq!(of(4, &[1_000, 0, 0, 0, 0, 0, 0, 0]), 1, "idle shards need no worker");
    }

    #[test]
    fn limits_bound_the_workers() {
        let goal = ScaleGoal { min_workers: 2, max_workers: Some(3), ..GOAL };
        assert_eq!(wanted(4, 8, &[], &goal), 2);
        assert_eq!(wanted(4, 8, &[200; 8], &goal), 3);
    }

    #[test]
    fn stuck_and_unknown_shards_keep_their_workers() {
        assert_eq!(need_percent(Some(9_000_000), true, 60_000), Some(100));
        assert_eq!(need_percent(None, false, 60_000), Some(100));
        assert_eq!(need_percent(Some(0), true, 60_000), None);
    }
}
