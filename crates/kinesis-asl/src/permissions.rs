//! Asks whether calls are allowed, without their effect: by the dry run of the service, or by a call that cannot do anything.
//!
//! | call | how it is asked for |
//! | --- | --- |
//! | `SubscribeToShard`, `PutRecord` | `DryRun` (since 2026-09); refused with `DryRunOperationException` if the call is allowed |
//! | `DescribeStreamConsumer` | the call itself; a consumer that is not registered is no obstacle |
//! | `PutMetricData` | without a metric, which the service refuses after it has checked the permission |
//! | `RegisterStreamConsumer` | cannot be asked for |
//!
//! An emulator may know no dry run and carry the call out, so dry runs are made only where Kinesis has the endpoint of AWS.

use aws_sdk_kinesis::error::ProvideErrorMetadata as _;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};
use lease_store::ShardId;
use shard_worker::{SourceError, SourceErrorKind};

use crate::connect::KinesisAsl;
use crate::error::{AslError, Destination, source_error};

/// The code with which an allowed dry run is refused.
const DRY_RUN: &str = "DryRunOperationException";

/// Whether a call is allowed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Permission {
    /// It is.
    Allowed,
    /// It is not, or the credentials are not valid.
    Denied(SourceError),
    /// The question failed for another reason.
    Unknown(SourceError),
    /// It was not asked, because an emulator may carry the call out.
    NotAsked,
}

impl KinesisAsl {
    /// Whether a consumer of this name may be described: the ARN of the consumer with the answer, if it is registered.
    ///
    /// # Errors
    /// None; a failure is part of the answer.
    pub async fn may_describe_consumer(&self, stream_arn: &str, name: &str) -> (Permission, Option<String>) {
        let client = self.kinesis();
        let request = client.describe_stream_consumer().stream_arn(stream_arn).consumer_name(name);
        match request.send().await {
            Ok(answer) => {
                let arn = answer.consumer_description.map(|consumer| consumer.consumer_arn);
                (Permission::Allowed, arn.filter(|arn| !arn.is_empty()))
            }
            Err(error) => {
                let error = source_error("describing the consumer", &self.destination(stream_arn), error);
                let answer = match error.kind() {
                    SourceErrorKind::StreamNotFound => Permission::Allowed,
                    SourceErrorKind::Denied => Permission::Denied(error),
                    _ => Permission::Unknown(error),
                };
                (answer, None)
            }
        }
    }

    /// Whether a registered consumer may subscribe to a shard.
    pub async fn may_subscribe(&self, consumer_arn: &str, shard_id: &ShardId) -> Permission {
        if !self.is_at_aws() {
            return Permission::NotAsked;
        }
        let Ok(latest) = StartingPosition::builder().r#type(ShardIteratorType::Latest).build() else {
            return Permission::NotAsked;
        };
        let request = self.kinesis().subscribe_to_shard().consumer_arn(consumer_arn);
        let request = request.shard_id(shard_id.as_str()).starting_position(latest).dry_run(true);
        match request.send().await {
            Ok(_) => Permission::Allowed,
            Err(error) if error.code() == Some(DRY_RUN) => Permission::Allowed,
            Err(error) => {
                of_error(source_error("asking for a subscription", &self.destination(consumer_arn), error))
            }
        }
    }

    /// Whether records may be put into a stream, such as that of the dead letters.
    ///
    /// # Errors
    /// `InvalidSettings` when that is neither a valid name nor the ARN of a stream.
    pub async fn may_put_records(&self, stream: &str) -> Result<Permission, AslError> {
        let client = self.client_of("the stream of the dead letters", stream)?;
        if !self.is_at_aws() {
            return Ok(Permission::NotAsked);
        }
        let destination = self.destination(stream);
        let request = client.put_record().stream_name(&destination.stream.name);
        let request = request.set_stream_arn(destination.arn()).partition_key("dry-run");
        Ok(match request.data(Blob::new([])).dry_run(true).send().await {
            Ok(_) => Permission::Allowed,
            Err(error) if error.code() == Some(DRY_RUN) => Permission::Allowed,
            Err(error) => of_error(source_error("asking to put a record", &destination, error)),
        })
    }

    fn destination(&self, stream: &str) -> Destination {
        let region = self.kinesis().config().region().map(|region| region.as_ref().to_owned());
        Destination::new(stream.to_owned(), region)
    }
}

fn of_error(error: SourceError) -> Permission {
    match error.kind() {
        SourceErrorKind::Denied => Permission::Denied(error),
        _ => Permission::Unknown(error),
    }
}
