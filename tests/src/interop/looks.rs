//! The program `kinesis-streaming` beside the workers of a run: it looks at the table again and again, records its looks, and is
//! asked to verify, adopt and reset the table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // only tests call it

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::java_daemon::Application;
use super::wait_for;
use crate::programs::program;

/// The limit for one run of a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(150);

/// The limit for a verdict: a stuck handler is noticed after some probes, of which there is one in a minute.
const VERDICT_LIMIT: Duration = Duration::from_secs(300);

/// The wait between two looks.
const LOOK_INTERVAL: &str = "10s";

/// The program beside a run.
#[derive(Debug)]
pub struct Looks {
    application: Application,
    directory: PathBuf,
    watching: Child,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code.
    pub code: i32,
    /// The output.
    pub output: String,
    /// The errors.
    pub errors: String,
}

impl Looks {
    /// Starts to look, and to record.
    ///
    /// # Panics
    /// When the program is missing.
    pub fn start(application: &Application) -> Self {
        let directory = application.directory.clone();
        let log = |name: &str| fs::File::create(directory.join(name)).unwrap();
        let mut command = command(application, &["describe", &application.name, "--watch", "--json"]);
        command.args(["--interval", LOOK_INTERVAL, "--probe-time", "2s", "--record"]);
        command.arg(recorded(&directory)).stdout(log(VERDICTS)).stderr(log("describe.log"));
        Self { application: application.clone(), watching: command.spawn().unwrap(), directory }
    }

    /// The newest answer of `describe`; `None` before the first one.
    fn newest(&self) -> Option<Value> {
        let text = fs::read_to_string(self.directory.join(VERDICTS)).unwrap();
        let whole = &text[..text.rfind('\n')?];
        Some(serde_json::from_str(whole.lines().last()?).unwrap())
    }

    /// The newest verdict about each shard, as `SHARD: VERDICT`.
    fn verdicts(&self) -> Vec<(String, String)> {
        let newest = self.newest().unwrap_or_default();
        let shards = newest["verdict"]["shards"].as_object().cloned().unwrap_or_default();
        shards
            .into_iter()
            .map(|(shard, found)| (shard, found["verdict"].as_str().unwrap().to_owned()))
            .collect()
    }

    /// Waits until the verdict about these shards is one of the given ones. Returns the look.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn wait_for_verdict(&mut self, shards: &[&str], wanted: &[&str]) -> u64 {
        let what = format!("the verdict about {shards:?} is one of {wanted:?}");
        wait_for(&what, VERDICT_LIMIT, async || {
            let found = self.verdicts();
            let is_wanted = |shard: &&str| {
                found.iter().any(|(of, verdict)| of == shard && wanted.contains(&verdict.as_str()))
            };
            if shards.iter().all(is_wanted) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        self.newest().unwrap()["verdict"]["looks"].as_u64().unwrap()
    }

    /// Waits for this many looks since the start.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn wait_for_looks(&self, count: u64) {
        wait_for(&format!("there are {count} looks"), VERDICT_LIMIT, async || {
            let looks = self.newest().and_then(|newest| newest["verdict"]["looks"].as_u64()).unwrap_or(0);
            if looks >= count { Ok(()) } else { Err(format!("{looks} looks")) }
        })
        .await;
    }

    /// The shards that the newest look shows.
    pub fn shards(&self) -> Vec<String> {
        self.verdicts().into_iter().map(|(shard, _)| shard).collect()
    }

    /// The shards whose newest verdict is an alarm.
    pub fn alarms(&self) -> Vec<String> {
        let alarms = ["rewound", "unowned", "stopped", "stuck"];
        let found = self.verdicts().into_iter();
        found.filter(|(_, verdict)| alarms.contains(&verdict.as_str())).map(|(shard, _)| shard).collect()
    }

    /// Stops to look, and returns the recorded looks, one line each.
    ///
    /// # Panics
    /// When the file cannot be read.
    pub async fn stop(&mut self) -> String {
        self.watching.kill().await.unwrap();
        let text = fs::read_to_string(recorded(&self.directory)).unwrap();
        // The last line may have been cut off.
        text[..text.rfind('\n').map_or(0, |last| last + 1)].to_owned()
    }

    /// Runs a command of the program on the application.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Finished {
        let mut command = command(&self.application, &[name, &self.application.name]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output =
            timeout(COMMAND_LIMIT, command.output()).await.expect("the command ends in time").unwrap();
        Finished {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The file with the answers of `describe`.
const VERDICTS: &str = "verdicts.jsonl";

fn recorded(directory: &Path) -> PathBuf {
    directory.join("looks.jsonl")
}

fn command(application: &Application, arguments: &[&str]) -> Command {
    let mut command = program("kinesis-streaming");
    command.args(arguments).args(["--stream", &application.stream]);
    command.args(["--kinesis-endpoint-url", &application.endpoints.kinesis]);
    command.args(["--dynamodb-endpoint-url", &application.endpoints.dynamodb]);
    command
}
