//! The AWS settings: plain data, validated as a whole.

use std::net::Ipv6Addr;
use std::time::Duration;

use lease_store::{TableSettings, settings_format};
use serde::{Deserialize, Serialize};

use crate::error::{AslError, AslErrorKind};
use crate::fan_out::settings::{ConsumerChoice, RetrievalMode};
use crate::get_records::format::GetRecordsFormat;
use crate::role::RoleSettings;
use crate::stream_arn::{self, MAX_NAME_BYTES, StreamArn, StreamId, is_name_byte};

/// The longest time to connect.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest attempt of a call; an answer of `GetRecords` has up to 10 MB.
const DEFAULT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest call, with all its attempts and the waits between them (KCL: 30 s).
const DEFAULT_OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The wait between two reads of a reader at the tip (KCL: 1.5 s; AWS recommends 1 s).
pub(crate) const DEFAULT_IDLE_TIME_BETWEEN_READS: Duration = Duration::from_secs(1);

/// The longest idle time: a read must return within a minute, and an iterator expires after 5 min.
const MAX_IDLE_TIME_BETWEEN_READS: Duration = Duration::from_secs(60);

/// The stream to read, and how to call AWS. Unless a field says otherwise, `None` means the environment or the profile, as
/// with every AWS tool: `AWS_REGION`, `AWS_ENDPOINT_URL_KINESIS`, `AWS_PROFILE` and so on.
///
/// The lease table and CloudWatch use the region of the stream, unless they have a region of their own here.
///
/// In a file, a duration is a text like `"10s"` or `"500ms"`, or a number of milliseconds. Only `stream_name` is required.
///
/// ```
/// use kinesis_asl::{AwsSettings, RetrievalMode, FanOutSettings};
///
/// let mut settings = AwsSettings::new("orders");
/// settings.region = Some("eu-central-1".to_owned());
/// settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_name("billing"));
/// settings.validate()?;
/// # Ok::<(), kinesis_asl::AslError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "AwsSettings::without_stream", deny_unknown_fields)]
#[non_exhaustive]
pub struct AwsSettings {
    /// The stream: its name, of 1 to 128 letters, digits, `_`, `.` and `-`, or its ARN.
    ///
    /// With an ARN, every call names the stream by it, so the stream may belong to another account. The lease table is the
    /// same as with the name.
    pub stream_name: String,
    /// The region of the stream; `None`: that of the ARN of the stream or of the consumer, then that of the environment or the
    /// profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The URL of Kinesis, for local servers and VPC endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinesis_endpoint_url: Option<String>,
    /// The URL of DynamoDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamodb_endpoint_url: Option<String>,
    /// The URL of CloudWatch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudwatch_endpoint_url: Option<String>,
    /// The region of the lease table; `None`: the stream's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamodb_region: Option<String>,
    /// The region of the metrics; `None`: the stream's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudwatch_region: Option<String>,
    /// The name of the lease table; `None`: the application's name, as with the KCL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_table: Option<String>,
    /// The longest time to connect; 3 s by default.
    #[serde(with = "settings_format::duration")]
    pub connect_timeout: Duration,
    /// The longest attempt of a call; 10 s by default. Attempts of lease calls are limited to 3 s. For a read of records it is the
    /// longest wait for an answer, and then for further bytes of it, so that a large answer can arrive over a slow link. The
    /// connection of an attempt that takes longer is not used again.
    #[serde(with = "settings_format::duration")]
    pub attempt_timeout: Duration,
    /// The longest call, with all its attempts; 30 s by default. Lease calls are limited to 10 s.
    #[serde(with = "settings_format::duration")]
    pub operation_timeout: Duration,
    /// The wait between two reads of a reader at the tip; 1 s by default. All applications that poll a shard share five reads
    /// a second.
    #[serde(with = "settings_format::duration")]
    pub idle_time_between_reads: Duration,
    /// Doubles the idle time after each empty read, up to this; `None`: the idle time does not grow. The first record after a
    /// quiet time waits at most this long.
    #[serde(with = "settings_format::optional_duration", skip_serializing_if = "Option::is_none")]
    pub max_idle_time_between_reads: Option<Duration>,
    /// The share of a shard's five reads a second that this application uses, in percent; 100 by default. If two applications
    /// poll the stream, give each 50.
    pub read_share_percent: u32,
    /// Whether shards are polled or read by enhanced fan-out; polled by default.
    pub retrieval: RetrievalMode,
    /// The encoding of `GetRecords`; CBOR by default.
    pub get_records_format: GetRecordsFormat,
    /// How the lease table is created, if it is missing: billing, deletion protection, point-in-time recovery, tags.
    pub table: TableSettings,
    /// A role that is assumed for all services. `None`: the credentials are used as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleSettings>,
    /// A role that is assumed for the stream alone, for one of another account; the lease table and the metrics stay with the other
    /// credentials. `None`: as for the other services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_role: Option<RoleSettings>,
}

