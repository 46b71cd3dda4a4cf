//! Creates the AWS clients: shared credentials, and a region and an endpoint for each service.

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_smithy_http_client::tls::TlsContext;
use aws_types::service_config::ServiceConfigKey;
#[cfg(feature = "dynamodb")]
use lease_store::dynamodb::{DynamoDbLeaseStore, DynamoDbMultiStreamLeaseStore};
use shard_worker::StreamSource as _;

use crate::dead_letters::KinesisDeadLetters;
use crate::error::{AslError, AslErrorKind};
use crate::fan_out::settings::{ConsumerChoice, RetrievalMode};
use crate::identity::{CallerIdentity, Identity};
#[cfg(feature = "dynamodb")]
use crate::lease_table::LeaseTable;
#[cfg(feature = "cloudwatch")]
use crate::metrics::CloudWatchPublisher;
use crate::settings::{AwsSettings, endpoint_fault};
use crate::stream::KinesisStream;
use crate::stream_arn::{MAX_NAME_BYTES, STREAM_FORM, StreamId, is_name};
use crate::stream_client::in_region;
use crate::surroundings::Surroundings;
use crate::timeouts::timeouts;

/// The clients of an application: its stream, lease table, dead letters and metrics, with the credentials of this process.
///
/// ```
/// use kinesis_asl::{AslError, AwsSettings, KinesisAsl};
///
/// async fn connect() -> Result<KinesisAsl, AslError> {
///     let mut settings = AwsSettings::new("orders");
///     settings.region = Some("eu-central-1".to_owned());
///     KinesisAsl::connect(settings).await // then `stream()` and `lease_store("billing")` for the builder of a consumer
/// }
/// ```
#[derive(Debug, Clone)]
pub struct KinesisAsl {
    stream: KinesisStream,
    kinesis: aws_sdk_kinesis::Client,
    is_at_aws: bool,
    identity: Identity,
    #[cfg(feature = "dynamodb")]
    lease_table: LeaseTable,
    #[cfg(feature = "cloudwatch")]
    cloudwatch: aws_sdk_cloudwatch::Client,
}

/// The configuration of each service.
#[derive(Clone, Copy)]
pub(crate) struct Configurations<'a> {
    pub(crate) kinesis: &'a SdkConfig,
    pub(crate) dynamodb: &'a SdkConfig,
    pub(crate) cloudwatch: &'a SdkConfig,
}

/// What the environment and the profile say.
pub(crate) struct Loaded {
    /// The settings with the variables of the environment.
    pub(crate) settings: AwsSettings,
    pub(crate) config: SdkConfig,
    /// The certificates that replace the system's.
    pub(crate) trusted: Option<TlsContext>,
}

/// Adds what the environment and the profile say.
pub(crate) async fn load(settings: AwsSettings, profile: Option<&str>) -> Result<Loaded, AslError> {
    let surroundings = Surroundings::of_process();
    let settings = surroundings.settings(settings);
    let trusted = surroundings.trusted()?;
    let loader = of_profile(surroundings.loader(loader(&settings), trusted.as_ref()), profile);
    // Boxed because the future is large.
    let config = Box::pin(loader.load()).await;
    Ok(Loaded { settings, config, trusted })
}

