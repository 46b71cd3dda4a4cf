//! The calls of the checks, and their refusals without messages, which may name accounts.

use std::fmt;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::ShardIteratorType;
use ciborium::Value;
use tokio::time::sleep;

use super::assumption::{Findings, Verdict};
use super::exchange::{Exchange, HeaderTally, RawAnswer};
use super::members::refusal_code;

/// How long a call may take.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The waits between calls. The service allows five reads a second of a shard, and one dry run a second of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) before_read: Duration,
    pub(super) before_dry_run: Duration,
}

impl Pace {
    /// The pace that the real service allows.
    pub(super) const OF_THE_SERVICE: Self =
        Self { before_read: Duration::from_millis(250), before_dry_run: Duration::from_millis(1100) };

    /// No waits, for local servers.
    pub(super) const UNLIMITED: Self = Self { before_read: Duration::ZERO, before_dry_run: Duration::ZERO };
}

/// A call without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `None`: no answer arrived.
    pub(super) status: Option<u16>,
    pub(super) code: String,
}

impl Refusal {
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Self {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let kind = match error {
            SdkError::ConstructionFailure(_) => "no request could be built",
            SdkError::TimeoutError(_) => "the call timed out",
            SdkError::DispatchFailure(_) => "the request could not be sent",
            SdkError::ResponseError(_) => "the answer cannot be read",
            _ => "no code",
        };
        Self { status, code: error.code().unwrap_or(kind).to_owned() }
    }

    /// Whether the service refused the call by its policy.
    pub(super) fn is_denied(&self) -> bool {
        self.code == "AccessDeniedException"
    }

    pub(super) fn is_throttled(&self) -> bool {
        matches!(
            self.code.as_str(),
            "ThrottlingException" | "LimitExceededException" | "ProvisionedThroughputExceededException"
        )
    }
}

/// Records a refused call: the assumption is broken, unless the account, its limits or the network are the reason.
pub(super) fn record_refusal(id: &'static str, refusal: &Refusal, findings: &mut Findings) {
    let says_nothing = refusal.is_denied() || refusal.is_throttled() || refusal.status.is_none();
    let verdict = if says_nothing { Verdict::NotTried } else { Verdict::Broken };
    findings.record(id, verdict, format!("refused: {refusal}"));
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(formatter, "{} ({status})", self.code),
            None => formatter.write_str(&self.code),
        }
    }
}

/// Where an iterator starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start<'a> {
    TrimHorizon,
    Latest,
    At(&'a str),
    After(&'a str),
}

/// The encoding of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadIn {
    Cbor,
    Json,
}

/// The client of a stream. Its calls are attempted once, so that each answer is seen.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) client: Client,
    pub(super) headers: HeaderTally,
    pub(super) pace: Pace,
    name: Option<String>,
    arn: Option<String>,
}

impl Calls {
    /// The calls for a stream, given by its name or its ARN.
    pub(super) fn new(client: &Client, stream: &str, pace: Pace) -> Self {
        let headers = HeaderTally::default();
        let config = client.config().to_builder().interceptor(headers.clone());
        let timeouts = TimeoutConfig::builder().operation_timeout(CALL_LIMIT).build();
        let config = config.retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        let client = Client::from_conf(config.build());
        let is_arn = stream.starts_with("arn:");
        let stream = Some(stream.to_owned());
        let (name, arn) = if is_arn { (None, stream) } else { (stream, None) };
        Self { client, headers, pace, name, arn }
    }

    pub(super) fn name(&self) -> Option<String> {
        self.name.clone()
    }

    pub(super) fn arn(&self) -> Option<String> {
        self.arn.clone()
    }

    pub(super) async fn iterator(&self, shard_id: &str, start: Start<'_>) -> Result<String, Refusal> {
        let request = self.client.get_shard_iterator().shard_id(shard_id);
        let request = request.set_stream_name(self.name()).set_stream_arn(self.arn());
        let request = match start {
            Start::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Start::Latest => request.shard_iterator_type(ShardIteratorType::Latest),
            Start::At(number) => request
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(number),
            Start::After(number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(number),
        };
        let answer = request.send().await.map_err(|error| Refusal::of(&error))?;
        answer.shard_iterator.ok_or(Refusal { status: Some(200), code: "no iterator".to_owned() })
    }

    /// Reads at an iterator and returns the answer as it came.
    pub(super) async fn read(
        &self,
        iterator: &str,
        limit: i32,
        encoding: ReadIn,
    ) -> Result<RawAnswer, Refusal> {
        sleep(self.pace.before_read).await;
        let body = match encoding {
            ReadIn::Json => None,
            ReadIn::Cbor => Some(self.cbor_request(iterator, limit)?),
        };
        let exchange = Exchange::new(body);
        let request = self.client.get_records().shard_iterator(iterator).limit(limit);
        let request = request.set_stream_arn(self.arn()).customize().interceptor(exchange.clone());
        let read = request.send().await;
        match (exchange.answer(), read) {
            // The SDK cannot parse CBOR; what it says about a success does not matter.
            (Some(answer), _) if answer.status == 200 => Ok(answer),
            (Some(answer), Err(error)) => {
                let known = Refusal::of(&error);
                let code = refusal_code(&answer.body).unwrap_or(known.code);
                Err(Refusal { status: Some(answer.status), code })
            }
            (None, Err(error)) => Err(Refusal::of(&error)),
            (answer, Ok(_)) => {
                let status = answer.map(|answer| answer.status);
                Err(Refusal { status, code: "a success without a body".to_owned() })
            }
        }
    }

    fn cbor_request(&self, iterator: &str, limit: i32) -> Result<Vec<u8>, Refusal> {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut members =
            vec![(text("ShardIterator"), text(iterator)), (text("Limit"), Value::Integer(limit.into()))];
        members.extend(self.arn.as_deref().map(|arn| (text("StreamARN"), text(arn))));
        let mut body = Vec::new();
        ciborium::into_writer(&Value::Map(members), &mut body)
            .map_err(|_| Refusal { status: None, code: "no request could be built".to_owned() })?;
        Ok(body)
    }
}
