//! `serve`: the page, its data, metrics, health and load.

use std::collections::BTreeSet;
use std::time::Duration;

use lease_store::{LeaseChange, LeaseStore as _, LeaseWrite, WorkerId};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::bench::{APPLICATION, PATIENCE, STREAM, TestBed, lease, shard, stop};
use crate::http::{Answer, request};

/// The wait between two questions about a condition.
const POLL: Duration = Duration::from_millis(50);

/// A running server.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start(bed: &TestBed) -> Self {
        Self::start_with(bed, &[]).await
    }

    /// The same with more arguments.
    pub(crate) async fn start_with(bed: &TestBed, rest: &[&str]) -> Self {
        let arguments =
            ["serve", APPLICATION, "--stream", STREAM, "--listen", "127.0.0.1:0", "--interval", "1s"];
        let mut child = bed.program(&[&arguments[..], rest].concat()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("it starts in time").unwrap().unwrap();
        let address = line.split("http://").nth(1).unwrap().trim_end_matches('/').to_owned();
        Self { child, address }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        request("GET", &self.address, path).await
    }

    /// Waits until an answer meets a condition.
    pub(crate) async fn until(&self, path: &str, is_met: impl Fn(&Answer) -> bool) -> Answer {
        let waiting = async {
            loop {
                let answer = self.get(path).await;
                if is_met(&answer) {
                    return answer;
                }
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the condition is met in time")
    }
}

/// The names in the documented list.
pub(crate) fn documented() -> BTreeSet<String> {
    let page = include_str!("../../../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.filter(|name| name.starts_with("kinesis_fleet_")).map(str::to_owned).collect()
}

async fn bed() -> TestBed {
    let bed = TestBed::start(2).await;
    bed.put_records(&["a", "b", "c", "d"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    bed.put_lease(lease(1, Some("worker-2"))).await;
    bed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_those_of_the_documented_list() {
    let bed = bed().await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let answer = server.until("/metrics", |answer| answer.body.contains("max_lag_seconds{")).await;
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let mut exported = BTreeSet::new();
    for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        assert!(labels.starts_with(&format!("application=\"{APPLICATION}\"")), "{line}");
        exported.insert(name.to_owned());
    }
    let typed: BTreeSet<String> = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(&typed | &exported, typed, "each metric has a type");
    let documented = documented();
    assert_eq!(&exported - &documented, BTreeSet::new());
    // A healthy fleet loses nothing, and no shard of it is known to stand still.
    let absent = &documented - &exported;
    let may_be_absent =
        ["first_loss_in", "shard_loss_in", "shard_still"].map(|name| format!("kinesis_fleet_{name}_seconds"));
    assert_eq!(&absent - &may_be_absent.into(), BTreeSet::new());
    assert_eq!(stop(server.child).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_its_data_come_from_one_server() {
    let bed = bed().await;
    let server = Server::start(&bed).await;
    let page = server.get("/").await;
    assert!(page.body.contains("<canvas") && page.head.contains("default-src 'none'"), "{}", page.head);
    for file in ["/page.css", "/page.js", "/picture.js"] {
        assert_eq!(server.get(file).await.status, 200, "{file}");
    }
    let state = server.until("/api/state", |answer| answer.status == 200).await;
    let state: Value = serde_json::from_str(&state.body).unwrap();
    assert_eq!(state["shards"].as_array().unwrap().len(), 2);
    assert_eq!(state["shards"][0]["owner"], "worker-1");
    let load: Value = serde_json::from_str(&server.get("/lag").await.body).unwrap();
    assert_eq!(load["workers"], 2);
    // Nothing can be written.
    for path in ["/", "/api/state", "/lag"] {
        assert_eq!(request("POST", &server.address, path).await.status, 405, "{path}");
    }
    assert_eq!(stop(server.child).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_moves_is_an_event() {
    let bed = bed().await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let row = bed.store().get(&shard(0)).await.unwrap().unwrap();
    let taken = LeaseWrite::Update {
        shard_id: shard(0),
        expected: row.version(),
        change: LeaseChange::take(WorkerId::new("worker-3".to_owned()).unwrap()),
    };
    bed.store().write(&taken).await.unwrap();
    let past = server.until("/api/past", |answer| answer.body.contains("\"fenced\"")).await;
    let past: Value = serde_json::from_str(&past.body).unwrap();
    let events = past["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["shard"] == "shardId-000000000000"), "{events:?}");
    assert!(events.iter().any(|event| event["kind"] == "worker-gone"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_vanishes_ends_readiness_alone() {
    let bed = bed().await;
    let server = Server::start(&bed).await;
    server.until("/readyz", |answer| answer.status == 200).await;
    let dynamodb = bed.endpoints().dynamodb_client();
    dynamodb.delete_table().table_name(APPLICATION).send().await.unwrap();
    let unready = server.until("/readyz", |answer| answer.status == 503).await;
    assert!(unready.body.contains(APPLICATION), "{}", unready.body);
    assert_eq!(server.get("/healthz").await.status, 200);
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("kinesis_fleet_failed_looks_total{"), "{metrics}");
    assert!(!metrics.contains("lag_seconds"), "an old lag is not shown as a new one");
    // The page keeps the last look, and a scaler gets none.
    assert_eq!(server.get("/api/state").await.status, 200);
    assert_eq!(server.get("/lag").await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_look_is_a_server_sent_event() {
    let bed = bed().await;
    let server = Server::start(&bed).await;
    let mut connection = TcpStream::connect(&server.address).await.unwrap();
    let head = format!("GET /api/looks HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let reading = async {
        let mut bytes = [0; 1024];
        while !(seen.contains("event: look") && seen.contains("data: 2")) {
            let count = connection.read(&mut bytes).await.unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    timeout(PATIENCE, reading).await.expect("two looks in time");
    // A follower does not keep the server from stopping.
    assert_eq!(stop(server.child).await, 0);
}