impl KinesisAsl {
    /// Creates the clients with credentials from the default chain: environment, profile, web identity, container, instance.
    /// Makes no calls, except those that the chain needs to load a region or credentials.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub async fn connect(settings: AwsSettings) -> Result<Self, AslError> {
        Self::builder(settings).connect().await
    }

    /// Creates the clients from a configuration of the caller's own: its credentials, HTTP client, retries, and whatever else it
    /// sets. The settings take precedence, and their time-outs apply. Makes no calls. For roles, and for configurations of single
    /// services, see [`builder`](Self::builder).
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub fn from_sdk_config(settings: &AwsSettings, config: &SdkConfig) -> Result<Self, AslError> {
        settings.validate()?;
        Self::with_config(settings, config)
    }

    fn with_config(settings: &AwsSettings, loaded: &SdkConfig) -> Result<Self, AslError> {
        let configurations = Configurations { kinesis: loaded, dynamodb: loaded, cloudwatch: loaded };
        Self::with_configurations(settings, &configurations)
    }

    pub(crate) fn with_configurations(
        settings: &AwsSettings,
        configurations: &Configurations<'_>,
    ) -> Result<Self, AslError> {
        let Configurations { kinesis: loaded, dynamodb: of_dynamodb, cloudwatch: of_cloudwatch } =
            *configurations;
        let endpoints = Endpoints::new(settings, configurations)?;
        let region = settings.stream_region().map(Region::new).or_else(|| loaded.region().cloned());
        let Some(region) = region else { return Err(no_region(&endpoints)) };
        // A service with a configuration of its own is in the region of that.
        let region_of = |own: &Option<String>, config: &SdkConfig| {
            let of_config = || config.region().filter(|_| !std::ptr::eq(config, loaded)).cloned();
            own.clone().map(Region::new).or_else(of_config).unwrap_or_else(|| region.clone())
        };
        let dynamodb_region = region_of(&settings.dynamodb_region, of_dynamodb);
        let cloudwatch_region = region_of(&settings.cloudwatch_region, of_cloudwatch);
        tracing::info!(
            stream = settings.stream_name,
            %region,
            endpoint = endpoints.kinesis.shown(),
            %dynamodb_region,
            dynamodb_endpoint = endpoints.dynamodb.shown(),
            %cloudwatch_region,
            cloudwatch_endpoint = endpoints.cloudwatch.shown(),
            retrieval = %settings.retrieval,
            "created the AWS clients"
        );

        let is_at_aws = endpoints.kinesis.url.is_none();
        let identity = Identity::new(settings, loaded, region.clone(), endpoints.sts.url.clone(), is_at_aws);
        let mut kinesis = aws_sdk_kinesis::config::Builder::from(loaded)
            .region(region.clone())
            .timeout_config(timeouts(settings));
        kinesis.set_endpoint_url(endpoints.kinesis.url);
        let kinesis = aws_sdk_kinesis::Client::from_conf(kinesis.build());
        let stream = KinesisStream::from_client(kinesis.clone(), &settings.stream_name);
        Ok(Self {
            stream: stream
                .with_idle_time_between_reads(settings.idle_time_between_reads)
                .with_max_idle_time_between_reads(settings.max_idle_time_between_reads.unwrap_or_default())
                .with_read_share_percent(settings.read_share_percent)
                .with_retrieval(settings.retrieval.clone())
                .with_get_records_format(settings.get_records_format),
            kinesis,
            is_at_aws,
            identity,
            #[cfg(feature = "dynamodb")]
            lease_table: LeaseTable::new(settings, of_dynamodb, dynamodb_region, endpoints.dynamodb.url),
            #[cfg(feature = "cloudwatch")]
            cloudwatch: crate::metrics::client(
                settings,
                of_cloudwatch,
                cloudwatch_region,
                endpoints.cloudwatch.url,
            ),
        })
    }

    /// The stream.
    pub fn stream(&self) -> KinesisStream {
        self.stream.clone()
    }

    /// The lease store of an application. Its table is the one of the settings, or else has the name of the application. Needs the
    /// feature `dynamodb`, which is on by default.
    ///
    /// # Errors
    /// `InvalidSettings` when that is not a valid table name.
    #[cfg(feature = "dynamodb")]
    pub fn lease_store(&self, application: &str) -> Result<DynamoDbLeaseStore, AslError> {
        self.lease_table.store(application)
    }

    /// Another stream, for a consumer of several streams: by name one of the same account and region, by ARN also one of another
    /// account or region. It is read as the settings say. With enhanced fan-out it has a consumer of the same name.
    ///
    /// # Errors
    /// `InvalidSettings` when that is neither a valid name nor the ARN of a stream, or when the settings have the ARN of a
    /// consumer, which belongs to one stream.
    pub fn another_stream(&self, stream: impl Into<String>) -> Result<KinesisStream, AslError> {
        let stream = stream.into();
        let client = self.client_of("the stream", &stream)?;
        if let RetrievalMode::FanOut(settings) = self.stream.retrieval()
            && let ConsumerChoice::Arn(arn) = &settings.consumer
        {
            let message = format!(
                "the consumer {arn:?} belongs to the stream {:?}, so {stream:?} cannot be read with it; give the name of the \
                 consumer instead of its ARN, and each stream has a consumer of that name",
                self.stream.stream_name()
            );
            return Err(AslError::new(AslErrorKind::InvalidSettings, message));
        }
        Ok(self.stream.another(client, stream))
    }

    /// The lease store of an application that reads several streams, in the rows of a multi-stream application of the KCL. Its
    /// table is that of [`lease_store`](Self::lease_store).
    ///
    /// # Errors
    /// `InvalidSettings` when that is not a valid table name.
    #[cfg(feature = "dynamodb")]
    pub fn multi_stream_lease_store(
        &self,
        application: &str,
    ) -> Result<DynamoDbMultiStreamLeaseStore, AslError> {
        Ok(DynamoDbMultiStreamLeaseStore::new(self.lease_table.store(application)?))
    }

    /// A sink that writes dead letters to another stream: by name one of the same account and region, by ARN also one of another
    /// account or region.
    ///
    /// # Errors
    /// `InvalidSettings` when that is neither a valid name nor the ARN of a stream.
    pub fn dead_letters(&self, stream: impl Into<String>) -> Result<KinesisDeadLetters, AslError> {
        let stream = stream.into();
        let client = self.client_of("the dead-letter stream", &stream)?;
        Ok(KinesisDeadLetters::from_client(client, stream))
    }

    /// The client for another stream: in the region of its ARN, if it has one. `what` names the stream in the error.
    pub(crate) fn client_of(&self, what: &str, stream: &str) -> Result<aws_sdk_kinesis::Client, AslError> {
        let arn = match StreamId::parse(stream) {
            Ok(StreamId { arn: None, .. }) if !is_name(stream) => Err(format!(
                "{stream:?} must be 1 to {MAX_NAME_BYTES} letters, digits, '_', '.' or '-', or an ARN like {STREAM_FORM}"
            )),
            Ok(stream) => Ok(stream.arn),
            Err(fault) => Err(fault),
        };
        let arn =
            arn.map_err(|fault| AslError::new(AslErrorKind::InvalidSettings, format!("{what} {fault}")))?;
        Ok(match arn {
            Some(arn) if self.kinesis.config().region().is_none_or(|own| own.as_ref() != arn.region) => {
                in_region(&self.kinesis, arn.region)
            }
            _ => self.kinesis.clone(),
        })
    }

    /// The client of Kinesis.
    pub(crate) fn kinesis(&self) -> &aws_sdk_kinesis::Client {
        &self.kinesis
    }

    /// Whether Kinesis has the endpoint of AWS.
    pub(crate) fn is_at_aws(&self) -> bool {
        self.is_at_aws
    }

    /// Whose credentials the calls to the stream use, by `GetCallerIdentity`, which needs no permission. `endpoint_url` replaces
    /// the endpoint of STS. `None`: Kinesis has an endpoint of its own and STS has none, so there is no STS to ask.
    ///
    /// # Errors
    /// `Denied` when the credentials are missing, expired or unknown; `Unavailable` when STS cannot be reached.
    pub async fn caller_identity(
        &self,
        endpoint_url: Option<&str>,
    ) -> Result<Option<CallerIdentity>, AslError> {
        self.identity.ask(endpoint_url).await
    }

    /// A publisher of CloudWatch metrics. The KCL uses the name of the application as the namespace. Needs the feature `cloudwatch`,
    /// which is on by default.
    ///
    /// # Errors
    /// `InvalidSettings` when that is not a valid namespace.
    #[cfg(feature = "cloudwatch")]
    pub fn cloudwatch(&self, namespace: &str) -> Result<CloudWatchPublisher, AslError> {
        CloudWatchPublisher::new(self.cloudwatch.clone(), namespace)
    }
}

