//! A role that the credentials assume.

use aws_config::SdkConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde::{Deserialize, Serialize};

/// The name of the session when none is set. CloudTrail shows it.
const DEFAULT_SESSION_NAME: &str = "kinesis-streaming";

/// The form of a role ARN.
const ROLE_FORM: &str = "arn:aws:iam::111122223333:role/name";

/// The lengths of an external id and of a session name (STS).
const EXTERNAL_ID_CHARS: std::ops::RangeInclusive<usize> = 2..=1224;
const SESSION_NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=64;

/// A role to assume with the credentials of the process, for example one of another account. The session is renewed by itself.
///
/// ```
/// use kinesis_asl::{AwsSettings, RoleSettings};
///
/// let mut settings = AwsSettings::new("orders");
/// let role = RoleSettings::new("arn:aws:iam::123456789012:role/reader").with_external_id("billing");
/// assert!(role.faults().is_empty());
/// settings.stream_role = Some(role);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RoleSettings {
    /// The ARN of the role.
    pub arn: String,
    /// The external id that the trust policy of the role demands. `None`: it demands none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The name of the session in CloudTrail. `None`: `kinesis-streaming`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
}

impl RoleSettings {
    /// A role without an external id.
    pub fn new(arn: impl Into<String>) -> Self {
        Self { arn: arn.into(), external_id: None, session_name: None }
    }

    /// The same role with an external id.
    #[must_use]
    pub fn with_external_id(mut self, external_id: impl Into<String>) -> Self {
        self.external_id = Some(external_id.into());
        self
    }

    /// All faults, one line each; empty when the settings are valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let parts: Vec<&str> = self.arn.splitn(6, ':').collect();
        let is_role = matches!(
            parts.as_slice(),
            ["arn", partition, "iam", "", account, name]
                if !partition.is_empty() && !account.is_empty() && name.len() > "role/".len() && name.starts_with("role/")
        );
        if !is_role {
            faults.push(format!("arn {:?} must be the ARN of a role, like {ROLE_FORM}", self.arn));
        }
        for (name, value, chars) in [
            ("external_id", &self.external_id, EXTERNAL_ID_CHARS),
            ("session_name", &self.session_name, SESSION_NAME_CHARS),
        ] {
            if let Some(value) = value
                && !chars.contains(&value.chars().count())
            {
                faults.push(format!("{name} must be {} to {} characters", chars.start(), chars.end()));
            }
        }
        faults
    }

    /// The same configuration, with the credentials of the role.
    pub(crate) async fn assume(&self, config: &SdkConfig) -> SdkConfig {
        let session_name = self.session_name.as_deref().unwrap_or(DEFAULT_SESSION_NAME);
        let mut provider =
            AssumeRoleProvider::builder(&self.arn).session_name(session_name).configure(config);
        if let Some(external_id) = &self.external_id {
            provider = provider.external_id(external_id);
        }
        // Boxed because the future is large.
        let provider = Box::pin(provider.build()).await;
        let credentials = SharedCredentialsProvider::new(provider);
        config.to_builder().credentials_provider(credentials).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_the_rules_of_sts() {
        let role = RoleSettings::new("arn:aws:iam::111122223333:role/service/reader").with_external_id("id");
        assert_eq!(role.faults(), Vec::<String>::new());
        for arn in ["", "reader", "arn:aws:iam::111122223333:user/reader", "arn:aws:iam::111122223333:role/"]
        {
            assert_eq!(RoleSettings::new(arn).faults().len(), 1, "{arn}");
        }
        let mut faulty = RoleSettings::new("arn:aws-cn:iam::111122223333:role/r").with_external_id("x");
        faulty.session_name = Some("n".repeat(65));
        assert_eq!(faulty.faults().len(), 2, "{:?}", faulty.faults());
    }
}
