//! Environment variables that other AWS SDKs read and the Rust SDK does not: older names of credentials, a CA bundle, and the switch
//! for CBOR.

use aws_config::ConfigLoader;
use aws_credential_types::Credentials;
use aws_sdk_kinesis::config::SharedHttpClient;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder};

use crate::error::{AslError, AslErrorKind};
use crate::get_records::format::GetRecordsFormat;
use crate::settings::AwsSettings;

const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const OLDER_ACCESS_KEY: &str = "AWS_ACCESS_KEY";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const OLDER_SECRET_KEY: &str = "AWS_SECRET_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// A file of certificates that replace the system's.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// The switch of the first Java SDK.
const CBOR_DISABLE: &str = "AWS_CBOR_DISABLE";

/// The switch of the second Java SDK.
const CBOR_ENABLED: &str = "CBOR_ENABLED";

/// The start of a certificate in a PEM file.
const PEM_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// The variables, as data.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Credentials under an older name. `None`: there are none, or both names are current and the SDK reads them.
    older_credentials: Option<Credentials>,
    ca_bundle: Option<String>,
    is_cbor_disabled: bool,
}

impl Surroundings {
    /// The variables of this process.
    pub(crate) fn of_process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(value_of: impl Fn(&str) -> Option<String>) -> Self {
        let value_of = |name: &str| {
            value_of(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let is = |name: &str, values: [&str; 2]| {
            value_of(name).is_some_and(|value| values.iter().any(|other| value.eq_ignore_ascii_case(other)))
        };
        Self {
            older_credentials: older_credentials(&value_of),
            ca_bundle: value_of(CA_BUNDLE),
            is_cbor_disabled: is(CBOR_DISABLE, ["true", "1"]) || is(CBOR_ENABLED, ["false", "0"]),
        }
    }

    /// The settings with these variables. A format other than the default one stays.
    pub(crate) fn settings(&self, mut settings: AwsSettings) -> AwsSettings {
        if self.is_cbor_disabled && settings.get_records_format == GetRecordsFormat::Cbor {
            tracing::info!(
                "{CBOR_DISABLE} or {CBOR_ENABLED} of the environment disables CBOR, records are read in JSON"
            );
            settings.get_records_format = GetRecordsFormat::Json;
        }
        settings
    }

    /// The loader with these variables and certificates.
    pub(crate) fn loader(&self, mut loader: ConfigLoader, trusted: Option<&TlsContext>) -> ConfigLoader {
        if let Some(credentials) = &self.older_credentials {
            tracing::info!(
                "credentials have an older name in the environment; {ACCESS_KEY} and {SECRET_KEY} are the current ones"
            );
            loader = loader.credentials_provider(credentials.clone());
        }
        match trusted {
            Some(trusted) => loader.http_client(trusting(trusted.clone())),
            None => loader,
        }
    }

    /// The certificates that replace the system's, if there are any.
    ///
    /// # Errors
    /// `InvalidSettings` when the CA bundle cannot be read, or holds no certificate.
    pub(crate) fn trusted(&self) -> Result<Option<TlsContext>, AslError> {
        self.ca_bundle.as_deref().map(certificates).transpose()
    }
}

fn older_credentials(value_of: &impl Fn(&str) -> Option<String>) -> Option<Credentials> {
    let (key, secret) = (value_of(ACCESS_KEY), value_of(SECRET_KEY));
    if key.is_some() && secret.is_some() {
        return None;
    }
    let key = key.or_else(|| value_of(OLDER_ACCESS_KEY))?;
    let secret = secret.or_else(|| value_of(OLDER_SECRET_KEY))?;
    Some(Credentials::new(key, secret, value_of(SESSION_TOKEN), None, "environment, older names"))
}

/// The certificates of this file.
fn certificates(path: &str) -> Result<TlsContext, AslError> {
    let fault = |reason: String| {
        AslError::new(AslErrorKind::InvalidSettings, format!("{CA_BUNDLE} names the file {path:?}, {reason}"))
    };
    let pem = std::fs::read(path).map_err(|error| fault(format!("which cannot be read: {error}")))?;
    if !String::from_utf8_lossy(&pem).contains(PEM_CERTIFICATE) {
        return Err(fault(format!("which holds no certificate; it must hold lines with {PEM_CERTIFICATE}")));
    }
    let trusted =
        TlsContext::builder().with_trust_store(TrustStore::empty().with_pem_certificate(pem)).build();
    trusted.map_err(|error| fault(format!("whose certificates are not usable: {error}")))
}

/// The SDK's HTTP client, but with these certificates alone.
fn trusting(trusted: TlsContext) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = ConnectorBuilder::default()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(trusted.clone())
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(aws_sdk_kinesis::config::RuntimeComponents::sleep_impl));
        connector.build()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Surroundings {
        Surroundings::of(|name| {
            variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn current_names_of_credentials_come_first() {
        let keys = |variables: &[(&str, &str)]| {
            let credentials = of(variables).older_credentials?;
            let (key, secret) = (credentials.access_key_id(), credentials.secret_access_key());
            Some((key.to_owned(), secret.to_owned(), credentials.session_token().map(str::to_owned)))
        };
        let all = [(ACCESS_KEY, "a"), (OLDER_ACCESS_KEY, "b"), (SECRET_KEY, "c"), (OLDER_SECRET_KEY, "d")];
        assert_eq!(keys(&all), None, "the SDK reads the current names");
        assert_eq!(keys(&[all[0], all[1]]), None);
        assert_eq!(keys(&[all[3]]), None);
        let pair = |key: &str, secret: &str| Some((key.to_owned(), secret.to_owned(), None));
        assert_eq!(keys(&[all[0], all[3]]), pair("a", "d"));
        assert_eq!(keys(&[all[1], all[2]]), pair("b", "c"));
        assert_eq!(keys(&[all[1], all[3], (ACCESS_KEY, " ")]), pair("b", "d"));
        let with_token = keys(&[all[1], all[3], (SESSION_TOKEN, "t")]).unwrap();
        assert_eq!(with_token.2.as_deref(), Some("t"));
    }

    #[test]
    fn the_switches_of_the_java_sdks_disable_cbor() {
        for (name, value, format) in [
            (CBOR_DISABLE, "true", GetRecordsFormat::Json),
            (CBOR_DISABLE, "1", GetRecordsFormat::Json),
            (CBOR_DISABLE, "TRUE", GetRecordsFormat::Json),
            (CBOR_DISABLE, "false", GetRecordsFormat::Cbor),
            (CBOR_DISABLE, "", GetRecordsFormat::Cbor),
            (CBOR_ENABLED, "false", GetRecordsFormat::Json),
            (CBOR_ENABLED, "true", GetRecordsFormat::Cbor),
        ] {
            let settings = of(&[(name, value)]).settings(AwsSettings::new("words"));
            assert_eq!(settings.get_records_format, format, "{name}={value}");
        }
        let own = AwsSettings { get_records_format: GetRecordsFormat::Sdk, ..AwsSettings::new("words") };
        assert_eq!(of(&[(CBOR_DISABLE, "1")]).settings(own).get_records_format, GetRecordsFormat::Sdk);
    }
}
