//! A real Prometheus scrapes the program and an application: each query of the dashboards has an answer, and the rules load.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use kinesis_streaming::lease_store::CountingLeaseStore;
use kinesis_streaming::prelude::*;
use kinesis_streaming::{ConsumerMetrics, operations_router};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::bench::{APPLICATION, PATIENCE, TestBed, lease};
use crate::http::request;
use crate::serve::Server;

const DASHBOARD: &str = include_str!("../../../../deploy/grafana/kinesis-fleet.json");
const CONSUMER_DASHBOARD: &str = include_str!("../../../../deploy/grafana/kinesis-consumer.json");
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/prometheus/kinesis-fleet.rules.yml");

/// The wait between two questions about a condition.
const POLL: Duration = Duration::from_millis(200);

/// Metrics that are absent while all is well, so that a query of them has no series.
const ABSENT_WHEN_WELL: [&str; 2] = ["first_loss_in_seconds", "shard_still_seconds"];

/// How the names of metrics begin whose layers the application of the test does not have.
const OF_OTHER_LAYERS: [&str; 4] = [
    "kinesis_consumer_stream_",
    "kinesis_consumer_fan_out_",
    "kinesis_consumer_keyed_state_",
    "kinesis_consumer_storage_",
];

/// A running Prometheus.
struct Prometheus {
    _child: Child,
    address: String,
    folder: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // The rest of the folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Prometheus {
    /// Starts one that scrapes this address each second; `None` if it is not installed.
    async fn start(target: &str) -> Option<Self> {
        let port = target.rsplit(':').next().unwrap();
        let folder = std::env::temp_dir().join(format!("prometheus-test-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let configuration = folder.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{RULES}\"]\n\
             scrape_configs:\n  - job_name: kinesis-fleet\n    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        std::fs::write(&configuration, text).unwrap();
        // Free a moment ago; Prometheus does not report a port that it chooses itself.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(child) = child else {
            std::fs::remove_dir_all(&folder).unwrap();
            return None;
        };
        let prometheus = Self { _child: child, address, folder };
        let ready = async {
            while tokio::net::TcpStream::connect(&prometheus.address).await.is_err() {
                sleep(POLL).await;
            }
            // It answers before its storage is open.
            while request("GET", &prometheus.address, "/-/ready").await.status != 200 {
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("it is ready in time");
        Some(prometheus)
    }

    async fn api(&self, path: &str) -> Value {
        let answer = request("GET", &self.address, &format!("/api/v1/{path}")).await;
        let is_chunked = answer.head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { joined(&answer.body) } else { answer.body.clone() };
        serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {answer:?}"))
    }

    /// The series of a query.
    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.api(&format!("query?query={encoded}")).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until a query has a series.
    async fn until(&self, query: &str) -> Vec<Value> {
        let waiting = async {
            loop {
                let found = self.query(query).await;
                if !found.is_empty() {
                    return found;
                }
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{query} has no series"))
    }
}

/// The body that was sent in chunks, each after a line with its length.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// The queries of all panels.
fn queries(dashboard: &str) -> Vec<String> {
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().replace("$application", APPLICATION)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboard_and_rules_work_in_a_real_prometheus() {
    let bed = TestBed::start(2).await;
    bed.put_records(&["a", "b", "c"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    bed.put_lease(lease(1, Some("worker-2"))).await;
    let server = Server::start(&bed).await;
    let Some(prometheus) = Prometheus::start(&server.address).await else {
        println!("left out: prometheus is not installed (Debian: the package prometheus)");
        return;
    };
    let queries = queries(DASHBOARD);
    assert!(queries.len() >= 12, "{queries:?}");
    for query in &queries {
        if ABSENT_WHEN_WELL.iter().any(|absent| query.contains(absent)) {
            prometheus.query(query).await;
        } else {
            let series = prometheus.until(query).await;
            assert_eq!(series[0]["metric"]["application"], APPLICATION, "{query}");
        }
    }
    // The variable of the dashboard.
    let applications = prometheus.api("label/application/values").await;
    assert_eq!(applications["data"], serde_json::json!([APPLICATION]));
    let rules = prometheus.until("count(ALERTS) or vector(0)").await;
    assert_eq!(rules.len(), 1);
    let groups = prometheus.api("rules").await;
    let groups = groups["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 5, "{rules:?}");
    assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_dashboard_works_in_a_real_prometheus() {
    let stream = InMemoryStream::new("words", NonZeroUsize::MIN);
    let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
    let consumer = Consumer::builder()
        .application(APPLICATION)
        .worker_id("worker-1")
        .source(stream)
        .lease_store(store.clone())
        .processors(batch_handler(async |_, _| Ok(())))
        .build()
        .unwrap();
    let handle = consumer.handle();
    let metrics = ConsumerMetrics::new(APPLICATION, handle.clone()).with_lease_calls(move || store.calls());
    let running = tokio::spawn(consumer.run());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = axum::serve(listener, operations_router::<()>(metrics));
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.unwrap() }));
    let Some(prometheus) = Prometheus::start(&address).await else {
        println!("left out: prometheus is not installed (Debian: the package prometheus)");
        return;
    };
    let queries = queries(CONSUMER_DASHBOARD);
    assert!(queries.len() >= 18, "{queries:?}");
    for query in &queries {
        if OF_OTHER_LAYERS.iter().any(|layer| query.contains(layer)) {
            prometheus.query(query).await;
        } else {
            prometheus.until(query).await;
        }
    }
    handle.stop_and_wait().await;
    assert!(running.await.unwrap().unwrap().is_drained());
}
