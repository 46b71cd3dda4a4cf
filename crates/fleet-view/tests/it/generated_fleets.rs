//! A thousand generated fleets without a fault give no false alarm, and a thousand with a stuck shard are all found out.

use fastrand::Rng;
use fleet_view::Verdict;
use lease_store::ShardId;

use crate::model::{Fleet, Measured, Shard};

/// The generated fleets of each kind.
const FLEETS: u64 = 1_000;

/// The looks at each fleet.
const LOOKS: u64 = 45;

/// A shard whose worker keeps up, with any habits.
fn healthy(random: &mut Rng, id: u64) -> Shard {
    let arriving = [0, 5, 200, 1_000, 3_000][random.usize(..5)];
    let batch_seconds = if random.u8(..4) == 0 { random.u64(2..60) } else { 0 };
    Shard {
        owner: Some(format!("worker-{}", random.u8(..3))),
        arriving,
        capacity: arriving.max(200) * random.u64(12..40) / 10,
        batch_seconds,
        checkpoint_seconds: [1, 5, 10, 30, 60][random.usize(..5)],
        renew_seconds: random.u64(1..20),
        phase: random.u64(..60),
        measured: [Measured::ByWorker, Measured::ByWorker, Measured::ByProbe, Measured::Never]
            [random.usize(..4)],
        ..Shard::new(id)
    }
}

fn fleet(random: &mut Rng) -> Fleet {
    let count = random.u64(1..6);
    let shards: Vec<Shard> = (0..count).map(|id| healthy(random, id)).collect();
    Fleet::new(shards).every([5, 10, 15, 30, 60][random.usize(..5)])
}

/// What healthy fleets do: bursts, quiet times, hand-overs, ends of shards.
fn daily_life(random: &mut Rng, fleet: &mut Fleet, bursts: &mut [u64]) {
    for shard in &mut fleet.shards {
        let burst = &mut bursts[usize::try_from(shard.id).unwrap()];
        match random.u16(..400) {
            // A worker hands over; the next one begins at the stored position.
            0 => shard.take(&format!("worker-{}", random.u8(..3))),
            // Records stop, or come at another pace that the worker manages.
            1 => shard.arriving = shard.capacity * random.u64(..9) / 10,
            2 if *burst == 0 => {
                *burst = 1;
                shard.arriving = shard.capacity * 2;
            }
            _ if *burst == 1 => {
                *burst = 2;
                shard.arriving = shard.capacity / 4;
            }
            _ => {}
        }
    }
}

/// The fleet without its records.
fn shown(fleet: &Fleet) -> String {
    let shards = fleet.shards.iter().cloned().map(|shard| Shard { arrivals: Vec::new(), ..shard });
    format!("looks every {} s at {:#?}", fleet.look_seconds, shards.collect::<Vec<_>>())
}

#[test]
fn no_false_alarm_in_a_thousand_healthy_fleets() {
    for seed in 0..FLEETS {
        let mut random = Rng::with_seed(seed);
        let mut fleet = fleet(&mut random);
        let mut bursts = vec![0; fleet.shards.len()];
        for look in 0..LOOKS {
            daily_life(&mut random, &mut fleet, &mut bursts);
            let verdict = fleet.next_verdict();
            for (shard_id, shard) in &verdict.shards {
                assert!(
                    !shard.verdict.is_alarm() && shard.verdict != Verdict::FallingBehind,
                    "seed {seed}, look {look}: {shard_id} is {shard:?} in {}",
                    shown(&fleet)
                );
            }
        }
    }
}

#[test]
fn no_stuck_shard_is_missed_in_a_thousand_fleets() {
    for seed in 0..FLEETS {
        let mut random = Rng::with_seed(seed);
        let mut fleet = fleet(&mut random);
        let hangs_at = random.u64(..20);
        let index = random.usize(..fleet.shards.len());
        let shard_id = ShardId::numbered(fleet.shards[index].id);
        // Without a measurement it is not known that records wait, and without records none do.
        let shard = &mut fleet.shards[index];
        shard.arriving = shard.arriving.max(200);
        shard.capacity = shard.capacity.max(400);
        if shard.measured == Measured::Never {
            shard.measured = Measured::ByProbe;
        }
        let mut first = None;
        for look in 0..LOOKS {
            fleet.shards[index].hangs = look >= hangs_at;
            let verdict = fleet.next_verdict();
            let is_stuck = verdict.shards[&shard_id].verdict == Verdict::Stuck;
            if is_stuck {
                first = first.or(Some((look, fleet.passed())));
            }
            assert!(!is_stuck || look > hangs_at, "seed {seed}: stuck before it hangs, at look {look}");
            let others = verdict.shards.iter().filter(|(other, _)| **other != shard_id);
            for (other, verdict) in others {
                assert!(
                    !verdict.verdict.is_alarm(),
                    "seed {seed}, look {look}: {other} is {verdict:?} in {}",
                    shown(&fleet)
                );
            }
        }
        // With looks 5 s apart, 300 s of looks may be too short for a shard that was not seen to move.
        let looked = fleet.passed() - hangs_at * fleet.look_seconds;
        assert!(first.is_some() || looked < 400, "seed {seed}: missed in {}", shown(&fleet));
    }
}
