//! Workers of both kinds as processes, which end with their handle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // only tests call it

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::deliveries::{Deliveries, now_millis};
use super::java_daemon::{self, Application, TERMINATED_STATUS};
use crate::programs::program;

/// How long a worker may take to end after it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Which program a worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The Java KCL.
    Java,
    /// Our receiver.
    Rust,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Java => "Java",
            Self::Rust => "Rust",
        })
    }
}

impl Kind {
    /// The kind of the worker of this name.
    ///
    /// # Panics
    /// When no worker is called so.
    pub fn of(worker: &str) -> Self {
        if worker.starts_with("java-") {
            Self::Java
        } else {
            assert!(worker.starts_with("rust-"), "a worker of neither kind: {worker}");
            Self::Rust
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By SIGKILL: nothing was flushed.
    Killed,
    /// By SIGTERM, in order.
    Stopped,
}

/// A worker that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How.
    pub how: End,
    /// When the signal was sent.
    pub at_millis: u128,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    /// Its name in the lease table.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    process: Child,
}

/// Starts workers, numbered through.
#[derive(Debug)]
pub struct Workers {
    application: Application,
    jars: PathBuf,
    started: usize,
}

impl Workers {
    /// Of this application, with the Java KCL from these jars.
    pub fn new(application: Application, jars: PathBuf) -> Self {
        Self { application, jars, started: 0 }
    }

    /// Starts one.
    ///
    /// # Panics
    /// When its program is missing.
    pub fn start(&mut self, kind: Kind) -> Worker {
        self.started += 1;
        let Application { name: application, stream, endpoints, failover_time, directory } =
            &self.application;
        let name = format!("{}-{}", kind.to_string().to_lowercase(), self.started);
        let deliveries = directory.join(&name).with_extension(Deliveries::EXTENSION);
        let mut command = match kind {
            Kind::Java => java_daemon::command(&self.jars, &self.application, &name, &deliveries).unwrap(),
            Kind::Rust => {
                let mut command = program("interop_consumer");
                command.args([stream, application, &endpoints.kinesis, &endpoints.dynamodb, &name]);
                command.arg(failover_time.as_millis().to_string()).arg(deliveries);
                command
            }
        };
        let log = fs::File::create(directory.join(format!("{name}.log"))).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Worker { name, kind, process }
    }
}

impl Worker {
    /// Fails when it has ended by itself.
    ///
    /// # Panics
    /// When it has.
    pub fn check_running(&mut self) {
        let status = self.process.try_wait().unwrap();
        assert!(status.is_none(), "{} has ended by itself: {status:?}; see its log", self.name);
    }

    /// Ends it as a crash does. The children of a Java worker see that their input ends, and leave.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub async fn kill(mut self) -> Ended {
        self.check_running();
        let at_millis = now_millis();
        self.process.kill().await.unwrap();
        Ended { name: self.name, how: End::Killed, at_millis }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end in time, or not in order.
    pub async fn stop(mut self) -> Ended {
        self.check_running();
        let at_millis = now_millis();
        let id = self.process.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let status = timeout(STOP_LIMIT, self.process.wait()).await;
        let status =
            status.unwrap_or_else(|_| panic!("{} has not ended {STOP_LIMIT:?} after SIGTERM", self.name));
        let in_order = match self.kind {
            Kind::Java => TERMINATED_STATUS,
            Kind::Rust => 0,
        };
        assert_eq!(status.unwrap().code(), Some(in_order), "{} did not end in order; see its log", self.name);
        Ended { name: self.name, how: End::Stopped, at_millis }
    }
}
