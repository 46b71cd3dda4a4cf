//! Builds the clients from parts of the caller's own: credentials, an HTTP client, a configuration for each service.

use aws_config::SdkConfig;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_kinesis::config::{HttpClient, IntoShared as _, SharedHttpClient};

use crate::connect::{Configurations, KinesisAsl, Loaded, load};
use crate::error::AslError;
use crate::settings::AwsSettings;

/// Builds a [`KinesisAsl`] from parts of the caller's own; see [`KinesisAsl::builder`].
///
/// Whatever the parts set, the time-outs of the settings apply, and those of lease calls stay below the fail-over time.
#[derive(Debug, Clone)]
#[must_use]
pub struct KinesisAslBuilder {
    settings: AwsSettings,
    profile: Option<String>,
    shared: Option<SdkConfig>,
    credentials: Option<SharedCredentialsProvider>,
    http_client: Option<SharedHttpClient>,
    kinesis: Option<SdkConfig>,
    dynamodb: Option<SdkConfig>,
    cloudwatch: Option<SdkConfig>,
}

impl KinesisAsl {
    /// Starts to build the clients from parts of the caller's own. Without any it is [`connect`](Self::connect).
    ///
    /// ```no_run
    /// # async fn example(of_team: aws_config::SdkConfig) -> Result<(), kinesis_asl::AslError> {
    /// use kinesis_asl::{AwsSettings, KinesisAsl, RoleSettings};
    ///
    /// let mut settings = AwsSettings::new("arn:aws:kinesis:eu-west-1:111122223333:stream/orders");
    /// // The stream belongs to another account, the lease table to this one.
    /// settings.stream_role =
    ///     Some(RoleSettings::new("arn:aws:iam::111122223333:role/orders-reader").with_external_id("team-7"));
    /// let aws = KinesisAsl::builder(settings).sdk_config(of_team).connect().await?;
    /// # drop(aws);
    /// # Ok(()) }
    /// ```
    pub fn builder(settings: AwsSettings) -> KinesisAslBuilder {
        KinesisAslBuilder {
            settings,
            profile: None,
            shared: None,
            credentials: None,
            http_client: None,
            kinesis: None,
            dynamodb: None,
            cloudwatch: None,
        }
    }
}

