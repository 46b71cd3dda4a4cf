//! Processes: the server, and contenders in Rust. Where `taskset` is there the server has a core of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kinesis_streaming::prelude::BoxError;
use serde_json::Value;

use super::cells::{Cell, Kind};
use crate::contender::Contender;
use crate::http;
use crate::shape::Shape;

/// The core of the server, and that of whoever is measured.
const SERVER_CORE: &str = "1";
const CONTENDER_CORE: &str = "0";

/// A server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
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
        let url = first_line(&mut child)?;
        Ok(Self { child, url })
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

/// Ends a process and waits for its end.
pub(crate) fn end(child: &mut Child) {
    // One that has ended already is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

/// The first line that a process prints.
pub(crate) fn first_line(child: &mut Child) -> Result<String, BoxError> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("nothing can be read from it")?).read_line(&mut line)?;
    if line.is_empty() {
        return Err(format!("it said nothing: {:?}", child.wait()?).into());
    }
    Ok(line.trim_end().to_owned())
}

/// A command on one core, where that can be had.
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

/// What a contender is told on its command line.
pub(crate) fn arguments(contender: Contender, cell: &Cell, url: &str) -> Vec<String> {
    vec![
        "contend".to_owned(),
        format!("who={}", contender.name()),
        format!("url={url}"),
        format!("shape={}", cell.shape.letter()),
        format!("shards={}", cell.shards),
        format!("answers={}", cell.answers),
        format!("seconds={}", cell.seconds),
        format!("counts={}", u8::from(cell.kind == Kind::Count)),
    ]
}

/// Lets one contender read everything and gives its figures.
pub(crate) fn contend(contender: Contender, cell: &Cell, server: &Server) -> Result<Value, BoxError> {
    let program = std::env::current_exe()?;
    let output = pinned(CONTENDER_CORE, &program)
        .args(arguments(contender, cell, &server.url))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} on {} failed: {}", contender.name(), cell.shape, output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
