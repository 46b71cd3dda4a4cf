//! The AWS clients of the daemon.

use std::collections::BTreeMap;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use kinesis_streaming::kinesis_asl::KinesisAsl;
use multilang::properties::{CredentialSource, DaemonSettings};

use super::aws_settings::aws_settings;
use super::credentials::{Chosen, choose};

/// Creates the clients. Makes no calls, except those that the default chain needs.
///
/// # Errors
/// With the faults of the settings.
pub(super) async fn connect(
    settings: &DaemonSettings,
    system_properties: &BTreeMap<String, String>,
) -> Result<KinesisAsl, String> {
    let aws = aws_settings(settings, system_properties);
    let region = aws.region.clone().map(Region::new);
    let mut builder = KinesisAsl::builder(aws);
    match choose(&settings.kinesis_credentials, region.as_ref(), system_properties).await {
        Chosen::DefaultChain => {}
        Chosen::Anonymous => {
            builder = builder.sdk_config(configuration(region.as_ref(), Chosen::Anonymous).await);
        }
        Chosen::Providers(provider) => builder = builder.credentials(provider),
    }
    let own = |list: &[CredentialSource]| list != settings.kinesis_credentials.as_slice();
    if own(&settings.dynamodb_credentials) {
        let chosen = choose(&settings.dynamodb_credentials, region.as_ref(), system_properties).await;
        builder = builder.dynamodb_config(configuration(region.as_ref(), chosen).await);
    }
    if own(&settings.cloudwatch_credentials) {
        let chosen = choose(&settings.cloudwatch_credentials, region.as_ref(), system_properties).await;
        builder = builder.cloudwatch_config(configuration(region.as_ref(), chosen).await);
    }
    // Boxed because the future is large.
    Box::pin(builder.connect()).await.map_err(|error| error.to_string())
}

/// The configuration of the environment, with these credentials.
async fn configuration(region: Option<&Region>, chosen: Chosen) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(region.clone());
    }
    loader = match chosen {
        Chosen::DefaultChain => loader,
        Chosen::Anonymous => loader.no_credentials(),
        Chosen::Providers(provider) => loader.credentials_provider(provider),
    };
    Box::pin(loader.load()).await
}
