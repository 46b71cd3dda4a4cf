//! A TLS server with HTTP/2 behind a proxy that can turn its present connections into black holes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_kinesis::config::SharedHttpClient;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use axum::Router;
use axum::serve::Listener;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// A self-signed certificate for `127.0.0.1`, which only these tests trust. Written by `openssl req -x509`.
const CERTIFICATE: &[u8] = include_bytes!("tls/certificate.pem");

/// Its private key. It protects nothing.
const KEY: &[u8] = include_bytes!("tls/key.pem");

/// A TLS server and the proxy in front of it. Both end when this is dropped.
#[derive(Debug)]
pub(crate) struct ProxiedServer {
    url: String,
    /// How often the present connections were turned into black holes.
    black_holes: watch::Sender<u64>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl ProxiedServer {
    /// Serves a router over HTTP/2.
    pub(crate) async fn start(app: Router) -> Self {
        let listener = TlsListener::bind().await;
        let server = listener.local_addr().expect("a bound listener has an address");
        let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://{}", proxy.local_addr().expect("a bound listener has an address"));
        let (black_holes, signal) = watch::channel(0);
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.expect("the server runs until the end") });
        tasks.spawn(forward(proxy, server, signal, connections.clone()));
        Self { url, black_holes, connections, _tasks: tasks }
    }

    /// The URL of the proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on the present connections stay open and carry no bytes; new connections work.
    pub(crate) fn turn_connections_into_black_holes(&self) {
        self.black_holes.send_modify(|count| *count += 1);
    }

    /// The number of connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An HTTP client that trusts the certificate of the tests. All clients with it share its connections.
pub(crate) fn http_client() -> SharedHttpClient {
    let context =
        TlsContext::builder().with_trust_store(TrustStore::empty().with_pem_certificate(CERTIFICATE));
    Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context.build().expect("a certificate"))
        .build_https()
}

async fn forward(
    proxy: TcpListener,
    server: SocketAddr,
    signal: watch::Receiver<u64>,
    accepted: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = proxy.accept().await.expect("a connection");
        accepted.fetch_add(1, Ordering::Relaxed);
        let mut signal = signal.clone();
        signal.mark_unchanged();
        connections.spawn(async move {
            let mut server = TcpStream::connect(server).await.expect("a server");
            let silenced = tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => false,
                changed = signal.changed() => changed.is_ok(),
            };
            if silenced {
                // Holds both sockets open, without reading or writing.
                std::future::pending::<()>().await;
            }
        });
    }
}

/// Accepts TLS connections for HTTP/2 only.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    async fn bind() -> Self {
        let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a usable certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((tcp, address)) = self.tcp.accept().await else { continue };
            if let Ok(tls) = self.acceptor.accept(tcp).await {
                return (tls, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