impl KinesisAslBuilder {
    /// The profile of the shared configuration and credentials files, instead of the one of the environment. As with the command
    /// line of AWS, credentials in the environment then have no effect. A configuration of the caller's own takes precedence.
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.profile = Some(name.into());
        self
    }

    /// The configuration of all services, instead of the one of the environment and the profile.
    pub fn sdk_config(mut self, config: SdkConfig) -> Self {
        self.shared = Some(config);
        self
    }

    /// The credentials of all services, instead of those of the configuration.
    pub fn credentials(mut self, credentials: impl ProvideCredentials + 'static) -> Self {
        self.credentials = Some(SharedCredentialsProvider::new(credentials));
        self
    }

    /// The HTTP client of all services, instead of the one of the configuration.
    pub fn http_client(mut self, client: impl HttpClient + 'static) -> Self {
        self.http_client = Some(client.into_shared());
        self
    }

    /// A configuration for Kinesis alone. Neither [`credentials`](Self::credentials), [`http_client`](Self::http_client) nor a
    /// role of the settings changes it.
    pub fn kinesis_config(mut self, config: SdkConfig) -> Self {
        self.kinesis = Some(config);
        self
    }

    /// A configuration for the lease table alone, as for [`kinesis_config`](Self::kinesis_config).
    pub fn dynamodb_config(mut self, config: SdkConfig) -> Self {
        self.dynamodb = Some(config);
        self
    }

    /// A configuration for the metrics alone, as for [`kinesis_config`](Self::kinesis_config).
    pub fn cloudwatch_config(mut self, config: SdkConfig) -> Self {
        self.cloudwatch = Some(config);
        self
    }

    /// Creates the clients. Makes no calls, except those that the default chain needs to load a region or credentials.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub async fn connect(self) -> Result<KinesisAsl, AslError> {
        self.settings.validate()?;
        let Loaded { settings, config: mut shared, trusted } = match self.shared {
            Some(config) => Loaded { settings: self.settings, config, trusted: None },
            None => load(self.settings, self.profile.as_deref()).await?,
        };
        // A client of the caller's own has its own certificates.
        let trusted = trusted.filter(|_| self.http_client.is_none() && self.kinesis.is_none());
        if self.credentials.is_some() || self.http_client.is_some() {
            let mut own = shared.to_builder();
            if self.credentials.is_some() {
                own.set_credentials_provider(self.credentials);
            }
            if self.http_client.is_some() {
                own.set_http_client(self.http_client);
            }
            shared = own.build();
        }
        if let Some(role) = &settings.role {
            shared = role.assume(&shared).await;
        }
        let kinesis = match (self.kinesis, &settings.stream_role) {
            (Some(kinesis), _) => kinesis,
            (None, Some(role)) => role.assume(&shared).await,
            (None, None) => shared.clone(),
        };
        let configurations = Configurations {
            kinesis: &kinesis,
            dynamodb: self.dynamodb.as_ref().unwrap_or(&shared),
            cloudwatch: self.cloudwatch.as_ref().unwrap_or(&shared),
        };
        let aws = KinesisAsl::with_configurations(&settings, &configurations)?;
        if let Some(trusted) = trusted {
            aws.stream().trust_in_subscriptions(trusted);
        }
        Ok(aws)
    }
}

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, Region};
    use aws_sdk_kinesis::config::Credentials;
    use lease_store::LeaseStore as _;

    use super::*;
    use crate::role::RoleSettings;

    fn configuration(region: &'static str, key: &'static str) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(SharedCredentialsProvider::new(credentials(key)))
            .build()
    }

    fn credentials(key: &'static str) -> Credentials {
        Credentials::new(key, "secret", None, None, "test")
    }

    #[tokio::test]
    async fn each_service_can_have_its_own_configuration() {
        let aws = KinesisAsl::builder(AwsSettings::new("words"))
            .sdk_config(configuration("eu-west-1", "shared"))
            .credentials(credentials("own"))
            .dynamodb_config(configuration("us-east-1", "table"))
            .connect()
            .await
            .unwrap();
        let store = aws.lease_store("word-count").unwrap();
        assert_eq!(store.name(), "word-count");
        let shown = format!("{aws:?}");
        assert!(shown.contains("eu-west-1"), "{shown}");
    }

    /// fede1024/rust-rdkafka#763, apache/arrow-rs-object-store#363: the debug text of a client showed its password.
    #[tokio::test]
    async fn debug_texts_show_no_secret() {
        let secret =
            Credentials::new("own", "never-shown-secret", Some("never-shown-token".to_owned()), None, "test");
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(secret.clone()))
            .build();
        let built = KinesisAsl::builder(AwsSettings::new("words"))
            .sdk_config(shared.clone())
            .credentials(secret)
            .dynamodb_config(shared);
        let mut shown = vec![format!("{built:?}"), format!("{built:#?}")];
        let aws = built.connect().await.unwrap();
        shown.push(format!("{aws:?}{:?}", aws.stream()));
        shown.push(format!("{:?}{:?}", aws.lease_store("words").unwrap(), aws.cloudwatch("words").unwrap()));
        shown.push(format!("{:?}", aws.multi_stream_lease_store("words").unwrap()));
        for shown in shown {
            assert!(!shown.contains("never-shown"), "{shown}");
        }
    }

    #[tokio::test]
    async fn faults_of_roles_are_listed_with_the_others() {
        let mut settings = AwsSettings::new("");
        settings.role = Some(RoleSettings::new("reader"));
        settings.table.tags.insert("aws:x".to_owned(), String::new());
        let built = KinesisAsl::builder(settings).sdk_config(configuration("eu-west-1", "a"));
        let message = built.connect().await.unwrap_err().to_string();
        for part in ["stream_name", "role: arn", "table: tags key"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}
