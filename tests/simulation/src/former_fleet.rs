//! What a fleet of the KCL leaves in its table: rows with the names of dead workers, begun hand-overs, and `LATEST` without an
//! instant.

use fastrand::Rng;
use lease_store::{Lease, Position, WorkerId};
use shard_worker::ShardFilter;

use crate::plan::FormerFleet;
use crate::worker::World;

/// The names of workers that no longer run.
const GONE: [&str; 3] = ["kcl-gone0", "kcl-gone1", "kcl-gone2"];

/// The worker that a begun hand-over names, and that never takes the lease.
const NEVER_TAKES: &str = "kcl-gone3";

/// Writes the rows of the fleet, one for each shard.
pub fn leave_rows(world: &World, fleet: FormerFleet, rng: &mut Rng) {
    if fleet.is_led {
        world.table.lead();
    }
    let gone = |rng: &mut Rng| rng.choice(GONE).and_then(|name| WorkerId::new(name).ok());
    let are_all_owned = rng.bool();
    for shard in world.kinesis.list(&ShardFilter::All) {
        let is_latest = fleet.is_latest && rng.u64(..3) > 0;
        let position = if is_latest { Position::Latest } else { Position::TrimHorizon };
        let mut row = Lease::unowned(shard.shard_id, position);
        row.parents = shard.parents;
        row.hash_key_range = shard.hash_key_range;
        if are_all_owned || rng.bool() {
            row.owner = gone(rng);
            row.counter = rng.u64(1..50);
            row.owner_switches_since_checkpoint = rng.u64(..3);
        }
        if row.owner.is_some() && rng.u64(..4) == 0 {
            row.checkpoint_owner = gone(rng);
        }
        world.table.leave_row(row);
    }
}

/// The leader of the fleet begins to hand a lease over.
pub fn begin_hand_over(world: &World, choice: u64) {
    let Ok(to) = WorkerId::new(NEVER_TAKES) else { return };
    world.table.begin_hand_over(choice, &to);
}
