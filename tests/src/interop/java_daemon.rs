//! How the real Java KCL is started: the daemon of its MultiLang package, with a child of ours as record processor.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::local_servers::{Endpoints, REGION};
use crate::programs::{built, without_aws_environment};

/// The variable that says where the jars are.
pub const JARS_VARIABLE: &str = "KCL_JARS_DIR";

/// The exit status of a JVM that was told to end by SIGTERM, however orderly it did.
pub const TERMINATED_STATUS: i32 = 143;

/// How long the daemon takes at most for an orderly end. It needs two seconds, but waits in vain for the consumers of shards
/// that were read to their end, so it uses all of this whenever it holds such a lease.
const SHUTDOWN_GRACE_MILLIS: u64 = 8000;

/// Where `cargo xtask interop` put the jars, if it did.
pub fn jars_directory() -> Option<PathBuf> {
    std::env::var_os(JARS_VARIABLE).map(PathBuf::from)
}

/// What all workers of a run have in common.
#[derive(Debug, Clone)]
pub struct Application {
    /// The application, which is also the name of the lease table.
    pub name: String,
    /// The stream.
    pub stream: String,
    /// The servers.
    pub endpoints: Endpoints,
    /// After so long without a renewal a lease is free to take.
    pub failover_time: Duration,
    /// Where files and logs go.
    pub directory: PathBuf,
}

/// The daemon, ready to be started. Its settings are written to a file beside its log.
///
/// # Errors
/// When the settings cannot be written.
///
/// # Panics
/// When the daemon could not find its child.
pub fn command(
    jars: &Path,
    application: &Application,
    worker: &str,
    deliveries: &Path,
) -> io::Result<Command> {
    let settings = application.directory.join(format!("{worker}.properties"));
    fs::write(&settings, properties(application, worker, deliveries))?;
    let mut command = without_aws_environment("java".into());
    command
        // A small program on a busy machine: quick to start, little memory.
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        // The local server's times are in another unit in CBOR than in JSON.
        .arg("-Daws.cborEnabled=false")
        .arg("-classpath")
        .arg(jars.join("*"))
        .arg("software.amazon.kinesis.multilang.MultiLangDaemon")
        .arg("--properties-file")
        .arg(settings)
        .envs(Endpoints::environment());
    Ok(command)
}

fn properties(application: &Application, worker: &str, deliveries: &Path) -> String {
    // Split at spaces, without quoting, and read as Latin-1.
    let child = format!("{} {} {worker}", built("multilang_child").display(), deliveries.display());
    assert!(
        child.is_ascii() && child.split(' ').count() == 3,
        "the daemon can start only a program in a directory without spaces and special characters: {child}"
    );
    let failover_millis = application.failover_time.as_millis();
    let Application { name, stream, endpoints: Endpoints { kinesis, dynamodb }, .. } = application;
    format!(
        "executableName = {child}\n\
         applicationName = {name}\n\
         streamName = {stream}\n\
         workerId = {worker}\n\
         AwsCredentialsProvider = DefaultCredentialsProvider\n\
         regionName = {REGION}\n\
         kinesisEndpoint = {kinesis}\n\
         dynamoDBEndpoint = {dynamodb}\n\
         initialPositionInStream = TRIM_HORIZON\n\
         clientVersionConfig = CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X\n\
         retrievalMode = POLLING\n\
         metricsLevel = NONE\n\
         failoverTimeMillis = {failover_millis}\n\
         shutdownGraceMillis = {SHUTDOWN_GRACE_MILLIS}\n\
         idleTimeBetweenReadsInMillis = 250\n\
         parentShardPollIntervalMillis = 1000\n"
    )
}
