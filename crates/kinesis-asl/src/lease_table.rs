//! The lease table of an application: its DynamoDB client with tighter time-outs, and the store over it.

use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use lease_store::TableSettings;
use lease_store::dynamodb::DynamoDbLeaseStore;

use crate::error::{AslError, AslErrorKind};
use crate::settings::AwsSettings;
use crate::timeouts::timeouts;

/// The longest attempt of a lease call. Rows are small and DynamoDB answers within milliseconds. A write that hangs holds up
/// the renewal of its lease, which must succeed within the fail-over time (10 s by default).
pub(crate) const MAX_LEASE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest lease call, with all its attempts.
pub(crate) const MAX_LEASE_OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The DynamoDB client, the name of the table if the settings have one, and how it is created.
#[derive(Debug, Clone)]
pub(crate) struct LeaseTable {
    client: Client,
    name: Option<String>,
    settings: TableSettings,
}

impl LeaseTable {
    pub(crate) fn new(
        settings: &AwsSettings,
        loaded: &SdkConfig,
        region: Region,
        endpoint_url: Option<String>,
    ) -> Self {
        let mut config = aws_sdk_dynamodb::config::Builder::from(loaded)
            .region(region)
            .timeout_config(lease_timeouts(settings));
        config.set_endpoint_url(endpoint_url);
        Self {
            client: Client::from_conf(config.build()),
            name: settings.lease_table.clone(),
            settings: settings.table.clone(),
        }
    }

    /// The store of an application, whose name is that of the table by default.
    pub(crate) fn store(&self, application: &str) -> Result<DynamoDbLeaseStore, AslError> {
        let table = self.name.as_deref().unwrap_or(application);
        let store = DynamoDbLeaseStore::new(self.client.clone(), table).map_err(|error| {
            AslError::new(AslErrorKind::InvalidSettings, format!("the lease table: {error}"))
                .with_source(error)
        })?;
        Ok(store.with_application_name(application).with_table_settings(self.settings.clone()))
    }

    #[cfg(test)]
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

/// The time-outs of the settings, bounded so that one slow call cannot cost a lease.
pub(crate) fn lease_timeouts(settings: &AwsSettings) -> TimeoutConfig {
    timeouts(settings)
        .to_builder()
        .operation_attempt_timeout(settings.attempt_timeout.min(MAX_LEASE_ATTEMPT_TIMEOUT))
        .operation_timeout(settings.operation_timeout.min(MAX_LEASE_OPERATION_TIMEOUT))
        .build()
}
