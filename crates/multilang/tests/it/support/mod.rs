//! Scripted children over pipes in memory, and what the tests share.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use multilang::child::{ChildLauncher, ChildLimits, ChildOutput, ChildProcess, LaunchedChild, RunningChild};
use multilang::conversation::{CheckpointHandler, SessionLimits};
use multilang::protocol::{CheckpointFault, CheckpointRequest, ChildRecord};
use multilang::{MultilangError, MultilangErrorKind};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex,
};
use tokio::task::JoinHandle;

/// The bytes of a pipe, as on Linux.
pub(crate) const PIPE_BYTES: usize = 64 * 1024;

pub(crate) const SHARD: &str = "shardId-000000000007";

type Script = dyn Fn(Pipes) -> Pin<Box<dyn Future<Output = &'static str> + Send>> + Send + Sync;

/// The child's side of its pipes.
pub(crate) struct Pipes {
    input: BufReader<DuplexStream>,
    output: DuplexStream,
}

impl Pipes {
    /// The next line of the daemon; `None` once its side is closed.
    pub(crate) async fn read(&mut self) -> Option<serde_json::Value> {
        let mut line = String::new();
        if self.input.read_line(&mut line).await.unwrap() == 0 {
            return None;
        }
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Reads a line with this action.
    pub(crate) async fn expect(&mut self, action: &str) -> serde_json::Value {
        let line = self.read().await.unwrap();
        assert_eq!(line["action"], action);
        line
    }

    pub(crate) async fn read_exact(&mut self, bytes: &mut [u8]) {
        self.input.read_exact(bytes).await.unwrap();
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // The daemon may have ended the conversation.
        let _ = self.output.write_all(bytes.as_ref()).await;
    }

    /// Answers an action, in the form of the Python client.
    pub(crate) async fn status(&mut self, action: &str) {
        self.write(format!("\n{{\"action\": \"status\", \"responseFor\": \"{action}\"}}\n")).await;
    }

    /// Reads an action and answers it.
    pub(crate) async fn serve(&mut self, action: &str) -> serde_json::Value {
        let line = self.expect(action).await;
        self.status(action).await;
        line
    }

    /// Checkpoints, and returns the error of the answer.
    pub(crate) async fn checkpoint(&mut self, fields: &str) -> serde_json::Value {
        self.write(format!("\n{{\"action\": \"checkpoint\", {fields}}}\n")).await;
        self.expect("checkpoint").await
    }

    /// Waits until the daemon closes its side.
    pub(crate) async fn until_eof(&mut self) {
        while self.read().await.is_some() {}
    }
}

/// Starts scripts as children.
#[derive(Clone)]
pub(crate) struct Scripted {
    script: Arc<Script>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scripted")
    }
}

impl Scripted {
    /// Children that run this script; it returns how the child exits.
    pub(crate) fn new<F>(script: impl Fn(Pipes) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = &'static str> + Send + 'static,
    {
        Self { script: Arc::new(move |pipes| Box::pin(script(pipes))) }
    }
}

impl ChildLauncher for Scripted {
    fn launch(&self, _shard_id: &Arc<str>) -> Result<LaunchedChild, MultilangError> {
        let (input, child_input) = duplex(PIPE_BYTES);
        let (child_output, output) = duplex(PIPE_BYTES);
        let pipes = Pipes { input: BufReader::new(child_input), output: child_output };
        let task = tokio::spawn((self.script)(pipes));
        let process = ScriptedProcess { task, exit: None };
        Ok(LaunchedChild { input: Box::new(input), output: Box::new(output), process: Box::new(process) })
    }
}

#[derive(Debug)]
struct ScriptedProcess {
    task: JoinHandle<&'static str>,
    exit: Option<String>,
}

#[async_trait]
impl ChildProcess for ScriptedProcess {
    async fn exited(&mut self) -> String {
        if self.exit.is_none() {
            let exit = match (&mut self.task).await {
                Ok(exit) => exit.to_owned(),
                Err(error) if error.is_cancelled() => "ended by signal 9".to_owned(),
                Err(error) => format!("{error}"),
            };
            self.exit = Some(exit);
        }
        self.exit.clone().unwrap()
    }

    fn terminate(&mut self) {}

    fn kill(&mut self) {
        self.task.abort();
    }
}

/// The output of children.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) stdout: Mutex<Vec<String>>,
    pub(crate) stderr: Mutex<String>,
}

impl Recorded {
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }
}

#[async_trait]
impl ChildOutput for Recorded {
    async fn stdout_line(&self, _shard_id: &str, line: &[u8], _dropped_bytes: u64) {
        self.stdout.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
    }

    async fn stderr_bytes(&self, _shard_id: &str, bytes: &[u8]) {
        self.stderr.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
    }
}

/// A running child with this script.
pub(crate) fn child<F>(script: impl Fn(Pipes) -> F + Send + Sync + 'static) -> RunningChild
where
    F: Future<Output = &'static str> + Send + 'static,
{
    limited_child(ChildLimits::default(), Arc::default(), script)
}

/// A running child with this script, limits, and output.
pub(crate) fn limited_child<F>(
    limits: ChildLimits,
    sink: Arc<Recorded>,
    script: impl Fn(Pipes) -> F + Send + Sync + 'static,
) -> RunningChild
where
    F: Future<Output = &'static str> + Send + 'static,
{
    RunningChild::start(&Scripted::new(script), SHARD, limits, sink).unwrap()
}

/// Limits with this time for each answer.
pub(crate) fn answers_within(time: Duration) -> ChildLimits {
    let mut limits = ChildLimits::default();
    limits.session = SessionLimits::new(Some(time));
    limits
}

/// Answers checkpoints as given, in order, and records the requests.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) faults: Vec<CheckpointFault>,
    pub(crate) requests: Vec<CheckpointRequest>,
}

#[async_trait]
impl CheckpointHandler for Answers {
    async fn checkpoint(&mut self, request: &CheckpointRequest) -> Result<(), CheckpointFault> {
        self.requests.push(request.clone());
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.remove(0)) }
    }
}

/// A record with this payload.
pub(crate) fn record(data: &[u8]) -> ChildRecord<'_> {
    ChildRecord {
        data,
        partition_key: Some("k"),
        sequence_number: "5",
        arrival_millis: 1_476_889_707_123,
        sub_sequence_number: 0,
    }
}

/// Sends one record.
pub(crate) async fn process_one(child: &mut RunningChild) -> Result<Answers, MultilangError> {
    let mut answers = Answers::default();
    child.process_records([record(b"x")], Some(0), &mut answers).await?;
    Ok(answers)
}

/// The kind of a failure, after a check that its message names the shard and contains these words.
pub(crate) fn kind_naming(error: &MultilangError, words: &[&str]) -> MultilangErrorKind {
    let message = error.to_string();
    for word in [SHARD].iter().chain(words) {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    error.kind()
}