/// The loader with a profile that was asked for by its name. The default chain would prefer credentials of the environment.
fn of_profile(loader: ConfigLoader, profile: Option<&str>) -> ConfigLoader {
    match profile {
        None => loader,
        Some(name) => loader
            .profile_name(name)
            .credentials_provider(ProfileFileCredentialsProvider::builder().profile_name(name).build()),
    }
}

fn loader(settings: &AwsSettings) -> ConfigLoader {
    // The SDK reads AWS_MAX_ATTEMPTS and AWS_RETRY_MODE. Its default is three attempts.
    let loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts(settings));
    match settings.stream_region() {
        Some(region) => loader.region(Region::new(region)),
        None => loader,
    }
}

/// The endpoints of the services.
#[derive(Debug)]
struct Endpoints {
    kinesis: Endpoint,
    dynamodb: Endpoint,
    cloudwatch: Endpoint,
    sts: Endpoint,
}

/// The endpoint of one service, and where it was configured.
#[derive(Debug)]
struct Endpoint {
    /// `None`: the default endpoint of the region.
    url: Option<String>,
    /// The setting, or the environment variable and profile key in its place.
    origin: String,
}

impl Endpoint {
    fn new(loaded: &SdkConfig, setting: &str, own: Option<&String>, service_id: &str) -> Self {
        if let Some(url) = own {
            return Self { url: Some(url.clone()), origin: format!("{setting} of the settings") };
        }
        let variable = format!("AWS_ENDPOINT_URL_{}", service_id.to_uppercase());
        let origin =
            format!("{variable} or AWS_ENDPOINT_URL of the environment, or endpoint_url of the profile");
        // The SDK's precedence: the variable for one service overrides the variable for all.
        let key = ServiceConfigKey::builder()
            .service_id(service_id)
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build()
            .ok();
        let of_service = loaded.service_config().zip(key).and_then(|(config, key)| config.load_config(key));
        Self { url: of_service.or_else(|| loaded.endpoint_url().map(str::to_owned)), origin }
    }

