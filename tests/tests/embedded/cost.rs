//! The requests of a fleet to its lease table, counted, and the table with these figures in `docs/cost.md`.

use std::fmt::Write as _;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, shards};
use kinesis_streaming::lease_store::{CountingLeaseStore, StoreCalls};
use kinesis_streaming::prelude::*;
use test_support::{Journal, wait_until};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cost.md");
const BEGIN: &str = "<!-- table: begin -->\n";
const END: &str = "<!-- table: end -->";

/// The size of a row of ours in DynamoDB, and of a row of the KCL, in bytes.
const ROW_BYTES: f64 = 490.0;
const KCL_ROW_BYTES: f64 = 350.0;

/// The bytes that one read unit covers in a strongly consistent read.
const READ_UNIT_BYTES: f64 = 4096.0;

/// Shards, workers, and the minutes for which the requests are counted.
const FLEETS: [(usize, usize, u64); 3] = [(4, 2, 60), (100, 5, 10), (1000, 20, 1)];

type Store = CountingLeaseStore<InMemoryLeaseStore>;

struct Fleet {
    stream: InMemoryStream,
    store: Store,
    journal: Journal,
    members: Vec<Member>,
}

impl Fleet {
    async fn start(shard_count: usize, worker_count: usize) -> Self {
        let stream = InMemoryStream::new("s", shards(shard_count));
        let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
        let mut fleet = Self { stream, store, journal: Journal::default(), members: Vec::new() };
        for index in 0..worker_count {
            fleet.join(index);
        }
        fleet.wait_until_balanced().await;
        fleet
    }

    fn join(&mut self, index: usize) {
        let name = format!("worker-{index:02}");
        let handler = batch_handler(|_: ShardContext, _: RecordBatch| async { Ok(()) });
        let builder = member(&name, &self.stream, &self.store, &self.journal).processors(handler);
        self.members.push(Member::start(builder));
    }

    fn moves(&self) -> u64 {
        self.members.iter().map(|member| member.handle.status().handed_over_leases).sum()
    }

    /// Waits until the shares are even and the moves before that are over, so that they are not counted.
    async fn wait_until_balanced(&self) {
        let shard_count = self.stream.open_shards().len();
        wait_until("the shares are even", || {
            let loads = self.members.iter().map(|member| member.held().len());
            let (least, most, all) = loads.fold((usize::MAX, 0, 0), |(least, most, all), load| {
                (least.min(load), most.max(load), all + load)
            });
            all == shard_count && most - least <= 1
        })
        .await;
        tokio::time::sleep(FAILOVER_TIME).await;
    }

    /// The requests to the table in this time, per shard and hour.
    async fn measure(&self, time: Duration, is_busy: bool) -> Cost {
        let producer = is_busy.then(|| tokio::spawn(a_record_each_second(self.stream.clone())));
        tokio::time::sleep(FAILOVER_TIME).await;
        let before = self.store.calls();
        tokio::time::sleep(time).await;
        let cost = Cost::between(before, self.store.calls());
        if let Some(producer) = producer {
            producer.abort();
        }
        cost.times(1.0 / (time.as_secs_f64() / 3600.0) / self.stream.open_shards().len() as f64)
    }
}

