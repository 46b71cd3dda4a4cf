//! TLS with HTTP/2 in front of a server that speaks neither, as a load balancer has it: it decrypts, passes the frames on, and
//! recycles connections if a test wants that.
//!
//! A recycled connection gets a GOAWAY frame that names the last request that the server will answer. Later requests on it are
//! not passed on. After a grace period the connection is closed, whatever is still under way on it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use self::frames::{Frames, goaway, stream_id};

mod frames;

/// The bytes of one read of a connection: a frame of the usual size.
const READ_BYTES: usize = 16 * 1024;

/// How a front recycles connections.
#[derive(Debug, Clone, Copy)]
pub struct Recycling {
    /// The age at which a connection gets its GOAWAY.
    pub age: Duration,
    /// The time until it is closed.
    pub grace: Duration,
}

/// A TLS front. It ends with all its connections when this is dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    counts: Arc<Counts>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    recycled: AtomicU64,
    refused_requests: AtomicU64,
}

impl TlsFront {
    /// Starts a front for a server, with the certificate of [`certificate_path`].
    ///
    /// # Errors
    /// When no port is free, or the certificate is not usable.
    pub async fn start(server: SocketAddr, recycling: Option<Recycling>) -> io::Result<Self> {
        let acceptor = acceptor()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let (mut task, shared) = (JoinSet::new(), counts.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (acceptor, counts) = (acceptor.clone(), shared.clone());
                connections.spawn(async move {
                    // A client may break the connection at any time.
                    let _ = carry(&acceptor, client, server, recycling, &counts).await;
                });
            }
        });
        Ok(Self { address, counts, _task: task })
    }

    /// The address at which the front listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// How many connections were recycled, and how many requests came after the GOAWAY of their connection.
    pub fn recycled(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.counts.recycled), of(&self.counts.refused_requests))
    }
}

/// The file with the certificate of all fronts, for `AWS_CA_BUNDLE`. It is valid for `127.0.0.1`, and its key protects nothing.
pub(super) fn certificate_path() -> PathBuf {
    file("certificate.pem")
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/kinesis-asl/tests/it/support/tls").join(name)
}

fn acceptor() -> io::Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_file(certificate_path()).map_err(io::Error::other)?];
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn carry(
    acceptor: &TlsAcceptor,
    client: TcpStream,
    server: SocketAddr,
    recycling: Option<Recycling>,
    counts: &Counts,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    counts.connections.fetch_add(1, Ordering::Relaxed);
    match recycling {
        None => copy_bidirectional(&mut client, &mut server).await.map(drop),
        Some(recycling) => carry_and_recycle(client, server, recycling, counts).await,
    }
}

async fn carry_and_recycle(
    client: TlsStream<TcpStream>,
    server: TcpStream,
    recycling: Recycling,
    counts: &Counts,
) -> io::Result<()> {
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    let (mut server_reads, mut server_writes) = server.into_split();
    let (mut up, mut down) = (Frames::of_client(), Frames::of_server());
    let recycle_at = Instant::now() + recycling.age;
    // The last request on the connection that is answered.
    let (mut newest, mut last) = (0, None);
    loop {
        tokio::select! {
            read = fill(&mut client_reads, &mut up) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(frame) = up.next() {
                    let stream = stream_id(&frame);
                    if last.is_some_and(|last| stream > last) {
                        if stream > newest {
                            newest = stream;
                            counts.refused_requests.fetch_add(1, Ordering::Relaxed);
                        }
                        continue;
                    }
                    newest = newest.max(stream);
                    server_writes.write_all(&frame).await?;
                }
            }
            read = fill(&mut server_reads, &mut down) => {
                if read? == 0 {
                    return client_writes.shutdown().await;
                }
                while let Some(frame) = down.next() {
                    client_writes.write_all(&frame).await?;
                }
                client_writes.flush().await?;
            }
            () = sleep_until(recycle_at), if last.is_none() => {
                last = Some(newest);
                counts.recycled.fetch_add(1, Ordering::Relaxed);
                client_writes.write_all(&goaway(newest)).await?;
                client_writes.flush().await?;
            }
            () = sleep_until(recycle_at + recycling.grace), if last.is_some() => return Ok(()),
        }
    }
}

/// Reads what has arrived. Safe to cancel.
async fn fill(from: &mut (impl AsyncRead + Unpin), frames: &mut Frames) -> io::Result<usize> {
    let buffer = frames.buffer();
    buffer.reserve(READ_BYTES);
    from.read_buf(buffer).await
}
