//! The router of an application: metrics, liveness, readiness.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use kinesis_streaming::prelude::*;
use kinesis_streaming::{METRICS, operations_router};
use tower::ServiceExt as _;

use crate::bed::{A_WHILE, Bed};

/// The largest answer.
const MAX_BODY_BYTES: usize = 1 << 20;

async fn get(router: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), MAX_BODY_BYTES).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn codes(router: &Router) -> (u16, u16) {
    (get(router, "/healthz").await.0.as_u16(), get(router, "/readyz").await.0.as_u16())
}

#[tokio::test(start_paused = true)]
async fn probes_follow_the_life_of_a_consumer() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    assert_eq!(codes(&router).await, (200, 503), "not started");
    let running = bed.run();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(codes(&router).await, (200, 200));
    assert_eq!(get(&router, "/readyz").await.1, "worker-1: running\n");
    bed.handle.stop();
    running.await.unwrap().unwrap();
    assert_eq!(codes(&router).await, (503, 503));
    assert_eq!(get(&router, "/healthz").await.1, "worker-1: stopped\n");
}

#[tokio::test(start_paused = true)]
async fn halted_shard_ends_readiness_and_not_liveness() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    let running = bed.run();
    bed.stream.put("key", "bad").unwrap();
    tokio::time::sleep(A_WHILE * 10).await;
    assert_eq!(codes(&router).await, (200, 503));
    let body = get(&router, "/readyz").await.1;
    assert!(body.contains("is stuck") && body.contains("a bad record"), "{body}");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn consumer_whose_task_is_gone_is_not_alive() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    let running = bed.run();
    tokio::time::sleep(A_WHILE).await;
    running.abort();
    bed.handle.stopped().await;
    assert_eq!(codes(&router).await, (503, 503));
}

#[tokio::test(start_paused = true)]
async fn metrics_are_those_of_the_list_in_the_text_format() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    let running = bed.run();
    bed.put_into_each_shard("good");
    tokio::time::sleep(A_WHILE).await;
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let (_, text) = get(&router, "/metrics").await;
    let mut names = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        assert!(labels.starts_with("application=\"word-count\",worker=\"worker-1\""), "{line}");
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    // In the order of the list, each name in one block; what is not known is absent.
    let mut listed = METRICS.iter().map(|metric| metric.name);
    assert!(names.iter().all(|name| listed.any(|listed| listed == *name)), "{names:?}");
    assert!(text.contains(
        "kinesis_consumer_acknowledged_records_total{application=\"word-count\",worker=\"worker-1\"} 16\n"
    ));
    assert!(!text.contains("shard_failing_seconds"), "nothing fails");
    running.abort();
}

fn value_of(metrics: &str, start: &str) -> Option<f64> {
    metrics.lines().find(|line| line.starts_with(start))?.rsplit(' ').next()?.parse().ok()
}

/// MassTransit/MassTransit #2121: healthy while the broker is away. hampsterx/async-kinesis #73: a lag that is reported at the
/// start only.
#[tokio::test(start_paused = true)]
async fn stream_that_is_away_ends_readiness_and_its_lag_grows() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    let running = bed.run();
    tokio::time::sleep(A_WHILE).await;
    bed.stream.fail_reads(SourceErrorKind::Unavailable, u32::MAX);
    tokio::time::sleep(A_WHILE * 10).await;
    assert_eq!(codes(&router).await, (200, 503));
    let lag = value_of(&get(&router, "/metrics").await.1, "kinesis_consumer_shard_position_age_seconds");
    assert!(lag.is_some_and(|lag| lag >= 290.0), "{lag:?}");
    running.abort();
}

/// aws/aws-sdk-java #2524 and apache/druid #11005: the lag of a shard without new records grows.
#[tokio::test(start_paused = true)]
async fn idle_shards_have_no_lag_however_long() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    let running = bed.run();
    bed.put_into_each_shard("good");
    tokio::time::sleep(A_WHILE * 500).await;
    assert_eq!(codes(&router).await, (200, 200));
    let metrics = get(&router, "/metrics").await.1;
    let ages = metrics.lines().filter(|line| line.starts_with("kinesis_consumer_shard_position_age_seconds"));
    let ages: Vec<f64> = ages.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(ages.len() == 2 && ages.iter().all(|age| *age < 10.0), "{ages:?}");
    running.abort();
}

/// lifion/lifion-kinesis #216: the consumer answers and reads, and processes nothing.
#[tokio::test(start_paused = true)]
async fn handler_that_never_ends_ends_readiness() {
    let mut bed = Bed::new();
    let router: Router = operations_router(bed.metrics.clone());
    let running = bed.run();
    bed.stream.put("key", "endless").unwrap();
    tokio::time::sleep(A_WHILE * 6).await;
    assert_eq!(codes(&router).await, (200, 503));
    running.abort();
}

/// twmb/franz-go #565: a worker without shards is not ready, so that a rollout waits for ever.
/// smallrye/smallrye-reactive-messaging #866: a worker is not alive while shards move.
#[tokio::test(start_paused = true)]
async fn standbys_and_moves_fail_no_probe() {
    let mut first = Bed::new();
    let one: Router = operations_router(first.metrics.clone());
    let running = first.run();
    tokio::time::sleep(A_WHILE).await;
    let mut others = Vec::new();
    for name in ["worker-2", "worker-3"] {
        let mut bed = Bed::with(name, first.stream.clone(), first.table.clone());
        let router: Router = operations_router(bed.metrics.clone());
        let task = bed.run();
        others.push((bed, router, task));
    }
    // A look at each second, while one of the two shards moves.
    for _ in 0..120 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(codes(&one).await, (200, 200));
        for (_, router, _) in &others {
            assert_eq!(get(router, "/healthz").await.0, StatusCode::OK);
        }
    }
    assert_eq!(first.handle.status().handed_over_leases, 1);
    assert!(others.iter().any(|(bed, ..)| bed.handle.status().is_standby));
    for (_, router, _) in &others {
        assert_eq!(codes(router).await, (200, 200), "{}", get(router, "/readyz").await.1);
    }
    running.abort();
    others.iter().for_each(|(.., task)| task.abort());
}
