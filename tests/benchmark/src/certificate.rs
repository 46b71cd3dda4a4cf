//! The certificate of the server: that of the tests, valid for `127.0.0.1`. Its key protects nothing.

/// The file of the certificate, for `AWS_CA_BUNDLE`.
pub(crate) const CERTIFICATE_PATH: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/kinesis-asl/tests/it/support/tls/certificate.pem");

/// The certificate, as PEM.
pub(crate) const CERTIFICATE: &[u8] =
    include_bytes!("../../../crates/kinesis-asl/tests/it/support/tls/certificate.pem");

/// Its private key, as PEM.
pub(crate) const KEY: &[u8] = include_bytes!("../../../crates/kinesis-asl/tests/it/support/tls/key.pem");
