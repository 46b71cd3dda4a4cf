//! Starts the real Java KCL: the daemon of its MultiLang package, with our child program as record processor.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::local_servers::{Endpoints, REGION};
use crate::programs::{built, without_aws_environment};

/// The environment variable with the directory of the jars.
pub const JARS_VARIABLE: &str = "KCL_JARS_DIR";

/// The exit status of a JVM that ended on SIGTERM, in order or not.
pub const TERMINATED_STATUS: i32 = 143;

/// The longest time of the daemon for an orderly end. It needs two seconds. But it waits in vain for the consumers of ended
/// shards, so it uses all of this whenever it holds such a lease.
const SHUTDOWN_GRACE_MILLIS: u64 = 8000;

/// The directory in which `cargo xtask interop` installed the jars. `None` without it.
pub fn jars_directory() -> Option<PathBuf> {
    std::env::var_os(JARS_VARIABLE).map(PathBuf::from)
}

/// The configuration `clientVersionConfig` of the KCL 3.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientVersion {
    /// Every worker takes leases, as in the KCL 2.x.
    CompatibleWith2x,
    /// The leader assigns the leases.
    ThreeX,
}

impl ClientVersion {
    fn as_str(self) -> &'static str {
        match self {
            Self::CompatibleWith2x => "CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X",
            Self::ThreeX => "CLIENT_VERSION_CONFIG_3X",
        }
    }
}

/// The settings that all workers of a run share.
#[derive(Debug, Clone)]
pub struct Application {
    /// The name of the application, which is also the name of the lease table.
    pub name: String,
    /// The name of the stream.
    pub stream: String,
    /// The servers.
    pub endpoints: Endpoints,
    /// The time without a renewal after which a lease may be taken.
    pub failover_time: Duration,
    /// The directory for files and logs.
    pub directory: PathBuf,
}

/// The command that starts the daemon. Its settings are written to a file next to its log.
///
/// # Errors
/// When the settings cannot be written.
///
/// # Panics
/// When the path of the child program contains spaces or special characters.
pub fn command(
    jars: &Path,
    application: &Application,
    client_version: ClientVersion,
    worker: &str,
    deliveries: &Path,
) -> io::Result<Command> {
    let settings = application.directory.join(format!("{worker}.properties"));
    fs::write(&settings, properties(application, client_version, worker, deliveries))?;
    let mut command = without_aws_environment("java".into());
    command
        // Keeps the daemon small and quick to start on a busy machine.
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        // The local server sends times in another unit in CBOR than in JSON.
        .arg("-Daws.cborEnabled=false")
        .arg("-classpath")
        .arg(jars.join("*"))
        .arg("software.amazon.kinesis.multilang.MultiLangDaemon")
        .arg("--properties-file")
        .arg(settings)
        .envs(Endpoints::environment());
    Ok(command)
}

fn properties(
    application: &Application,
    client_version: ClientVersion,
    worker: &str,
    deliveries: &Path,
) -> String {
    // The daemon splits the command at spaces without quoting and reads it as Latin-1.
    let child = format!("{} {} {worker}", built("multilang_child").display(), deliveries.display());
    assert!(
        child.is_ascii() && child.split(' ').count() == 3,
        "the daemon can start only a program in a directory without spaces and special characters: {child}"
    );
    let failover_millis = application.failover_time.as_millis();
    let client_version = client_version.as_str();
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
         clientVersionConfig = {client_version}\n\
         retrievalMode = POLLING\n\
         metricsLevel = NONE\n\
         failoverTimeMillis = {failover_millis}\n\
         shutdownGraceMillis = {SHUTDOWN_GRACE_MILLIS}\n\
         idleTimeBetweenReadsInMillis = 250\n\
         parentShardPollIntervalMillis = 1000\n"
    )
}