    fn shown(&self) -> &str {
        self.url.as_deref().unwrap_or("default of the region")
    }
}

impl Endpoints {
    fn new(settings: &AwsSettings, configurations: &Configurations<'_>) -> Result<Self, AslError> {
        let of = |config: &SdkConfig, setting: &str, own: &Option<String>, service_id: &str| {
            Endpoint::new(config, setting, own.as_ref(), service_id)
        };
        let Configurations { kinesis, dynamodb, cloudwatch } = *configurations;
        let endpoints = Self {
            kinesis: of(kinesis, "kinesis_endpoint_url", &settings.kinesis_endpoint_url, "Kinesis"),
            dynamodb: of(dynamodb, "dynamodb_endpoint_url", &settings.dynamodb_endpoint_url, "DynamoDB"),
            cloudwatch: of(
                cloudwatch,
                "cloudwatch_endpoint_url",
                &settings.cloudwatch_endpoint_url,
                "CloudWatch",
            ),
            sts: of(kinesis, "sts_endpoint_url", &None, "STS"),
        };
        let faults: Vec<String> = endpoints
            .all()
            .into_iter()
            .filter_map(|endpoint| endpoint_fault(&endpoint.origin, endpoint.url.as_deref()?))
            .collect();
        if faults.is_empty() {
            return Ok(endpoints);
        }
        let message = format!("invalid AWS endpoints:\n- {}", faults.join("\n- "));
        Err(AslError::new(AslErrorKind::InvalidSettings, message))
    }

    fn all(&self) -> [&Endpoint; 4] {
        [&self.kinesis, &self.dynamodb, &self.cloudwatch, &self.sts]
    }
}

fn no_region(endpoints: &Endpoints) -> AslError {
    let mut message =
        "no region is set: set `region` in the settings, AWS_REGION or AWS_DEFAULT_REGION in the environment, \
         or `region` in the profile"
            .to_owned();
    for endpoint in endpoints.all() {
        if let Some(url) = &endpoint.url {
            message += &format!(
                "\n- the endpoint {url} ({}) needs a region too, to sign its requests",
                endpoint.origin
            );
        }
    }
    AslError::new(AslErrorKind::InvalidSettings, message)
}

#[cfg(test)]
#[cfg(all(feature = "cloudwatch", feature = "dynamodb"))]
mod tests {
    use std::time::Duration;

    use aws_sdk_kinesis::config::Credentials;
    use shard_worker::{ShardFilter, SourceErrorKind, StreamSource};
    use tokio::net::TcpListener;

    use super::*;
    use crate::lease_table::{MAX_LEASE_ATTEMPT_TIMEOUT, MAX_LEASE_OPERATION_TIMEOUT, lease_timeouts};

    fn loaded(region: Option<&'static str>) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.map(Region::new))
            .build()
    }

    fn region_of(region: Option<&Region>) -> &str {
        region.unwrap().as_ref()
    }

    #[test]
    fn table_and_metrics_default_to_the_region_of_the_stream() {
        let aws = KinesisAsl::with_config(&AwsSettings::new("words"), &loaded(Some("ap-south-1"))).unwrap();
        assert_eq!(region_of(aws.kinesis.config().region()), "ap-south-1");
        assert_eq!(region_of(aws.lease_table.client().config().region()), "ap-south-1");
        assert_eq!(region_of(aws.cloudwatch.config().region()), "ap-south-1");
    }

