//! TLS of the contenders: they trust the certificate of the server alone.

use std::sync::Arc;

use aws_sdk_kinesis::config::SharedHttpClient;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use kinesis_streaming::prelude::BoxError;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::certificate::CERTIFICATE;

/// The HTTP client of the SDK, which prefers HTTP/2.
pub(super) fn http_client() -> Result<SharedHttpClient, BoxError> {
    let trusted = TlsContext::builder()
        .with_trust_store(TrustStore::empty().with_pem_certificate(CERTIFICATE))
        .build()?;
    let client = Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(trusted);
    Ok(client.build_https())
}

/// A connector for a bare connection, which speaks HTTP/1.1.
pub(super) fn connector() -> Result<TlsConnector, BoxError> {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(CERTIFICATE)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
