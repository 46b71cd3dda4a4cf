//! Checkpoints: answered once they are written, and the words for those that are not.

use std::collections::BTreeSet;

use end_to_end_tests::daemon::dynamodb_front::{DynamoDbFront, Refusal};
use end_to_end_tests::daemon::journal::Event;
use end_to_end_tests::daemon::scene::Scene;
use end_to_end_tests::interop::resharding::split_a_shard;

fn errors(during: &str, events: impl Iterator<Item = Event>) -> Vec<Option<String>> {
    let of_action = |event| match event {
        Event::Checkpoint { during: action, error } if action == during => Some(error),
        _ => None,
    };
    events.filter_map(of_action).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_is_answered_after_the_row_is_written() {
    let mut scene = Scene::new("written", 1).await;
    for round in 1..=3 {
        scene.put(20).await;
        // The next round waits for the fail-over.
        let daemon = scene.start(&format!("w{round}"), "checkpoint-always", "failoverTimeMillis = 5000");
        scene.wait_for_all().await;
        let is_written = |event: &Event| matches!(event, Event::Checkpoint { error: None, .. });
        daemon.wait_for("a checkpoint is answered", 1, is_written).await;
        // The daemon is killed right after the answer: the row must hold the position.
        drop(daemon);
        let (rows, last) = (scene.rows().await, scene.last_delivered());
        for (shard, last) in last {
            assert_eq!(rows[&shard].checkpoint.parts().0, last, "round {round}");
        }
    }
    assert!(scene.deliveries().values().all(|count| *count == 1), "no checkpointed record repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_table_have_the_words_of_the_kcl() {
    let mut scene = Scene::new("words", 1).await;
    let front = DynamoDbFront::start(&scene.endpoints.dynamodb).await.unwrap();
    let lines = format!("dynamoDBEndpoint = {}", front.url());
    let mut daemon = scene.start("w", "checkpoint-always", &lines);
    for (status, code, word) in [
        (400, "ProvisionedThroughputExceededException", "ThrottlingException"),
        (500, "InternalServerError", "KinesisClientLibDependencyException"),
        (400, "ResourceNotFoundException", "InvalidStateException"),
        (400, "AccessDeniedException", "KinesisClientLibDependencyException"),
    ] {
        front.refuse(Some(Refusal { status, code }));
        scene.put(1).await;
        let is_word =
            |event: &Event| matches!(event, Event::Checkpoint { error: Some(error), .. } if error == word);
        daemon.wait_for(word, 1, is_word).await;
        front.refuse(None);
        scene.put(1).await;
        scene.wait_for_all().await;
    }
    assert_eq!(daemon.terminate().await, Some(0), "a refused checkpoint fails no child: {}", daemon.log());
    let last = scene.last_delivered();
    let rows = scene.rows().await;
    for (shard, last) in last {
        assert_eq!(rows[&shard].checkpoint.parts().0, last, "the last checkpoint is written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttled_checkpoint_is_written_when_the_child_retries() {
    let mut scene = Scene::new("throttled", 1).await;
    let front = DynamoDbFront::start(&scene.endpoints.dynamodb).await.unwrap();
    let lines = format!("dynamoDBEndpoint = {}", front.url());
    let daemon = scene.start("w", "checkpoint-always retry-checkpoints", &lines);
    front.refuse(Some(Refusal { status: 400, code: "ThrottlingException" }));
    scene.put(1).await;
    let is_throttled = |event: &Event| matches!(event, Event::Checkpoint { error: Some(error), .. } if error == "ThrottlingException");
    daemon.wait_for("two attempts are throttled", 2, is_throttled).await;
    front.refuse(None);
    daemon
        .wait_for("an attempt is written", 1, |event| matches!(event, Event::Checkpoint { error: None, .. }))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_without_a_checkpointer_are_invalid() {
    let mut scene = Scene::new("without-checkpointer", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "checkpoint-early", "");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    let events = || daemon.entries().into_iter().map(|entry| entry.event);
    let invalid = vec![Some("InvalidStateException".to_owned())];
    assert_eq!(errors("initialize", events()), invalid);
    assert_eq!(errors("leaseLost", events()), invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_end_reaches_the_child_and_its_children_start() {
    let mut scene = Scene::new("shard-end", 1).await;
    scene.put(100).await;
    let mut daemon = scene.start("w", "", "shardSyncIntervalMillis = 1000");
    scene.wait_for_all().await;
    let parent = split_a_shard(&scene.endpoints, scene.stream()).await;
    scene.put(100).await;
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    let dialogues = daemon.dialogues();
    let shards: BTreeSet<&str> = dialogues.keys().map(|(shard, _)| shard.as_str()).collect();
    assert_eq!((shards.len(), dialogues.len()), (3, 3), "{dialogues:?}");
    let (_, of_parent) = dialogues.iter().find(|((shard, _), _)| *shard == parent).unwrap();
    let at_end = Event::Checkpoint { during: "shardEnded".to_owned(), error: None };
    let expected = [Event::Told("shardEnded".to_owned()), at_end, Event::Closed];
    assert!(of_parent.ends_with(&expected), "{of_parent:?}");
    let rows = scene.rows().await;
    assert!(rows.get(&parent).is_none_or(|row| row.checkpoint.is_shard_end()), "{rows:?}");
}
