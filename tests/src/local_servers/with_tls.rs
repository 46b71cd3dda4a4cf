//! The servers for tests over TLS and HTTP/2: a Kinesis of the tests' own, with enhanced fan-out, and `dynoxide`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Endpoints;
use super::in_process::serve_dynamodb;
use super::stream_server::StreamServer;
use super::tls_front::{Recycling, TlsFront, certificate_path};

/// A [`StreamServer`] and `dynoxide` in this process, each also behind a TLS front. They end when this is dropped.
#[derive(Debug)]
pub struct ServersWithTls {
    endpoints: Endpoints,
    kinesis: StreamServer,
    fronts: [TlsFront; 2],
    _dynamodb: JoinSet<()>,
}

impl ServersWithTls {
    /// Starts them. Subscriptions end after this time, and connections through the fronts are recycled if wanted.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(session: Duration, recycling: Option<Recycling>) -> io::Result<Self> {
        let kinesis = StreamServer::start(session).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let dynamodb_address = listener.local_addr()?;
        let dynamodb = serve_dynamodb(listener)?;
        Ok(Self {
            endpoints: endpoints("http", [kinesis.address(), dynamodb_address]),
            fronts: [
                TlsFront::start(kinesis.address(), recycling).await?,
                TlsFront::start(dynamodb_address, recycling).await?,
            ],
            kinesis,
            _dynamodb: dynamodb,
        })
    }

    /// The endpoints without TLS, for the test's own calls.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The endpoints of the fronts: HTTP/2 over TLS.
    pub fn tls_endpoints(&self) -> Endpoints {
        endpoints("https", [self.fronts[0].address(), self.fronts[1].address()])
    }

    /// The environment with which a child process trusts the fronts.
    pub fn trust() -> (String, String) {
        ("AWS_CA_BUNDLE".to_owned(), certificate_path().display().to_string())
    }

    /// The Kinesis server.
    pub fn kinesis(&self) -> &StreamServer {
        &self.kinesis
    }

    /// The fronts of Kinesis and DynamoDB.
    pub fn fronts(&self) -> &[TlsFront; 2] {
        &self.fronts
    }
}

fn endpoints(scheme: &str, [kinesis, dynamodb]: [SocketAddr; 2]) -> Endpoints {
    Endpoints { kinesis: format!("{scheme}://{kinesis}"), dynamodb: format!("{scheme}://{dynamodb}") }
}
