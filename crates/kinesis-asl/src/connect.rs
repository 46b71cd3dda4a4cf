//! Sets up the clients: one chain of credentials, and per service a region and an endpoint.

use std::time::Duration;

use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_types::service_config::ServiceConfigKey;
use lease_store::dynamodb::DynamoDbLeaseStore;

use crate::error::{AslError, AslErrorKind};
use crate::settings::endpoint_fault;
use crate::{AwsSettings, CloudWatchPublisher, KinesisDeadLetters, KinesisStream};

/// How often the SDK tries a call, the first attempt included (the SDK's own default, made explicit).
const MAX_ATTEMPTS: u32 = 3;

/// The longest attempt of a call for a lease. Rows are small and answered within milliseconds; a write that hangs holds up
/// the renewal of its lease, which has to come through within the fail-over time (10 s unless set otherwise).
const MAX_LEASE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest call for leases, with all its attempts.
const MAX_LEASE_OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream and what belongs to it, ready to be called with the credentials of this process.
#[derive(Debug, Clone)]
pub struct KinesisAsl {
    stream: KinesisStream,
    kinesis: aws_sdk_kinesis::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    cloudwatch: aws_sdk_cloudwatch::Client,
    lease_table: Option<String>,
}

impl KinesisAsl {
    /// Sets up everything, with credentials from the default chain: environment, profile, web identity, container,
    /// instance. No service is called yet, except that a region or credentials may come from one.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub async fn connect(settings: AwsSettings) -> Result<Self, AslError> {
        settings.validate()?;
        // The future is large, and this runs once.
        let loaded = Box::pin(loader(&settings).load()).await;
        Self::with_config(&settings, &loaded)
    }

    fn with_config(settings: &AwsSettings, loaded: &SdkConfig) -> Result<Self, AslError> {
        let endpoints = Endpoints::new(settings, loaded)?;
        let Some(region) = loaded.region() else { return Err(no_region(&endpoints)) };
        let region_or = |own: &Option<String>| own.clone().map_or_else(|| region.clone(), Region::new);
        let dynamodb_region = region_or(&settings.dynamodb_region);
        let cloudwatch_region = region_or(&settings.cloudwatch_region);
        tracing::info!(
            stream = settings.stream_name,
            %region,
            endpoint = endpoints.kinesis.shown(),
            %dynamodb_region,
            dynamodb_endpoint = endpoints.dynamodb.shown(),
            %cloudwatch_region,
            cloudwatch_endpoint = endpoints.cloudwatch.shown(),
            retrieval = %settings.retrieval,
            "AWS clients are set up"
        );

        let mut kinesis = aws_sdk_kinesis::config::Builder::from(loaded);
        kinesis.set_endpoint_url(endpoints.kinesis.url);
        let mut dynamodb = aws_sdk_dynamodb::config::Builder::from(loaded)
            .region(dynamodb_region)
            .timeout_config(lease_timeouts(settings));
        dynamodb.set_endpoint_url(endpoints.dynamodb.url);
        let mut cloudwatch = aws_sdk_cloudwatch::config::Builder::from(loaded).region(cloudwatch_region);
        cloudwatch.set_endpoint_url(endpoints.cloudwatch.url);

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
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
            cloudwatch: aws_sdk_cloudwatch::Client::from_conf(cloudwatch.build()),
            lease_table: settings.lease_table.clone(),
        })
    }

    /// The stream.
    pub fn stream(&self) -> KinesisStream {
        self.stream.clone()
    }

    /// The leases of an application, in the table of the settings, or else in one named after the application.
    ///
    /// # Errors
    /// `InvalidSettings` when no table can have that name.
    pub fn lease_store(&self, application: &str) -> Result<DynamoDbLeaseStore, AslError> {
        let table = self.lease_table.as_deref().unwrap_or(application);
        DynamoDbLeaseStore::new(self.dynamodb.clone(), table).map_err(|error| {
            AslError::new(AslErrorKind::InvalidSettings, format!("the lease table: {error}"))
                .with_source(error)
        })
    }

    /// Puts records that could not be processed into another stream of the same account and region.
    pub fn dead_letters(&self, stream_name: impl Into<String>) -> KinesisDeadLetters {
        KinesisDeadLetters::from_client(self.kinesis.clone(), stream_name)
    }

    /// Publishes metrics to CloudWatch. The namespace is by default the name of the application, as with the KCL.
    ///
    /// # Errors
    /// `InvalidSettings` when CloudWatch takes no namespace of this name.
    pub fn cloudwatch(&self, namespace: &str) -> Result<CloudWatchPublisher, AslError> {
        CloudWatchPublisher::new(self.cloudwatch.clone(), namespace)
    }
}

