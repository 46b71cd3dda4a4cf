//! The processes of the server and of the contenders in Rust. Where `taskset` exists, the server gets its own core.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kinesis_streaming::prelude::BoxError;
use serde_json::Value;

use super::comparisons::{Comparison, Kind};
use crate::certificate::CERTIFICATE_PATH;
use crate::contender::Contender;
use crate::http;
use crate::shape::Shape;

/// The core of the server, and the core of the measured process.
const SERVER_CORE: &str = "1";
const CONTENDER_CORE: &str = "0";

/// A server process; killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    tls_url: String,
}

impl Server {
    pub(crate) fn start(shape: Shape, shards: u64, answers: u64, is_closed: bool) -> Result<Self, BoxError> {
        let program = std::env::current_exe()?;
        let mut command = pinned(SERVER_CORE, &program);
        command.arg("serve").args([
            format!("shape={}", shape.letter()),
            format!("shards={shards}"),
            format!("answers={answers}"),
            format!("closed={}", u8::from(is_closed)),
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let line = first_line(&mut child)?;
        let (url, tls_url) = line.split_once(' ').ok_or("the server did not print two URLs")?;
        Ok(Self { child, url: url.to_owned(), tls_url: tls_url.to_owned() })
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64, BoxError> {
        let micros = http::stats(&self.url)?.get("cpu_micros").copied().unwrap_or(0);
        Ok(std::time::Duration::from_micros(micros).as_secs_f64())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills a process and waits for its end.
pub(crate) fn end(child: &mut Child) {
    // An error means that it has already ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// Returns the first line that a process prints.
pub(crate) fn first_line(child: &mut Child) -> Result<String, BoxError> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("the process has no standard output")?).read_line(&mut line)?;
    if line.is_empty() {
        return Err(format!("the process printed nothing: {:?}", child.wait()?).into());
    }
    Ok(line.trim_end().to_owned())
}

/// Creates a command pinned to one core, where `taskset` exists.
pub(crate) fn pinned(core: &str, program: &Path) -> Command {
    let has_taskset =
        Command::new("taskset").args(["-c", core, "true"]).status().is_ok_and(|status| status.success());
    if !has_taskset {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Returns the command line of a contender.
pub(crate) fn arguments(contender: Contender, comparison: &Comparison, server: &Server) -> Vec<String> {
    let endpoint = if comparison.kind.is_over_tls() { &server.tls_url } else { &server.url };
    vec![
        "contend".to_owned(),
        format!("who={}", contender.name()),
        format!("url={}", server.url),
        format!("endpoint={endpoint}"),
        format!("shape={}", comparison.shape.letter()),
        format!("shards={}", comparison.shards),
        format!("answers={}", comparison.answers),
        format!("seconds={}", comparison.seconds),
        format!("counts={}", u8::from(comparison.kind == Kind::Count)),
    ]
}

/// Runs one contender to its end and returns its figures.
pub(crate) fn contend(
    contender: Contender,
    comparison: &Comparison,
    server: &Server,
) -> Result<Value, BoxError> {
    let program = std::env::current_exe()?;
    let output = pinned(CONTENDER_CORE, &program)
        .args(arguments(contender, comparison, server))
        .env("AWS_CA_BUNDLE", CERTIFICATE_PATH)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} on {} failed: {}", contender.name(), comparison.shape, output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
