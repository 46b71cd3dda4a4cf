//! The example service, on its embedded default: settings, health, metrics, and a stop at SIGTERM with a last checkpoint.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{sleep, timeout};

/// The longest that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The wait between two questions about a condition.
const POLL: Duration = Duration::from_millis(50);

const SETTINGS: &str = r#"
listen = "127.0.0.1:0"
log = "warn"

[consumer]
application = "service-test"
worker_id = "service-1"
# No checkpoint but the last one is due in this test.
failover_time = "10m"
checkpoint_interval = "10m"
"#;

fn settings_file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{name}-{}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

fn program(settings: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command.arg(settings).stderr(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

struct Service {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    address: String,
}

impl Service {
    async fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = next(&mut lines).await.expect("it says where it listens");
            if line["message"] == "listening" {
                let address = line["fields"]["address"].as_str().unwrap().to_owned();
                return Self { child, lines, address };
            }
        }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let call = async {
            let mut connection = TcpStream::connect(&self.address).await.unwrap();
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(head.as_bytes()).await.unwrap();
            let mut bytes = Vec::new();
            connection.read_to_end(&mut bytes).await.unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let text = timeout(PATIENCE, call).await.expect("the service answers in time");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn until(&self, path: &str, is_met: impl Fn(&(u16, String)) -> bool) {
        let waiting = async {
            while !is_met(&self.call("GET", path, "").await) {
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the condition is met in time");
    }
}

/// The next log line. Every line is JSON.
async fn next(lines: &mut Lines<BufReader<ChildStderr>>) -> Option<Value> {
    let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap()?;
    Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")))
}

#[tokio::test]
async fn service_is_observed_and_drains_at_sigterm() {
    let settings = settings_file("service", SETTINGS);
    let mut command = program(&settings);
    // The environment comes after the file.
    command.env("SERVICE__LOG", "info").env("SERVICE__EMBEDDED__SHARDS", "2");
    let mut service = Service::start(command).await;
    assert_eq!(service.call("GET", "/healthz", "").await.0, 200);
    service.until("/readyz", |answer| answer.0 == 200).await;
    let put = service.call("POST", "/records", "one two\nthree\nfour five six\nseven\neight\nnine\n").await;
    assert_eq!(put, (200, "6 records\n".to_owned()));
    let done =
        "kinesis_consumer_acknowledged_records_total{application=\"service-test\",worker=\"service-1\"} 6\n";
    service.until("/metrics", |answer| answer.1.contains(done)).await;
    let metrics = service.call("GET", "/metrics", "").await.1;
    assert!(metrics.contains("call=\"checkpoint\"} 0\n"), "the checkpoints are still to come: {metrics}");

    let pid = service.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let (mut positions, mut stopped) = (Vec::new(), None);
    while let Some(line) = next(&mut service.lines).await {
        match line["message"].as_str().unwrap() {
            "final position" => positions.push(line["fields"].clone()),
            "stopped" => stopped = Some(line["fields"].clone()),
            _ => {}
        }
    }
    let ended = timeout(PATIENCE, service.child.wait()).await.expect("it stops in time").unwrap();
    assert!(ended.success(), "{ended}");
    let stopped = stopped.expect("it says that it stopped");
    assert_eq!((&stopped["drained"], &stopped["records"]), (&Value::from(true), &Value::from(6)));
    assert_eq!(positions.len(), 2);
    for position in &positions {
        let checkpoint = position["checkpoint"].as_str().unwrap();
        assert!(
            checkpoint.starts_with(|first: char| first.is_ascii_digit()),
            "the last checkpoint: {position}"
        );
        assert_eq!(position["owner"], "None", "the lease is free");
    }
    std::fs::remove_file(settings).unwrap();
}

#[tokio::test]
async fn faults_of_the_settings_are_named() {
    let file = settings_file("service-faults", "listen = \"127.0.0.1:0\"\n");
    for (variable, text, part) in [
        ("SERVICE__CONSUMER__FAILOVER_TME", "10s", "failover_tme"),
        ("SERVICE__CONSUMER__FAILOVER_TIME", "10 parsecs", "a duration like"),
        ("SERVICE__LISTEN", "everywhere", "listen"),
        ("SERVICE__LISTEN__PORT", "80", "SERVICE__LISTEN__PORT"),
    ] {
        let Output { status, stderr, .. } = program(&file).env(variable, text).output().await.unwrap();
        let text = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{text}");
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(line["fields"]["error"].as_str().unwrap().contains(part), "{variable}: {line}");
    }
    std::fs::remove_file(file).unwrap();
}
