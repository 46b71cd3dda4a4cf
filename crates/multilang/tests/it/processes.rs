//! Children as processes of the operating system: rows 6, 7, 9 and 12 of the conformance table.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use multilang::child::{ChildCommand, ChildLimits, ProcessLauncher, RunningChild};
use multilang::{MultilangError, MultilangErrorKind};

use crate::support::{Recorded, SHARD, kind_naming, process_one};

/// Writes a shell script.
fn script(name: &str, body: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    path
}

fn start(command: &str, limits: ChildLimits, sink: &Arc<Recorded>) -> Result<RunningChild, MultilangError> {
    let launcher = ProcessLauncher::new(ChildCommand::parse(command).unwrap(), sink.clone());
    RunningChild::start(&launcher, SHARD, limits, sink.clone())
}

/// Starts a shell that runs this script.
fn shell(name: &str, body: &str, limits: ChildLimits, sink: &Arc<Recorded>) -> RunningChild {
    let path = script(name, body);
    start(&format!("sh {}", path.display()), limits, sink).unwrap()
}

const ANSWER: &str = "read line; echo '{\"action\":\"status\",\"responseFor\":\"initialize\"}'";

#[tokio::test]
async fn missing_executable_is_named_with_a_remedy() {
    let error = start("no-such-program-anywhere x", ChildLimits::default(), &Arc::default()).unwrap_err();
    let kind = kind_naming(&error, &["no-such-program-anywhere", "executableName"]);
    assert_eq!(kind, MultilangErrorKind::ChildNotStarted);
}

#[tokio::test]
async fn file_that_is_not_executable_is_named_with_a_remedy() {
    let path = script("not-executable.sh", "exit 0");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = start(&path.display().to_string(), ChildLimits::default(), &Arc::default()).unwrap_err();
    let kind = kind_naming(&error, &["not-executable.sh", "make the file executable"]);
    assert_eq!(kind, MultilangErrorKind::ChildNotStarted);
}

#[tokio::test]
async fn exit_status_and_standard_error_are_reported() {
    let sink = Arc::new(Recorded::default());
    let body = format!("{ANSWER}; read line; printf 'no database' >&2; exit 3");
    let mut child = shell("exits.sh", &body, ChildLimits::default(), &sink);
    child.initialize(Some(("TRIM_HORIZON", 0))).await.unwrap();
    let error = process_one(&mut child).await.unwrap_err();
    let kind = kind_naming(&error, &["during processRecords", "exit status 3"]);
    assert_eq!(kind, MultilangErrorKind::ChildExited);
    assert_eq!(*sink.stderr.lock().unwrap(), "no database");
}

#[tokio::test]
async fn killed_child_is_noticed_between_two_actions() {
    let body = format!("{ANSWER}; kill -9 $$");
    let mut child = shell("killed.sh", &body, ChildLimits::default(), &Arc::default());
    child.initialize(None).await.unwrap();
    assert_eq!(kind_naming(&child.failed().await, &["signal 9"]), MultilangErrorKind::ChildExited);
}

#[tokio::test]
async fn end_of_input_lets_the_child_exit() {
    let body = format!("{ANSWER}; read line; echo bye; exit 0");
    let sink = Arc::new(Recorded::default());
    let mut child = shell("exits-at-eof.sh", &body, ChildLimits::default(), &sink);
    child.initialize(None).await.unwrap();
    assert_eq!(child.stop().await, "exit status 0");
}

#[tokio::test]
async fn child_that_stays_is_terminated_with_its_group() {
    let mut limits = ChildLimits::default();
    limits.exit_time = Duration::from_millis(1);
    // The sleep is a process that the child started; it holds the pipes too.
    let body = format!("{ANSWER}; sleep 600");
    let mut child = shell("stays.sh", &body, limits, &Arc::default());
    child.initialize(None).await.unwrap();
    assert_eq!(child.stop().await, "ended by signal 15");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn child_leads_a_process_group_of_its_own() {
    let sink = Arc::new(Recorded::default());
    let body = format!("cut -d' ' -f5 /proc/$$/stat; echo $$; {ANSWER}; read line");
    let mut child = shell("group.sh", &body, ChildLimits::default(), &sink);
    child.initialize(None).await.unwrap();
    let lines = sink.stdout();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1]);
    child.stop().await;
}
