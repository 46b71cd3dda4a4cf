//! Converts the output of the SDK's own parser. The tests compare the other decoders with it.

use aws_sdk_kinesis::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types;
use bytestring::ByteString;
use lease_store::{SequenceNumber, StoreError};
use shard_worker::Record;

use super::answer::Answer;
use super::json;
use crate::service_time::to_system_time;

/// Refuses an answer without the member `Records`. The SDK reads one as an answer without records.
#[derive(Debug)]
pub(super) struct NeedsRecords;

impl Intercept for NeedsRecords {
    fn name(&self) -> &'static str {
        "NeedsRecords"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let output =
            context.output_or_error().ok().and_then(|output| output.downcast_ref::<GetRecordsOutput>());
        // A record proves that the member exists. Only a body without records is read again.
        if output.is_some_and(|output| output.records.is_empty()) {
            json::check_records(context.response().body().bytes().unwrap_or_default().to_vec())?;
        }
        Ok(())
    }
}

/// Converts the SDK's output.
pub(super) fn convert(output: GetRecordsOutput) -> Result<Answer, StoreError> {
    Ok(Answer {
        records: output.records.into_iter().map(convert_record).collect::<Result<_, _>>()?,
        next_iterator: output.next_shard_iterator,
        millis_behind_latest: output.millis_behind_latest,
        children: output.child_shards.unwrap_or_default(),
    })
}

fn convert_record(record: types::Record) -> Result<Record, StoreError> {
    Ok(Record::new(SequenceNumber::new(record.sequence_number)?, record.data.into_bytes())
        .with_partition_key(record.partition_key.filter(|key| !key.is_empty()).map(ByteString::from))
        .with_arrival(record.approximate_arrival_timestamp.and_then(to_system_time)))
}
