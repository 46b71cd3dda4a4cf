//! The scene of these tests: a stream, a lease table, an object store, and members that count the words of records.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{Member, SEED, shards};
use kinesis_streaming::lease_store::{Consistency, LeaseChange, LeaseWrite};
use kinesis_streaming::prelude::*;
use kinesis_streaming::state::Totals;

use super::objects::Objects;
use test_support::{HookedLeaseStore, LIMIT};

pub(crate) const APPLICATION: &str = "counting";

#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) stream: InMemoryStream,
    pub(crate) leases: HookedLeaseStore,
    pub(crate) objects: Objects,
    pub(crate) settings: StateSettings,
    /// The counts of all words that were put.
    pub(crate) expected: Arc<std::sync::Mutex<BTreeMap<String, u64>>>,
    /// Set when a checkpoint was written that no snapshot covers.
    pub(crate) ran_ahead: Arc<AtomicBool>,
}

/// Counts words. A record with `poison` fails, and the word `panic` panics after the words before it were counted.
pub(crate) fn word_counts(version: u32) -> impl StateLogic<State = u64> {
    update_state_by_key(
        StateSchema::new("words", version),
        |record: &Record| {
            let text = String::from_utf8(record.data.to_vec())?;
            if text.contains("poison") {
                return Err("it cannot be counted".into());
            }
            Ok(text.split(' ').map(|word| (word.to_owned(), word == "panic")).collect())
        },
        |count: Option<u64>, panics: bool| {
            assert!(!panics, "a bug in the application");
            Some(count.unwrap_or(0) + 1)
        },
        |one, other| one + other,
    )
}

impl Scene {
    pub(crate) fn new(shard_count: usize) -> Self {
        let objects = Objects::new();
        let ran_ahead = Arc::new(AtomicBool::new(false));
        let (seen, found) = (objects.clone(), ran_ahead.clone());
        let leases = HookedLeaseStore::new(InMemoryLeaseStore::new()).before_write(move |write| {
            let LeaseWrite::Update { shard_id, change, .. } = write else { return };
            let LeaseChange::Checkpoint { position, .. } = change.without_report() else { return };
            let is_covered =
                seen.with(|faults| faults.covered.get(shard_id).is_some_and(|covered| covered >= position));
            if !is_covered {
                found.store(true, Ordering::Relaxed);
            }
        });
        let settings =
            StateSettings { snapshot_interval: Duration::from_secs(3), ..StateSettings::default() };
        let stream = InMemoryStream::new("text", shards(shard_count));
        Self { stream, leases, objects, settings, expected: Arc::default(), ran_ahead }
    }

    pub(crate) fn with_settings(mut self, change: impl FnOnce(&mut StateSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn store(&self) -> StateStore {
        StateStore::object_store(Arc::new(self.objects.clone()), "states")
    }

    /// Puts records of three words each.
    pub(crate) fn put(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.put_text(&format!("key-{number}"), &format!("all word-{} odd-{}", number % 17, number % 2));
        }
    }

    pub(crate) fn put_text(&self, key: &str, text: &str) {
        self.stream.put(key.to_owned(), text.to_owned()).unwrap();
        let mut expected = self.expected.lock().unwrap();
        for word in text.split(' ') {
            *expected.entry(word.to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn expected(&self) -> BTreeMap<String, u64> {
        self.expected.lock().unwrap().clone()
    }

    pub(crate) fn processors(&self) -> StatefulProcessors<impl StateLogic<State = u64> + use<>> {
        stateful(word_counts(1), self.store(), self.settings.clone()).unwrap()
    }

    pub(crate) fn builder(&self, name: &str) -> ConsumerBuilder {
        Consumer::builder()
            .application(APPLICATION)
            .worker_id(name)
            .source(self.stream.clone())
            .lease_store(self.leases.clone())
            .seed(SEED ^ name.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte)))
            .checkpoint_interval(Duration::from_secs(1))
            .processors(self.processors())
    }

    pub(crate) fn start(&self, name: &str) -> Member {
        Member::start(self.builder(name))
    }

    pub(crate) async fn totals(&self) -> Totals<u64> {
        self.processors().read_totals(APPLICATION, "text").await.unwrap()
    }

    pub(crate) async fn counted(&self) -> BTreeMap<String, u64> {
        let totals = self.totals().await;
        totals.state.iter().map(|(word, count)| (word.to_owned(), *count)).collect()
    }

    /// Waits until the snapshots hold every record that was put, once.
    pub(crate) async fn wait_until_all_counted(&self) {
        // Generations of shards without a reader yet are read one after the other, which takes time.
        let deadline = tokio::time::Instant::now() + LIMIT * 10;
        loop {
            let (counted, expected) = (self.counted().await, self.expected());
            if counted == expected {
                break;
            }
            let too_much =
                counted.iter().find(|(word, count)| expected.get(*word).is_none_or(|right| right < count));
            assert_eq!(too_much, None, "counted more often than it was put; expected {expected:?}");
            assert!(
                tokio::time::Instant::now() < deadline,
                "in snapshots {counted:?}, expected {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(!self.ran_ahead.load(Ordering::Relaxed), "a checkpoint ran ahead of its snapshot");
    }

    /// Waits until this member has counted every record that was put, and stops it.
    pub(crate) async fn wait_until_all_counted_by(&self, member: Member) {
        self.wait_until_all_counted().await;
        assert!(member.stop().await.is_drained());
    }

    pub(crate) async fn checkpoint(&self, shard_id: &ShardId) -> Position {
        self.leases.table.get(shard_id).await.unwrap().unwrap().checkpoint
    }

    pub(crate) async fn checkpoints(&self) -> BTreeMap<ShardId, Position> {
        let listing = self.leases.table.list(Consistency::Strong).await.unwrap();
        listing.leases.into_iter().map(|lease| (lease.shard_id, lease.checkpoint)).collect()
    }
}

pub(crate) fn every(records: u64) -> NonZeroU64 {
    NonZeroU64::new(records).unwrap()
}