impl AwsSettings {
    /// Settings for this stream, given by its name or its ARN, with defaults for the rest.
    pub fn new(stream: impl Into<String>) -> Self {
        Self {
            stream_name: stream.into(),
            region: None,
            kinesis_endpoint_url: None,
            dynamodb_endpoint_url: None,
            cloudwatch_endpoint_url: None,
            dynamodb_region: None,
            cloudwatch_region: None,
            lease_table: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            attempt_timeout: DEFAULT_ATTEMPT_TIMEOUT,
            operation_timeout: DEFAULT_OPERATION_TIMEOUT,
            idle_time_between_reads: DEFAULT_IDLE_TIME_BETWEEN_READS,
            max_idle_time_between_reads: None,
            read_share_percent: 100,
            retrieval: RetrievalMode::Polling,
            get_records_format: GetRecordsFormat::default(),
            table: TableSettings::default(),
            role: None,
            stream_role: None,
        }
    }

    /// The defaults for a file that names no stream, which is a fault.
    fn without_stream() -> Self {
        Self::new("")
    }

    /// Validates the settings as a whole.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub fn validate(&self) -> Result<(), AslError> {
        let faults = self.faults();
        if faults.is_empty() {
            return Ok(());
        }
        let message = format!("invalid AWS settings:\n- {}", faults.join("\n- "));
        Err(AslError::new(AslErrorKind::InvalidSettings, message))
    }

    /// All faults of the settings, one line each; empty when the settings are valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        faults.extend(self.stream_name_fault());
        for (name, region) in [
            ("region", &self.region),
            ("dynamodb_region", &self.dynamodb_region),
            ("cloudwatch_region", &self.cloudwatch_region),
        ] {
            faults.extend(region.as_deref().and_then(|region| region_fault(name, region)));
        }
        for (name, url) in [
            ("kinesis_endpoint_url", &self.kinesis_endpoint_url),
            ("dynamodb_endpoint_url", &self.dynamodb_endpoint_url),
            ("cloudwatch_endpoint_url", &self.cloudwatch_endpoint_url),
        ] {
            faults.extend(url.as_deref().and_then(|url| endpoint_fault(name, url)));
        }
        if let Some(table) = &self.lease_table
            && !((3..=255).contains(&table.len()) && table.bytes().all(is_name_byte))
        {
            faults.push(format!("lease_table {table:?} must be 3 to 255 letters, digits, '_', '.' or '-'"));
        }
        faults.extend(self.timeout_faults());
        faults.extend(self.retrieval.faults());
        faults.extend(self.table.faults().into_iter().map(|fault| format!("table: {fault}")));
        for (name, role) in [("role", &self.role), ("stream_role", &self.stream_role)] {
            faults.extend(role.iter().flat_map(RoleSettings::faults).map(|fault| format!("{name}: {fault}")));
        }
        faults.extend(self.contradictions());
        faults
    }

    /// The region of the stream, as far as the settings tell it.
    pub(crate) fn stream_region(&self) -> Option<String> {
        let of_arns = || {
            let of_stream = StreamId::parse(&self.stream_name).ok().and_then(|stream| stream.arn);
            of_stream.or_else(|| self.consumer_stream()).map(|arn| arn.region)
        };
        self.region.clone().or_else(of_arns)
    }

    /// The stream of a consumer that was given by a valid ARN.
    fn consumer_stream(&self) -> Option<StreamArn> {
        let RetrievalMode::FanOut(fan_out) = &self.retrieval else { return None };
        let ConsumerChoice::Arn(arn) = &fan_out.consumer else { return None };
        stream_arn::stream_of_consumer(arn).ok()
    }

    /// The settings that name different streams or regions. A setting with a fault of its own is left out.
    fn contradictions(&self) -> Vec<String> {
        let Ok(stream) = StreamId::parse(&self.stream_name) else { return Vec::new() };
        let mut faults = Vec::new();
        let consumer = self.consumer_stream();
        if let Some(of) = &consumer
            && stream.arn.as_ref().map_or(of.name != stream.name, |arn| of != arn)
        {
            faults.push(format!(
                "consumer ARN belongs to the stream {of}, not to stream_name {:?}; give a consumer of that stream",
                self.stream_name
            ));
        }
        if let (Some(region), Some(arn)) = (&self.region, stream.arn.as_ref().or(consumer.as_ref()))
            && *region != arn.region
        {
            faults.push(format!(
                "region {region:?} contradicts the region {:?} of the ARN {arn}; leave region out, or correct the ARN",
                arn.region
            ));
        }
        faults
    }

    fn stream_name_fault(&self) -> Option<String> {
        let name = &self.stream_name;
        if name.is_empty() {
            return Some("stream_name is empty; set the name or the ARN of the stream to read".to_owned());
        }
        if stream_arn::is_arn(name) {
            return StreamId::parse(name).err().map(|fault| format!("stream_name {fault}"));
        }
        (!stream_arn::is_name(name)).then(|| {
            format!(
                "stream_name {name:?} must be 1 to {MAX_NAME_BYTES} letters, digits, '_', '.' or '-', or an ARN like {}",
                stream_arn::STREAM_FORM
            )
        })
    }

    fn timeout_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("operation_timeout", self.operation_timeout),
        ];
        for (name, timeout) in timeouts {
            if timeout.is_zero() {
                faults.push(format!("{name} 0 is too short for any call; it must be above 0"));
            }
        }
        for [(shorter_name, shorter), (longer_name, longer)] in
            [[timeouts[0], timeouts[1]], [timeouts[1], timeouts[2]]]
        {
            if shorter > longer {
                faults.push(format!(
                    "{shorter_name} {shorter:?} must not be longer than {longer_name} {longer:?}, which contains it"
                ));
            }
        }
        if self.idle_time_between_reads > MAX_IDLE_TIME_BETWEEN_READS {
            faults.push(format!(
                "idle_time_between_reads {:?} must be at most {MAX_IDLE_TIME_BETWEEN_READS:?}",
                self.idle_time_between_reads
            ));
        }
        if let Some(longest) = self.max_idle_time_between_reads
            && !(self.idle_time_between_reads..=MAX_IDLE_TIME_BETWEEN_READS).contains(&longest)
        {
            faults.push(format!(
                "max_idle_time_between_reads {longest:?} must be at least idle_time_between_reads {:?} and at most \
                 {MAX_IDLE_TIME_BETWEEN_READS:?}",
                self.idle_time_between_reads
            ));
        }
        if !(1..=100).contains(&self.read_share_percent) {
            faults.push(format!("read_share_percent {} must be 1 to 100", self.read_share_percent));
        }
        faults
    }
}