/// For clients that others have made.
pub(crate) fn default_timeouts() -> TimeoutConfig {
    timeouts(&AwsSettings::new(""))
}

fn timeouts(settings: &AwsSettings) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.attempt_timeout)
        .operation_timeout(settings.operation_timeout)
        .build()
}

/// Those of the settings, but not so long that one call could cost a lease.
fn lease_timeouts(settings: &AwsSettings) -> TimeoutConfig {
    timeouts(settings)
        .to_builder()
        .operation_attempt_timeout(settings.attempt_timeout.min(MAX_LEASE_ATTEMPT_TIMEOUT))
        .operation_timeout(settings.operation_timeout.min(MAX_LEASE_OPERATION_TIMEOUT))
        .build()
}

fn loader(settings: &AwsSettings) -> ConfigLoader {
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts(settings))
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
    match &settings.region {
        Some(region) => loader.region(Region::new(region.clone())),
        None => loader,
    }
}

/// Where the services are called.
#[derive(Debug)]
struct Endpoints {
    kinesis: Endpoint,
    dynamodb: Endpoint,
    cloudwatch: Endpoint,
}

/// Where one service is called, and who says so.
#[derive(Debug)]
struct Endpoint {
    /// `None`: the service's own, by its region.
    url: Option<String>,
    /// The setting, or what stands for it in the environment and in the profile.
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
        // The rule of the SDK: what is said about this service goes before what is said about all.
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
        self.url.as_deref().unwrap_or("of the region")
    }
}

impl Endpoints {
    fn new(settings: &AwsSettings, loaded: &SdkConfig) -> Result<Self, AslError> {
        let of = |setting: &str, own: &Option<String>, service_id: &str| {
            Endpoint::new(loaded, setting, own.as_ref(), service_id)
        };
        let endpoints = Self {
            kinesis: of("kinesis_endpoint_url", &settings.kinesis_endpoint_url, "Kinesis"),
            dynamodb: of("dynamodb_endpoint_url", &settings.dynamodb_endpoint_url, "DynamoDB"),
            cloudwatch: of("cloudwatch_endpoint_url", &settings.cloudwatch_endpoint_url, "CloudWatch"),
        };
        let faults: Vec<String> = endpoints
            .all()
            .into_iter()
            .filter_map(|endpoint| endpoint_fault(&endpoint.origin, endpoint.url.as_deref()?))
            .collect();
        if faults.is_empty() {
            return Ok(endpoints);
        }
        let message = format!("the AWS endpoints cannot be used:\n- {}", faults.join("\n- "));
        Err(AslError::new(AslErrorKind::InvalidSettings, message))
    }

    fn all(&self) -> [&Endpoint; 3] {
        [&self.kinesis, &self.dynamodb, &self.cloudwatch]
    }
}

