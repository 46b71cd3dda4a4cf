//! Whose credentials these are: the one call of STS that needs no permission.

use aws_config::{Region, SdkConfig};
use aws_sdk_sts::Client;

use crate::error::{AslError, AslErrorKind, asl_error};
use crate::settings::AwsSettings;
use crate::timeouts::timeouts;

/// The identity of the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallerIdentity {
    /// The account.
    pub account: String,
    /// The ARN of the user, or of the session of a role.
    pub arn: String,
}

/// The client of STS.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    client: Client,
    /// Whether the client calls AWS, or an endpoint that was set for STS.
    is_known: bool,
}

impl Identity {
    /// A client with the credentials of the stream. Where Kinesis has an endpoint of its own and STS has none, the credentials are
    /// those of an emulator, and AWS does not know them.
    pub(crate) fn new(
        settings: &AwsSettings,
        loaded: &SdkConfig,
        region: Region,
        endpoint_url: Option<String>,
        is_kinesis_of_aws: bool,
    ) -> Self {
        let is_known = is_kinesis_of_aws || endpoint_url.is_some();
        let mut config =
            aws_sdk_sts::config::Builder::from(loaded).region(region).timeout_config(timeouts(settings));
        config.set_endpoint_url(endpoint_url);
        Self { client: Client::from_conf(config.build()), is_known }
    }

    /// Asks STS. `None`: there is no STS to ask.
    pub(crate) async fn ask(&self, endpoint_url: Option<&str>) -> Result<Option<CallerIdentity>, AslError> {
        let client = match endpoint_url {
            Some(url) => Client::from_conf(self.client.config().to_builder().endpoint_url(url).build()),
            None if self.is_known => self.client.clone(),
            None => return Ok(None),
        };
        let answer = client
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| asl_error("asking for the identity of the credentials", error))?;
        let (Some(account), Some(arn)) = (answer.account, answer.arn) else {
            let message =
                "the answer to GetCallerIdentity lacks the account or the ARN; check the endpoint of STS";
            return Err(AslError::new(AslErrorKind::Unavailable, message));
        };
        Ok(Some(CallerIdentity { account, arn }))
    }
}
