//! Workers of both kinds as processes, which end when their handle is dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // only tests call it

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::deliveries::{Deliveries, now_millis};
use super::java_daemon::{self, Application, ClientVersion, TERMINATED_STATUS};
use crate::local_servers::Endpoints;
use crate::programs::program;

/// The limit for the end of a worker after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The exit status of our worker when it could not checkpoint everything that it delivered.
pub const UNDRAINED_STATUS: i32 = 3;

/// The program of a worker.
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
    /// The kind of the worker with this name.
    ///
    /// # Panics
    /// When the name fits neither kind.
    pub fn of(worker: &str) -> Self {
        if worker.starts_with("java-") {
            Self::Java
        } else {
            assert!(worker.starts_with("rust-"), "the name of a worker of neither kind: {worker}");
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
    /// By SIGTERM, with deliveries that it could not checkpoint because it did not reach the servers.
    Undrained,
}

/// A worker that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub how: End,
    /// When the signal was sent, in milliseconds since 1970.
    pub at_millis: u128,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    /// Its name in the lease table.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    log: PathBuf,
    process: Child,
}

/// Starts workers and numbers them.
#[derive(Debug)]
pub struct Workers {
    application: Application,
    jars: PathBuf,
    handling_time: Duration,
    /// The fan-out consumer of our workers; `None`: they poll.
    consumer: Option<String>,
    /// The configuration of Java workers.
    client_version: ClientVersion,
    /// Further variables in the environment of our workers.
    variables: Vec<(String, String)>,
    started: usize,
}

impl Workers {
    /// Workers of this application, with the Java KCL from these jars.
    pub fn new(application: Application, jars: PathBuf) -> Self {
        Self {
            application,
            jars,
            handling_time: Duration::ZERO,
            consumer: None,
            client_version: ClientVersion::CompatibleWith2x,
            variables: Vec::new(),
            started: 0,
        }
    }

    /// Makes our workers take this long for each batch before they record it.
    #[must_use]
    pub fn with_handling_time(mut self, handling_time: Duration) -> Self {
        self.handling_time = handling_time;
        self
    }

    /// Workers that start from now on reach the servers at these endpoints.
    pub fn through(&mut self, endpoints: &Endpoints) -> &mut Self {
        self.application.endpoints = endpoints.clone();
        self
    }

    /// Our workers that start from now on read by fan-out, as this consumer; `None`: by polling.
    pub fn by_fan_out(&mut self, consumer: Option<&str>) -> &mut Self {
        self.consumer = consumer.map(str::to_owned);
        self
    }

    /// Java workers that start from now on have this configuration.
    pub fn with_client_version(&mut self, client_version: ClientVersion) -> &mut Self {
        self.client_version = client_version;
        self
    }

    /// Our workers that start from now on have this variable in their environment.
    pub fn with_variable(&mut self, variable: (String, String)) -> &mut Self {
        self.variables.push(variable);
        self
    }

    /// Starts one.
    ///
    /// # Panics
    /// When its program is missing.
    pub fn start(&mut self, kind: Kind) -> Worker {
        let name = format!("{}-{}", kind.to_string().to_lowercase(), self.started + 1);
        self.start_as(name, kind)
    }

    /// Starts a worker with the name of one that has ended.
    ///
    /// # Panics
    /// When its program is missing.
    pub fn start_again(&mut self, ended: &Ended) -> Worker {
        self.start_as(ended.name.clone(), Kind::of(&ended.name))
    }

    fn start_as(&mut self, name: String, kind: Kind) -> Worker {
        self.started += 1;
        let Application { name: application, stream, endpoints, failover_time, directory } =
            &self.application;
        let deliveries = directory.join(&name).with_extension(Deliveries::EXTENSION);
        let mut command = match kind {
            Kind::Java => {
                java_daemon::command(&self.jars, &self.application, self.client_version, &name, &deliveries)
                    .unwrap()
            }
            Kind::Rust => {
                let mut command = program("interop_consumer");
                command.args([stream, application, &endpoints.kinesis, &endpoints.dynamodb, &name]);
                command.arg(failover_time.as_millis().to_string()).arg(deliveries);
                command.arg(self.handling_time.as_millis().to_string()).args(&self.consumer);
                command.envs(self.variables.iter().map(|(name, value)| (name, value)));
                command
            }
        };
        // Each of several workers with the same name has a log of its own.
        let first = directory.join(format!("{name}.log"));
        let again = || directory.join(format!("{name}.{}.log", self.started));
        let path = if first.exists() { again() } else { first };
        let log = fs::File::create(&path).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Worker { name, kind, log: path, process }
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

    /// Ends it as a crash does. The child processes of a Java worker end because their input ends.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub async fn kill(mut self) -> Ended {
        self.check_running();
        self.kill_if_running().await
    }

    /// Ends it as a crash does, unless it has ended by itself. A worker that cannot reach the servers at its start may end
    /// at any time.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub async fn kill_if_running(mut self) -> Ended {
        let at_millis = now_millis();
        if self.ended_by_itself().is_none() {
            self.process.kill().await.unwrap();
        }
        Ended { name: self.name, how: End::Killed, at_millis }
    }

    /// Its exit status if it ended by itself.
    ///
    /// # Panics
    /// When the status cannot be read.
    pub fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// The log so far.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Whether it has started to read. Our worker gives up after a while when it cannot reach the servers at its start.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn has_started(&self) -> bool {
        self.log_text().contains("receiver started")
    }

    /// Pauses the process until [`resume`](Self::resume).
    ///
    /// # Panics
    /// When it had ended by itself.
    pub async fn pause(&self) {
        self.signal("-STOP").await;
    }

    /// Resumes the process.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub async fn resume(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, signal: &str) {
        let id = self.process.id().expect("the process runs").to_string();
        assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
    }

    /// Asks it to end and waits for that. Without the servers it may end with deliveries that are not checkpointed.
    ///
    /// # Panics
    /// When it does not end in time, or ends in any other way.
    pub async fn stop_as_far_as_possible(mut self, limit: Duration) -> Ended {
        let at_millis = now_millis();
        if self.ended_by_itself().is_none() {
            self.signal("-TERM").await;
        }
        let status = timeout(limit, self.process.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{} has not ended {limit:?} after SIGTERM", self.name));
        let how = match status.unwrap().code() {
            Some(0) => End::Stopped,
            Some(UNDRAINED_STATUS) => End::Undrained,
            // It ended because its start failed.
            Some(_) if !self.has_started() => End::Undrained,
            code => panic!("{} ended with {code:?} after SIGTERM; see {}", self.name, self.log.display()),
        };
        Ended { name: self.name, how, at_millis }
    }

    /// Asks it to end and waits for that.
    ///
    /// # Panics
    /// When it does not end in time, or not in order.
    pub async fn stop(mut self) -> Ended {
        self.check_running();
        let at_millis = now_millis();
        self.signal("-TERM").await;
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
