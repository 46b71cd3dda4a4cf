//! The credential providers that the properties file names, as those of the SDK.

use std::collections::BTreeMap;

use aws_config::credential_process::CredentialProcessProvider;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use multilang::properties::{CredentialSource, DaemonSettings};

/// The name of credentials that the file or the command line holds, in errors of the SDK.
const OWN_PROVIDER: &str = "MultiLangDaemon";

/// The credentials of a service.
#[derive(Debug, Clone)]
pub(super) enum Chosen {
    /// Those of the default chain.
    DefaultChain,
    /// None: requests are not signed.
    Anonymous,
    /// These, in order.
    Providers(SharedCredentialsProvider),
}

/// What makes the providers of a file unusable, one line each.
pub(super) fn faults(settings: &DaemonSettings, system_properties: &BTreeMap<String, String>) -> Vec<String> {
    let lists =
        [&settings.kinesis_credentials, &settings.dynamodb_credentials, &settings.cloudwatch_credentials];
    let needs_properties =
        lists.iter().any(|list| matches!(list.as_slice(), [CredentialSource::SystemProperties]));
    let mut faults = Vec::new();
    if needs_properties && system_credentials(system_properties).is_none() {
        faults.push(
            "SystemPropertyCredentialsProvider finds no -Daws.accessKeyId and -Daws.secretAccessKey on the command line; \
             name another provider, such as DefaultCredentialsProvider"
                .to_owned(),
        );
    }
    faults
}

/// The credentials of a list, which are tried in order.
pub(super) async fn choose(
    sources: &[CredentialSource],
    region: Option<&Region>,
    system_properties: &BTreeMap<String, String>,
) -> Chosen {
    match sources {
        [CredentialSource::DefaultChain] | [] => return Chosen::DefaultChain,
        [CredentialSource::Anonymous, ..] => return Chosen::Anonymous,
        _ => {}
    }
    let mut chain: Option<CredentialsProviderChain> = None;
    for source in sources {
        let Some(provider) = provider(source, region, system_properties).await else { continue };
        let name = source.to_string();
        chain = Some(match chain {
            None => CredentialsProviderChain::first_try(name, provider),
            Some(chain) => chain.or_else(name, provider),
        });
    }
    chain.map_or(Chosen::DefaultChain, |chain| Chosen::Providers(SharedCredentialsProvider::new(chain)))
}

async fn provider(
    source: &CredentialSource,
    region: Option<&Region>,
    system_properties: &BTreeMap<String, String>,
) -> Option<SharedCredentialsProvider> {
    let configuration = ProviderConfig::without_region().with_region(region.cloned());
    Some(match source {
        CredentialSource::DefaultChain => {
            let mut chain = DefaultCredentialsChain::builder();
            chain.set_region(region.cloned());
            // Boxed because the future is large.
            SharedCredentialsProvider::new(Box::pin(chain.build()).await)
        }
        CredentialSource::Environment => {
            SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new())
        }
        CredentialSource::Profile(name) => {
            let mut builder = ProfileFileCredentialsProvider::builder().configure(&configuration);
            if let Some(name) = name {
                builder = builder.profile_name(name);
            }
            SharedCredentialsProvider::new(builder.build())
        }
        CredentialSource::InstanceMetadata => SharedCredentialsProvider::new(
            ImdsCredentialsProvider::builder().configure(&configuration).build(),
        ),
        CredentialSource::Container => SharedCredentialsProvider::new(
            EcsCredentialsProvider::builder().configure(&configuration).build(),
        ),
        CredentialSource::WebIdentity => SharedCredentialsProvider::new(
            WebIdentityTokenCredentialsProvider::builder().configure(&configuration).build(),
        ),
        CredentialSource::AssumeRole { role_arn, session_name, external_id, region: of_role, endpoint } => {
            let mut loader = aws_config::defaults(BehaviorVersion::latest());
            let of_role = of_role.clone().map(Region::new).or_else(|| region.cloned());
            if let Some(region) = &of_role {
                loader = loader.region(region.clone());
            }
            if let Some(host) = endpoint {
                loader = loader.endpoint_url(with_scheme(host));
            }
            let loaded = Box::pin(loader.load()).await;
            let mut role =
                AssumeRoleProvider::builder(role_arn).session_name(session_name).configure(&loaded);
            if let Some(external_id) = external_id {
                role = role.external_id(external_id);
            }
            SharedCredentialsProvider::new(Box::pin(role.build()).await)
        }
        CredentialSource::SystemProperties => {
            SharedCredentialsProvider::new(system_credentials(system_properties)?)
        }
        CredentialSource::Static { access_key, secret_key } => {
            SharedCredentialsProvider::new(Credentials::new(access_key, secret_key, None, None, OWN_PROVIDER))
        }
        CredentialSource::Process(command) => {
            SharedCredentialsProvider::new(CredentialProcessProvider::new(command.clone()))
        }
        // An unsigned request can only be the first choice, and a source of a later version is not known here.
        _ => return None,
    })
}