/// Puts a record into each shard every second.
async fn a_record_each_second(stream: InMemoryStream) {
    let ranges: Vec<_> = stream.list_shards(&ShardFilter::Open).await.unwrap();
    loop {
        for shard in &ranges {
            let hash_key = shard.hash_key_range.unwrap().start();
            stream.put_with_hash_key(hash_key, None::<String>, "x").unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The units that DynamoDB bills.
#[derive(Debug, Clone, Copy)]
struct Cost {
    writes: f64,
    reads: f64,
}

impl Cost {
    fn between(before: StoreCalls, after: StoreCalls) -> Self {
        let strong_lists = (after.strong_lists - before.strong_lists) as f64;
        let strong_rows = (after.strong_listed_rows - before.strong_listed_rows) as f64;
        let lists = (after.lists - before.lists) as f64 - strong_lists;
        let rows = (after.listed_rows - before.listed_rows) as f64 - strong_rows;
        let units = |lists: f64, rows: f64| lists.max(rows * ROW_BYTES / READ_UNIT_BYTES);
        let gets = (after.gets - before.gets) as f64;
        Self {
            writes: (after.writes() - before.writes()) as f64,
            reads: units(lists, rows) / 2.0 + units(strong_lists, strong_rows) + gets,
        }
    }

    /// The cost of moves in addition to the cost of a balanced fleet. An offer replaces a renewal.
    fn of_moves(before: StoreCalls, after: StoreCalls) -> Self {
        let mut moves = before;
        (moves.takes, moves.requests, moves.hand_overs) = (after.takes, after.requests, after.hand_overs);
        (moves.gets, moves.strong_lists, moves.lists) =
            (after.gets, after.strong_lists, before.lists + after.strong_lists - before.strong_lists);
        (moves.strong_listed_rows, moves.listed_rows) = (
            after.strong_listed_rows,
            before.listed_rows + after.strong_listed_rows - before.strong_listed_rows,
        );
        Self::between(before, moves)
    }

    fn times(self, factor: f64) -> Self {
        Self { writes: self.writes * factor, reads: self.reads * factor }
    }
}

/// The cost of the KCL 2.x per shard and hour, with this many checkpoints in an hour.
fn kcl(shard_count: usize, worker_count: usize, checkpoints_per_hour: f64) -> Cost {
    let (failover_seconds, epsilon_seconds) = (FAILOVER_TIME.as_secs_f64(), 0.025);
    let scans = 3600.0 / ((failover_seconds + epsilon_seconds) * 2.0) * worker_count as f64;
    let units = (shard_count as f64 * KCL_ROW_BYTES / READ_UNIT_BYTES).max(1.0) / 2.0;
    Cost {
        writes: 3600.0 / (failover_seconds / 3.0 - epsilon_seconds) + checkpoints_per_hour,
        reads: scans * units / shard_count as f64,
    }
}

/// The rows of the table for these fleets.
async fn rows_of(fleets: &[(usize, usize, u64)]) -> String {
    let mut table = String::new();
    let renewals = 3600.0 / (FAILOVER_TIME.as_secs_f64() / 3.0);
    for (shard_count, worker_count, minutes) in fleets.iter().copied() {
        let mut fleet = Fleet::start(shard_count, worker_count).await;
        let time = Duration::from_secs(minutes * 60);
        let idle = fleet.measure(time, false).await;
        assert!(idle.writes <= renewals + 1.0, "nothing but renewals: {idle:?}");
        let busy = fleet.measure(time, true).await;
        assert!(busy.writes <= renewals + 1.0, "a checkpoint is a renewal: {busy:?}");
        let mut row = |what: &str, ours: Cost, kcl: &[Cost]| {
            let list = |figures: Vec<f64>| {
                figures.iter().map(|figure| format!("{figure:.0}")).collect::<Vec<_>>().join(" or ")
            };
            let mut reads = kcl.iter().map(|cost| cost.reads).collect::<Vec<_>>();
            reads.dedup();
            let writes = kcl.iter().map(|cost| cost.writes).collect();
            writeln!(
                table,
                "| {shard_count} | {worker_count} | {what} | {:.0} | {} | {:.0} | {} |",
                ours.writes,
                list(writes),
                ours.reads,
                list(reads)
            )
            .unwrap();
        };
        row("idle, per shard and hour", idle, &[kcl(shard_count, worker_count, 0.0)]);
        let [each_minute, as_often] = [60.0, renewals];
        let kcl_busy = [each_minute, as_often].map(|checkpoints| kcl(shard_count, worker_count, checkpoints));
        row("busy, per shard and hour", busy, &kcl_busy);

        let (before, moved_before) = (fleet.store.calls(), fleet.moves());
        fleet.join(worker_count);
        fleet.wait_until_balanced().await;
        let moves = fleet.moves() - moved_before;
        let per_move = Cost::of_moves(before, fleet.store.calls()).times(1.0 / moves as f64);
        assert!(per_move.writes <= 4.0, "a request, a hand-over, a take, and seldom more: {per_move:?}");
        writeln!(
            table,
            "| {shard_count} | {} | joining, per move ({moves} moves) | {:.1} | | {:.1} | |",
            worker_count + 1,
            per_move.writes,
            per_move.reads
        )
        .unwrap();
    }
    table
}

#[tokio::test(start_paused = true)]
async fn a_busy_shard_costs_no_more_writes_than_an_idle_one() {
    let rows = rows_of(&[(4, 2, 10)]).await;
    assert_eq!(rows.lines().count(), 3, "{rows}");
}

#[tokio::test(start_paused = true)]
async fn cost_table_in_the_docs_matches_a_fleet() {
    let mut table = String::from(
        "\n| shards | workers | | writes | KCL 2.x | read units | KCL 2.x |\n\
         | ---: | ---: | --- | ---: | ---: | ---: | ---: |\n",
    );
    table.push_str(&rows_of(&FLEETS).await);
    table.push('\n');
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(
        shown == table,
        "docs/cost.md differs from the cost of a fleet; update it with\n\
         UPDATE_DOCS=1 cargo test -p end-to-end-tests --test embedded cost::\n{table}"
    );
}