    #[test]
    fn the_arn_of_the_stream_decides_the_region() {
        let settings = AwsSettings::new("arn:aws:kinesis:eu-west-1:111122223333:stream/words");
        for of_environment in [None, Some("ap-south-1")] {
            let aws = KinesisAsl::with_config(&settings, &loaded(of_environment)).unwrap();
            assert_eq!(aws.stream().stream_name(), "words");
            assert_eq!(region_of(aws.kinesis.config().region()), "eu-west-1");
            assert_eq!(region_of(aws.lease_table.client().config().region()), "eu-west-1");
            assert_eq!(region_of(aws.cloudwatch.config().region()), "eu-west-1");
        }
    }

    #[test]
    fn dead_letter_streams_have_the_region_of_their_arn() {
        let aws = KinesisAsl::with_config(&AwsSettings::new("words"), &loaded(Some("ap-south-1"))).unwrap();
        for (stream, region) in [
            ("rejected", "ap-south-1"),
            ("arn:aws:kinesis:ap-south-1:111122223333:stream/rejected", "ap-south-1"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream/rejected", "eu-west-1"),
        ] {
            let sink = format!("{:?}", aws.dead_letters(stream).unwrap());
            assert!(sink.contains(&format!("region: Some(\"{region}\")")), "{sink}");
            assert!(sink.contains("fault: None"), "{sink}");
        }
        for stream in ["", "two words", "arn:aws:sqs:eu-west-1:111122223333:rejected"] {
            let error = aws.dead_letters(stream).unwrap_err();
            assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
            assert!(error.to_string().contains(&format!("{stream:?}")), "{error}");
        }
    }

    #[test]
    fn another_stream_is_read_as_the_settings_say() {
        use crate::fan_out::settings::FanOutSettings;
        let mut settings = AwsSettings::new("words");
        settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_name("count"));
        let aws = KinesisAsl::with_config(&settings, &loaded(Some("ap-south-1"))).unwrap();
        let near = aws.another_stream("orders").unwrap();
        assert_eq!((near.stream_name(), near.retrieval()), ("orders", settings.retrieval.clone()));
        let far = aws.another_stream("arn:aws:kinesis:eu-west-1:111122223333:stream/bills").unwrap();
        assert_eq!(far.stream_name(), "bills");
        assert!(format!("{far:?}").contains("eu-west-1"));
        assert_eq!(aws.another_stream("two words").unwrap_err().kind(), AslErrorKind::InvalidSettings);

        let consumer = "arn:aws:kinesis:ap-south-1:111122223333:stream/words/consumer/count:17";
        settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_arn(consumer));
        let aws = KinesisAsl::with_config(&settings, &loaded(Some("ap-south-1"))).unwrap();
        let error = aws.another_stream("orders").unwrap_err().to_string();
        assert!(error.contains(consumer), "{error}");
    }

    #[test]
    fn table_and_metrics_can_have_their_own_regions() {
        let settings = AwsSettings {
            dynamodb_region: Some("eu-west-1".to_owned()),
            cloudwatch_region: Some("eu-west-2".to_owned()),
            ..AwsSettings::new("words")
        };
        let aws = KinesisAsl::with_config(&settings, &loaded(Some("ap-south-1"))).unwrap();
        assert_eq!(region_of(aws.kinesis.config().region()), "ap-south-1");
        assert_eq!(region_of(aws.lease_table.client().config().region()), "eu-west-1");
        assert_eq!(region_of(aws.cloudwatch.config().region()), "eu-west-2");
    }

    #[test]
    fn stream_has_the_retrieval_mode_of_the_settings() {
        use crate::fan_out::settings::{FanOutSettings, RetrievalMode};
        for mode in
            [RetrievalMode::Polling, RetrievalMode::FanOut(FanOutSettings::with_consumer_name("count"))]
        {
            let settings = AwsSettings { retrieval: mode.clone(), ..AwsSettings::new("words") };
            let aws = KinesisAsl::with_config(&settings, &loaded(Some("ap-south-1"))).unwrap();
            assert_eq!(aws.stream().retrieval(), mode);
        }
    }

    #[test]
    fn lease_table_defaults_to_the_application_name() {
        let aws = |settings| KinesisAsl::with_config(&settings, &loaded(Some("eu-west-1"))).unwrap();
        let by_default = aws(AwsSettings::new("words"));
        assert_eq!(by_default.lease_store("word-count").unwrap().table_name(), "word-count");
        assert_eq!(by_default.lease_store("no spaces").unwrap_err().kind(), AslErrorKind::InvalidSettings);
        let set = aws(AwsSettings { lease_table: Some("leases".to_owned()), ..AwsSettings::new("words") });
        assert_eq!(set.lease_store("word-count").unwrap().table_name(), "leases");
    }

    #[test]
    fn missing_region_error_names_settings_and_endpoints() {
        let error = KinesisAsl::with_config(&AwsSettings::new("words"), &loaded(None)).unwrap_err();
        assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
        assert!(!error.to_string().contains("endpoint"), "{error}");

        let settings = AwsSettings {
            kinesis_endpoint_url: Some("http://localhost:4567".to_owned()),
            ..AwsSettings::new("words")
        };
        let from_profile = loaded(None).into_builder().endpoint_url("http://localhost:8000").build();
        let message = KinesisAsl::with_config(&settings, &from_profile).unwrap_err().to_string();
        for part in [
            "`region` in the settings",
            "AWS_REGION",
            "http://localhost:4567 (kinesis_endpoint_url of the settings)",
            "http://localhost:8000 (AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL",
        ] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }

    #[test]
    fn invalid_endpoint_of_the_environment_is_named() {
        let from_environment =
            loaded(Some("eu-west-1")).into_builder().endpoint_url("localhost:4567").build();
        let error = KinesisAsl::with_config(&AwsSettings::new("words"), &from_environment).unwrap_err();
        assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
        assert!(error.to_string().contains("AWS_ENDPOINT_URL_KINESIS"), "{error}");
    }

    #[tokio::test]
    async fn invalid_settings_are_refused_before_loading() {
        let error = KinesisAsl::connect(AwsSettings::new("")).await.unwrap_err();
        assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
    }

    /// The listener never accepts: the kernel completes the connections, and no answer is ever sent.
    #[tokio::test]
    async fn timeouts_of_the_settings_apply_to_the_client() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = AwsSettings {
            region: Some("eu-west-1".to_owned()),
            kinesis_endpoint_url: Some(format!("http://{}", silent.local_addr().unwrap())),
            connect_timeout: Duration::from_millis(100),
            attempt_timeout: Duration::from_millis(100),
            operation_timeout: Duration::from_millis(250),
            ..AwsSettings::new("words")
        };
        settings.validate().unwrap();
        let credentials = Credentials::new("some", "secret", None, None, "test");
        let loaded = Box::pin(loader(&settings).credentials_provider(credentials).load()).await;
        let stream = KinesisAsl::with_config(&settings, &loaded).unwrap().stream();
        let listed =
            tokio::time::timeout(Duration::from_secs(5), stream.list_shards(&ShardFilter::All)).await;
        assert_eq!(
            listed.expect("the time-outs of the settings end the call").unwrap_err().kind(),
            SourceErrorKind::Unavailable
        );
    }

    #[tokio::test]
    async fn lease_calls_have_tighter_timeouts() {
        let settings = AwsSettings {
            region: Some("eu-west-1".to_owned()),
            attempt_timeout: Duration::from_secs(3600),
            operation_timeout: Duration::from_secs(3600),
            ..AwsSettings::new("words")
        };
        let credentials = Credentials::new("some", "secret", None, None, "test");
        let loaded = Box::pin(loader(&settings).credentials_provider(credentials).load()).await;
        let aws = KinesisAsl::with_config(&settings, &loaded).unwrap();
        let timeouts = aws.lease_table.client().config().timeout_config().unwrap().clone();
        assert_eq!(timeouts.operation_attempt_timeout(), Some(MAX_LEASE_ATTEMPT_TIMEOUT));
        assert_eq!(timeouts.operation_timeout(), Some(MAX_LEASE_OPERATION_TIMEOUT));
        let shorter = AwsSettings { attempt_timeout: Duration::from_millis(5), ..settings };
        let shorter = lease_timeouts(&shorter).operation_attempt_timeout();
        assert_eq!(shorter, Some(Duration::from_millis(5)));
    }
}