fn region_fault(name: &str, region: &str) -> Option<String> {
    if region.is_empty() {
        return Some(format!("{name} is empty; set a region such as eu-west-1, or leave it out"));
    }
    (!stream_arn::is_region(region))
        .then(|| format!("{name} {region:?} is not a region; a region looks like eu-west-1"))
}

/// The fault of an endpoint URL; `None`: it is valid. The message leaves out a URL that may contain a password.
pub(crate) fn endpoint_fault(name: &str, url: &str) -> Option<String> {
    // The part before an @ may be a password.
    let shown = if url.contains('@') { String::new() } else { format!(" {url:?}") };
    let fault = |reason: &str| Some(format!("{name}{shown} {reason}"));
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return fault("must begin with http:// or https://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some(format!(
            "{name} must not contain a user or password; configure credentials for the AWS SDK instead"
        ));
    }
    if rest.contains(['?', '#']) {
        return fault("must have no query and no fragment");
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|address| address.split_once(']')) {
        Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => (address, port),
        Some(_) => return fault("has no IPv6 address between its brackets"),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_host = host.starts_with(|first: char| first.is_ascii_alphanumeric() || first == ':')
        && host.bytes().all(|byte| is_name_byte(byte) || byte == b':');
    if !is_host {
        return fault("has no valid host");
    }
    let has_sound_port = port.is_empty()
        || port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port > 0);
    if !has_sound_port {
        return fault("has no valid port after its host");
    }
    let path = &rest[authority.len()..];
    // The path characters of RFC 3986; the SDK refuses others only at the first call.
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte)) {
        return fault("must not contain spaces or other characters that need escaping in a URL");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fan_out::settings::FanOutSettings;

    #[test]
    fn stream_name_alone_is_valid() {
        assert_eq!(AwsSettings::new("words").faults(), Vec::<String>::new());
        let settings = AwsSettings::new("words");
        assert_eq!(settings.connect_timeout, Duration::from_secs(3));
        assert_eq!(settings.attempt_timeout, Duration::from_secs(10));
        assert_eq!(settings.operation_timeout, Duration::from_secs(30));
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let settings = AwsSettings {
            region: Some(String::new()),
            dynamodb_region: Some("EU West".to_owned()),
            kinesis_endpoint_url: Some("localhost:4567".to_owned()),
            cloudwatch_endpoint_url: Some("https://".to_owned()),
            lease_table: Some("ab".to_owned()),
            connect_timeout: Duration::ZERO,
            attempt_timeout: Duration::from_secs(31),
            idle_time_between_reads: Duration::from_secs(61),
            max_idle_time_between_reads: Some(Duration::from_secs(5)),
            read_share_percent: 0,
            retrieval: RetrievalMode::FanOut(FanOutSettings::with_consumer_name("two words")),
            ..AwsSettings::new("")
        };
        let error = settings.validate().unwrap_err();
        assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1 + 12, "{message}");
        for name in [
            "stream_name is empty",
            "region is empty",
            "dynamodb_region \"EU West\"",
            "kinesis_endpoint_url \"localhost:4567\"",
            "cloudwatch_endpoint_url \"https://\"",
            "lease_table \"ab\"",
            "connect_timeout 0",
            "attempt_timeout 31s must not be longer than operation_timeout 30s",
            "- idle_time_between_reads 61s",
            "max_idle_time_between_reads 5s",
            "read_share_percent 0",
            "consumer name \"two words\"",
        ] {
            assert!(message.contains(name), "{name} is not in {message}");
        }
    }

    #[test]
    fn stream_names_follow_the_rules_of_the_api() {
        let longest = "a".repeat(MAX_NAME_BYTES);
        for name in ["a", "My_stream.2-x", longest.as_str()] {
            assert_eq!(AwsSettings::new(name).faults(), Vec::<String>::new(), "{name}");
        }
        let too_long = "a".repeat(MAX_NAME_BYTES + 1);
        for name in ["", "a b", "wörter", "arn:aws:kinesis:eu-west-1:1:stream/words", too_long.as_str()] {
            assert_eq!(AwsSettings::new(name).faults().len(), 1, "{name}");
        }
    }

    #[test]
    fn the_region_is_that_of_the_arn() {
        const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/words";
        let consumer = || FanOutSettings::with_consumer_arn(format!("{ARN}/consumer/count:17"));
        let region_of = |settings: &AwsSettings| {
            assert_eq!(settings.faults(), Vec::<String>::new());
            settings.stream_region()
        };
        assert_eq!(region_of(&AwsSettings::new("words")), None);
        assert_eq!(region_of(&AwsSettings::new(ARN)).as_deref(), Some("eu-west-1"));
        let retrieval = RetrievalMode::FanOut(consumer());
        let by_consumer = AwsSettings { retrieval: retrieval.clone(), ..AwsSettings::new("words") };
        assert_eq!(region_of(&by_consumer).as_deref(), Some("eu-west-1"));
        let both = AwsSettings { retrieval, region: Some("eu-west-1".to_owned()), ..AwsSettings::new(ARN) };
        assert_eq!(region_of(&both).as_deref(), Some("eu-west-1"));
    }

    #[test]
    fn contradicting_arns_and_regions_are_faults() {
        const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/words";
        let with_consumer = |stream: &str, consumer: &str, region: Option<&str>| {
            let fan_out = FanOutSettings::with_consumer_arn(consumer);
            let retrieval = RetrievalMode::FanOut(fan_out);
            AwsSettings { retrieval, region: region.map(str::to_owned), ..AwsSettings::new(stream) }.faults()
        };
        let region = Some("us-east-1".to_owned());
        let faults = AwsSettings { region, ..AwsSettings::new(ARN) }.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        for part in ["region \"us-east-1\"", "\"eu-west-1\"", ARN] {
            assert!(faults[0].contains(part), "{faults:?}");
        }
        let consumer = |account: &str, stream: &str| {
            format!("arn:aws:kinesis:eu-west-1:{account}:stream/{stream}/consumer/count:17")
        };
        let own = consumer("111122223333", "words");
        assert_eq!(with_consumer(ARN, &own, None), Vec::<String>::new());
        assert_eq!(with_consumer("words", &own, Some("eu-west-1")), Vec::<String>::new());
        for (stream, consumer, region) in [
            (ARN, consumer("444455556666", "words"), None),
            (ARN, consumer("111122223333", "lines"), None),
            ("words", consumer("111122223333", "lines"), None),
            ("words", own, Some("us-east-1")),
        ] {
            let faults = with_consumer(stream, &consumer, region);
            assert_eq!(faults.len(), 1, "{faults:?}");
        }
    }

    #[test]
    fn endpoints_must_be_urls_with_a_host() {
        for url in [
            "http://localhost",
            "http://127.0.0.1:4567",
            "https://kinesis.eu-west-1.amazonaws.com/",
            "https://vpce-1.kinesis.eu-west-1.vpce.amazonaws.com:443/path",
            "http://[::1]:4567",
        ] {
            assert_eq!(endpoint_fault("it", url), None, "{url}");
        }
        for url in [
            "",
            "localhost",
            "ftp://localhost",
            "http:/localhost",
            "http://",
            "http:///path",
            "http://:80",
            "http://host:",
            "http://host:0",
            "http://host:65536",
            "http://host:80x",
            "http://ho st",
            "http://host/a b",
            "http://host?a=b",
            "http://host/#a",
            "http://[::1",
            "http://[nonsense]:80",
            "http://[::1]80",
            "http://-host",
        ] {
            assert!(endpoint_fault("it", url).is_some(), "{url}");
        }
    }

    #[test]
    fn password_in_an_endpoint_is_refused_and_not_shown() {
        let fault = endpoint_fault("kinesis_endpoint_url", "http://user:secret@host").unwrap();
        assert!(fault.contains("kinesis_endpoint_url") && !fault.contains("secret"), "{fault}");
    }
}
