//! TLS of the server, with HTTP/2 and HTTP/1.1 by ALPN.

use std::sync::Arc;

use kinesis_streaming::prelude::BoxError;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::certificate::{CERTIFICATE, KEY};

/// The name of HTTP/2 in ALPN.
const HTTP2: &[u8] = b"h2";

pub(super) fn acceptor() -> Result<TlsAcceptor, BoxError> {
    let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE)?];
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(KEY)?)?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether the client chose HTTP/2.
pub(super) fn is_http2(socket: &TlsStream<TcpStream>) -> bool {
    socket.get_ref().1.alpn_protocol() == Some(HTTP2)
}
