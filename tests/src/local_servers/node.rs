//! Servers from npm as child processes: a second, independent opinion on Kinesis and DynamoDB.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{Endpoints, REGION};

/// The limit for the first answer of a server.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// `kinesis-local` (kinesis-mock) and `dynalite`, each a process of its own. They end when this is dropped.
#[derive(Debug)]
pub struct NodeServers {
    endpoints: Endpoints,
    _kinesis: Child,
    _dynamodb: Child,
}

impl NodeServers {
    /// The directory in which `cargo xtask wire` installed the packages. `None` without it.
    pub fn directory() -> Option<PathBuf> {
        std::env::var_os("EMULATORS_DIR").map(PathBuf::from)
    }

    /// Starts both from the packages in this directory, and waits until each answers a call.
    ///
    /// # Errors
    /// When a server cannot be started or does not answer in time.
    pub async fn start(directory: &Path) -> io::Result<Self> {
        let modules = directory.join("node_modules");
        let (kinesis_port, tls_port, dynamodb_port) = (free_port()?, free_port()?, free_port()?);
        let kinesis = Command::new("node")
            .arg("main.js")
            // It finds its certificate only from its own directory.
            .current_dir(modules.join("kinesis-local"))
            .env("KINESIS_MOCK_PLAIN_PORT", kinesis_port.to_string())
            .env("KINESIS_MOCK_TLS_PORT", tls_port.to_string())
            .env("SHARD_LIMIT", "1000")
            .env("AWS_REGION", REGION)
            .env("LOG_LEVEL", "ERROR")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let dynamodb = Command::new("node")
            .arg(modules.join("dynalite/cli.js"))
            .args(["--host", "127.0.0.1", "--createTableMs", "50", "--port", &dynamodb_port.to_string()])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let endpoints = Endpoints {
            kinesis: format!("http://127.0.0.1:{kinesis_port}"),
            dynamodb: format!("http://127.0.0.1:{dynamodb_port}"),
        };
        let (kinesis_client, dynamodb_client) = (endpoints.kinesis_client(), endpoints.dynamodb_client());
        wait_until_ready("kinesis-local", async || kinesis_client.list_streams().send().await.is_ok())
            .await?;
        wait_until_ready("dynalite", async || dynamodb_client.list_tables().send().await.is_ok()).await?;
        Ok(Self { endpoints, _kinesis: kinesis, _dynamodb: dynamodb })
    }

    /// The endpoints at which the servers listen.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn wait_until_ready(name: &str, mut answers: impl AsyncFnMut() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    while !answers().await {
        if Instant::now() > deadline {
            let message = format!("{name} does not answer after {READY_LIMIT:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