fn no_region(endpoints: &Endpoints) -> AslError {
    let mut message =
        "no region is set: set `region` in the settings, AWS_REGION or AWS_DEFAULT_REGION in the \
                       environment, or `region` in the profile"
            .to_owned();
    for endpoint in endpoints.all() {
        if let Some(url) = &endpoint.url {
            message += &format!(
                "\n- the endpoint {url} ({}) does not say for which region its requests are signed",
                endpoint.origin
            );
        }
    }
    AslError::new(AslErrorKind::InvalidSettings, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_kinesis::config::Credentials;
    use shard_worker::{ShardFilter, SourceErrorKind, StreamSource};
    use tokio::net::TcpListener;

    use super::*;

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
    fn table_and_metrics_are_in_the_region_of_the_stream() {
        let aws = KinesisAsl::with_config(&AwsSettings::new("words"), &loaded(Some("ap-south-1"))).unwrap();
        assert_eq!(region_of(aws.stream.client().config().region()), "ap-south-1");
        assert_eq!(region_of(aws.dynamodb.config().region()), "ap-south-1");
        assert_eq!(region_of(aws.cloudwatch.config().region()), "ap-south-1");
    }

    #[test]
    fn table_and_metrics_can_be_elsewhere_when_told_so() {
        let settings = AwsSettings {
            dynamodb_region: Some("eu-west-1".to_owned()),
            cloudwatch_region: Some("eu-west-2".to_owned()),
            ..AwsSettings::new("words")
        };
        let aws = KinesisAsl::with_config(&settings, &loaded(Some("ap-south-1"))).unwrap();
        assert_eq!(region_of(aws.stream.client().config().region()), "ap-south-1");
        assert_eq!(region_of(aws.dynamodb.config().region()), "eu-west-1");
        assert_eq!(region_of(aws.cloudwatch.config().region()), "eu-west-2");
    }

    #[test]
    fn the_stream_is_read_as_the_settings_say() {
        use crate::{FanOutSettings, RetrievalMode};
        for mode in
            [RetrievalMode::Polling, RetrievalMode::FanOut(FanOutSettings::with_consumer_name("count"))]
        {
            let settings = AwsSettings { retrieval: mode.clone(), ..AwsSettings::new("words") };
            let aws = KinesisAsl::with_config(&settings, &loaded(Some("ap-south-1"))).unwrap();
            assert_eq!(aws.stream().retrieval(), mode);
        }
    }

    #[test]
    fn the_lease_table_is_named_after_the_application_unless_set() {
        let aws = |settings| KinesisAsl::with_config(&settings, &loaded(Some("eu-west-1"))).unwrap();
        let by_default = aws(AwsSettings::new("words"));
        assert_eq!(by_default.lease_store("word-count").unwrap().table_name(), "word-count");
        assert_eq!(by_default.lease_store("no spaces").unwrap_err().kind(), AslErrorKind::InvalidSettings);
        let set = aws(AwsSettings { lease_table: Some("leases".to_owned()), ..AwsSettings::new("words") });
        assert_eq!(set.lease_store("word-count").unwrap().table_name(), "leases");
    }

    #[test]
    fn a_missing_region_names_the_endpoints_and_what_to_set() {
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
    fn a_faulty_endpoint_of_the_environment_is_named() {
        let from_environment =
            loaded(Some("eu-west-1")).into_builder().endpoint_url("localhost:4567").build();
        let error = KinesisAsl::with_config(&AwsSettings::new("words"), &from_environment).unwrap_err();
        assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
        assert!(error.to_string().contains("AWS_ENDPOINT_URL_KINESIS"), "{error}");
    }

    #[tokio::test]
    async fn faulty_settings_are_refused_before_anything_is_loaded() {
        let error = KinesisAsl::connect(AwsSettings::new("")).await.unwrap_err();
        assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
    }

    /// A server that takes connections and never answers: the kernel completes them without its help.
    #[tokio::test]
    async fn the_time_outs_of_the_settings_are_those_of_the_client() {
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
            listed.expect("the set time-outs end the call").unwrap_err().kind(),
            SourceErrorKind::Unavailable
        );
    }

    #[tokio::test]
    async fn a_call_for_a_lease_ends_well_before_the_lease_does() {
        let settings = AwsSettings {
            region: Some("eu-west-1".to_owned()),
            attempt_timeout: Duration::from_secs(3600),
            operation_timeout: Duration::from_secs(3600),
            ..AwsSettings::new("words")
        };
        let credentials = Credentials::new("some", "secret", None, None, "test");
        let loaded = Box::pin(loader(&settings).credentials_provider(credentials).load()).await;
        let aws = KinesisAsl::with_config(&settings, &loaded).unwrap();
        let timeouts = aws.dynamodb.config().timeout_config().unwrap().clone();
        assert_eq!(timeouts.operation_attempt_timeout(), Some(MAX_LEASE_ATTEMPT_TIMEOUT));
        assert_eq!(timeouts.operation_timeout(), Some(MAX_LEASE_OPERATION_TIMEOUT));
        let shorter = AwsSettings { attempt_timeout: Duration::from_millis(5), ..settings };
        let shorter = lease_timeouts(&shorter).operation_attempt_timeout();
        assert_eq!(shorter, Some(Duration::from_millis(5)));
    }
}