/// The credentials that `-Daws.accessKeyId`, `-Daws.secretAccessKey` and `-Daws.sessionToken` hold.
fn system_credentials(system_properties: &BTreeMap<String, String>) -> Option<Credentials> {
    let (access_key, secret_key) =
        (system_properties.get("aws.accessKeyId")?, system_properties.get("aws.secretAccessKey")?);
    let token = system_properties.get("aws.sessionToken").cloned();
    Some(Credentials::new(access_key, secret_key, token, None, OWN_PROVIDER))
}

/// Java takes the host alone.
fn with_scheme(host: &str) -> String {
    if host.contains("://") { host.to_owned() } else { format!("https://{host}") }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::ProvideCredentials as _;
    use multilang::properties::parse_credentials;

    use super::*;

    async fn chosen(list: &str, system_properties: &BTreeMap<String, String>) -> Chosen {
        let (sources, messages) = parse_credentials(list);
        assert_eq!(messages, Vec::<String>::new(), "{list}");
        choose(&sources, Some(&Region::from_static("us-east-1")), system_properties).await
    }

    #[tokio::test]
    async fn keys_of_file_and_command_line_are_used_in_order() {
        let properties = BTreeMap::from([
            ("aws.accessKeyId".to_owned(), "of-line".to_owned()),
            ("aws.secretAccessKey".to_owned(), "s".to_owned()),
        ]);
        for (list, properties, key) in [
            ("SystemPropertyCredentialsProvider", &properties, "of-line"),
            ("StaticCredentialsProvider|of-file|s", &properties, "of-file"),
            (
                "SystemPropertyCredentialsProvider,StaticCredentialsProvider|of-file|s",
                &BTreeMap::new(),
                "of-file",
            ),
        ] {
            let Chosen::Providers(provider) = chosen(list, properties).await else { panic!("{list}") };
            assert_eq!(provider.provide_credentials().await.unwrap().access_key_id(), key, "{list}");
        }
    }

    #[tokio::test]
    async fn default_chain_and_anonymous_need_no_provider() {
        let none = BTreeMap::new();
        assert!(matches!(chosen("DefaultCredentialsProvider", &none).await, Chosen::DefaultChain));
        assert!(matches!(chosen("AnonymousCredentialsProvider", &none).await, Chosen::Anonymous));
    }

    #[tokio::test]
    async fn every_provider_of_the_table_can_be_built() {
        for list in [
            "DefaultCredentialsProvider,EnvironmentVariableCredentialsProvider",
            "EnvironmentVariableCredentialsProvider",
            "ProfileCredentialsProvider|audit",
            "InstanceProfileCredentialsProvider",
            "ContainerCredentialsProvider",
            "WebIdentityTokenFileCredentialsProvider",
            "ProcessCredentialsProvider|true",
            "StsAssumeRoleCredentialsProvider|arn:aws:iam::123456789012:role/r|s|externalId=xy|endpoint=sts.example^eu-west-1",
        ] {
            assert!(matches!(chosen(list, &BTreeMap::new()).await, Chosen::Providers(_)), "{list}");
        }
    }

    #[test]
    fn host_of_the_role_service_gets_a_scheme() {
        assert_eq!(with_scheme("sts.example"), "https://sts.example");
        assert_eq!(with_scheme("http://127.0.0.1:1"), "http://127.0.0.1:1");
    }
}
