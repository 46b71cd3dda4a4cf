//! A Kinesis server that costs next to nothing: it renders large answers in advance.
//!
//! It runs in a separate process, so its CPU time is not counted with that of its clients. It has one thread, and
//! implements HTTP/1.1 only as far as the clients here use it. Over TLS it offers HTTP/1.1 and HTTP/2.

mod connection;
mod event;
mod http2;
mod record;
mod rendered;
mod stream;
mod tls;

use std::sync::Arc;

use kinesis_streaming::prelude::BoxError;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub(crate) use stream::Plan;
use stream::Stream;

/// Prints the URLs, without and with TLS, and serves until the process is killed.
pub(crate) async fn serve(plan: Plan) -> Result<(), BoxError> {
    let server = Server::bind(plan).await?;
    let [url, tls_url] = server.urls()?;
    println!("{url} {tls_url}");
    server.run().await
}

/// A server that is bound to its ports.
#[derive(Debug)]
pub(crate) struct Server {
    stream: Arc<Stream>,
    plain: TcpListener,
    tls: TcpListener,
}

impl Server {
    pub(crate) async fn bind(plan: Plan) -> Result<Self, BoxError> {
        let stream = Arc::new(Stream::new(plan)?);
        let [plain, tls] = ["127.0.0.1:0"; 2].map(TcpListener::bind);
        Ok(Self { stream, plain: plain.await?, tls: tls.await? })
    }

    /// Returns the URLs without and with TLS.
    pub(crate) fn urls(&self) -> Result<[String; 2], BoxError> {
        let (plain, tls) = (self.plain.local_addr()?, self.tls.local_addr()?);
        Ok([format!("http://{plain}"), format!("https://{tls}")])
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let acceptor = tls::acceptor()?;
        loop {
            let (accepted, acceptor) = tokio::select! {
                accepted = self.plain.accept() => (accepted, None),
                accepted = self.tls.accept() => (accepted, Some(acceptor.clone())),
            };
            let (socket, _) = accepted?;
            socket.set_nodelay(true)?;
            let stream = self.stream.clone();
            // An error means that the client closed the connection.
            tokio::spawn(async move { drop(answer_all(socket, acceptor, stream).await) });
        }
    }
}

async fn answer_all(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    stream: Arc<Stream>,
) -> Result<(), BoxError> {
    let Some(acceptor) = acceptor else { return Ok(connection::answer_all(socket, &stream).await?) };
    let socket = acceptor.accept(socket).await?;
    if tls::is_http2(&socket) {
        http2::answer_all(socket, &stream).await
    } else {
        Ok(connection::answer_all(socket, &stream).await?)
    }
}
