//! Over generated fleets that run, each plan can be carried out on the rows that it was made from, and changes no held lease
//! behind the back of its owner.

use std::collections::BTreeSet;

use fleet_view::plan::{
    AssignOptions, Change, Plan, ResetOptions, ResetTo, Scope, Situation, assign, pause, release, reset,
    resume,
};
use fleet_view::{History, Look, Pause};
use lease_store::{ShardId, Verdict, WorkerId};
use proptest::prelude::*;

use crate::plans_skip_nothing::Case;
use crate::table::NOW;

/// The time between two looks, in milliseconds.
const LOOK_INTERVAL_MILLIS: u64 = 4_000;

/// The looks at a fleet of which one worker is alive and one is dead.
struct Fleet {
    look: Look,
    history: History,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let Case { stream, mut leases, mut random } = Case::new(seed);
        for lease in &mut leases {
            // The row of an ended shard keeps the name of its last owner.
            let owner = random.choice([None, Some("alive"), Some("dead")]).flatten();
            lease.owner = owner.map(|owner| WorkerId::new(owner).unwrap());
            lease.owner_process = owner.map(|owner| {
                format!("host=h pid=1 ticks=- started=2026-11-30T00:00:00Z instance=1 worker={owner}")
            });
            lease.pause_text = (random.u8(..4) == 0).then(|| "by an operator".to_owned());
        }
        let mut history = History::new();
        let mut look = Look::default();
        for before in (0..random.u64(1..20)).rev() {
            for lease in &mut leases {
                let is_renewed = !lease.is_finished() && is_alive(lease.owner.as_ref());
                lease.counter += u64::from(is_renewed);
            }
            look = stream.look(&leases);
            look.taken_at_millis = NOW - before * LOOK_INTERVAL_MILLIS;
            look.note_operators();
            history.add(&look).unwrap();
        }
        Self { look, history }
    }

    fn check(&self, plan: &Plan) {
        if plan.is_refused() {
            return;
        }
        for change in &plan.changes {
            let row = self.look.lease(&change.shard_id);
            assert!(change.is_possible_on(row), "{change:?} is not possible on {row:?}");
            let write = change.write(row, 7);
            assert_ne!(write.decide(row), Verdict::Refused, "{write:?} is refused by {row:?}");
            let is_held = row.is_some_and(|row| !row.is_finished() && is_alive(row.owner.as_ref()));
            let is_note =
                change.asks_owner() || matches!(change.change, Change::Pause { .. } | Change::Resume { .. });
            assert!(is_note || !is_held, "{change:?} passes over the owner of {row:?}");
        }
    }
}

fn is_alive(owner: Option<&WorkerId>) -> bool {
    owner.is_some_and(|owner| owner.as_str() == "alive")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_of_running_fleets_can_be_carried_out(seed in any::<u64>()) {
        let fleet = Fleet::new(seed);
        let situation = Situation { look: &fleet.look, history: &fleet.history };
        let some: BTreeSet<ShardId> =
            fleet.look.leases.iter().step_by(2).map(|lease| lease.shard_id.clone()).collect();
        for to in [ResetTo::TrimHorizon, ResetTo::Latest] {
            fleet.check(&reset(&situation, &to, &ResetOptions { scope: Scope::All, is_live: true }));
        }
        let asked = Pause { until_millis: Some(NOW + 1), by: "me".to_owned() };
        for shards in [None, Some(&some)] {
            fleet.check(&release(&situation, shards, true));
            fleet.check(&pause(&situation, shards, &asked));
            fleet.check(&resume(&situation, shards));
        }
        for shard_id in &some {
            let (worker, options) = (WorkerId::new("alive").unwrap(), AssignOptions { accepts_unknown_worker: true });
            fleet.check(&assign(&situation, shard_id, &worker, options));
        }
    }
}
