//! The strings that name credential providers: `Name|argument|key=value, Name, ...`.

use std::fmt;

/// A credential provider, in words of no SDK.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialSource {
    /// The default chain.
    DefaultChain,
    /// Environment variables.
    Environment,
    /// A profile of the shared files; `None`: the default one.
    Profile(Option<String>),
    /// The metadata service of an instance.
    InstanceMetadata,
    /// The endpoint of a container.
    Container,
    /// A token file of a web identity.
    WebIdentity,
    /// A role that the default chain assumes.
    AssumeRole {
        /// The ARN of the role.
        role_arn: String,
        /// The name of the session.
        session_name: String,
        /// The external id.
        external_id: Option<String>,
        /// The region of the STS endpoint.
        region: Option<String>,
        /// The host of the STS endpoint.
        endpoint: Option<String>,
    },
    /// Requests are not signed.
    Anonymous,
    /// `-Daws.accessKeyId` and `-Daws.secretAccessKey` of the command line.
    SystemProperties,
    /// Keys in the file. Java does not support them.
    Static {
        /// The access key.
        access_key: String,
        /// The secret key.
        secret_key: String,
    },
    /// The output of a command. Java does not support it.
    Process(String),
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_string())
    }
}

/// The name and its public arguments; secrets are left out.
impl fmt::Display for CredentialSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultChain => formatter.write_str("DefaultCredentialsProvider"),
            Self::Environment => formatter.write_str("EnvironmentVariableCredentialsProvider"),
            Self::Profile(None) => formatter.write_str("ProfileCredentialsProvider"),
            Self::Profile(Some(name)) => write!(formatter, "ProfileCredentialsProvider|{name}"),
            Self::InstanceMetadata => formatter.write_str("InstanceProfileCredentialsProvider"),
            Self::Container => formatter.write_str("ContainerCredentialsProvider"),
            Self::WebIdentity => formatter.write_str("WebIdentityTokenFileCredentialsProvider"),
            Self::AssumeRole { role_arn, session_name, .. } => {
                write!(formatter, "StsAssumeRoleCredentialsProvider|{role_arn}|{session_name}")
            }
            Self::Anonymous => formatter.write_str("AnonymousCredentialsProvider"),
            Self::SystemProperties => formatter.write_str("SystemPropertyCredentialsProvider"),
            Self::Static { .. } => formatter.write_str("StaticCredentialsProvider|(hidden)"),
            Self::Process(_) => formatter.write_str("ProcessCredentialsProvider|(hidden)"),
        }
    }
}

/// The providers of a list, and one message for each part of it that cannot be used or was changed. Java skips such parts
/// in silence.
pub fn parse_credentials(text: &str) -> (Vec<CredentialSource>, Vec<String>) {
    let mut sources = Vec::new();
    let mut messages = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let mut fields = part.split('|').map(str::trim);
        let full_name = fields.next().unwrap_or_default();
        let fields: Vec<&str> = fields.collect();
        match source(full_name, &fields, &mut messages) {
            Ok(source) => sources.push(source),
            Err(reason) => messages.push(format!("credential provider {full_name:?} is skipped: {reason}")),
        }
    }
    (sources, messages)
}

/// The packages in which Java looks for a short name.
const PACKAGES: [&str; 3] = [
    "software.amazon.kinesis.multilang.auth.",
    "software.amazon.awssdk.auth.credentials.",
    "com.amazonaws.auth.",
];

fn source(full_name: &str, fields: &[&str], messages: &mut Vec<String>) -> Result<CredentialSource, String> {
    let name = PACKAGES.iter().find_map(|package| full_name.strip_prefix(package)).unwrap_or(full_name);
    Ok(match (name, fields) {
        ("DefaultCredentialsProvider" | "DefaultAWSCredentialsProviderChain", []) => {
            CredentialSource::DefaultChain
        }
        ("EnvironmentVariableCredentialsProvider", []) => CredentialSource::Environment,
        ("ProfileCredentialsProvider", []) => CredentialSource::Profile(None),
        ("ProfileCredentialsProvider", [profile]) => CredentialSource::Profile(Some((*profile).to_owned())),
        ("InstanceProfileCredentialsProvider", []) => CredentialSource::InstanceMetadata,
        ("ContainerCredentialsProvider", []) => CredentialSource::Container,
        ("WebIdentityTokenFileCredentialsProvider", []) => CredentialSource::WebIdentity,
        ("AnonymousCredentialsProvider", []) => CredentialSource::Anonymous,
        ("SystemPropertyCredentialsProvider" | "SystemPropertiesCredentialsProvider", []) => {
            CredentialSource::SystemProperties
        }
        (
            "StsAssumeRoleCredentialsProvider"
            | "KclStsAssumeRoleCredentialsProvider"
            | "STSAssumeRoleSessionCredentialsProvider",
            [role_arn, session_name, options @ ..],
        ) => assume_role(role_arn, session_name, options, messages),
        (
            "StsAssumeRoleCredentialsProvider"
            | "KclStsAssumeRoleCredentialsProvider"
            | "STSAssumeRoleSessionCredentialsProvider",
            _,
        ) => return Err("it needs a role ARN and a session name: Name|arn|session".to_owned()),
        ("StaticCredentialsProvider" | "BasicAWSCredentials", [access_key, secret_key]) => {
            let (access_key, secret_key) = ((*access_key).to_owned(), (*secret_key).to_owned());
            CredentialSource::Static { access_key, secret_key }
        }
        ("ProcessCredentialsProvider", [command]) => CredentialSource::Process((*command).to_owned()),
        _ if is_known(name) => return Err(format!("it does not take {} arguments", fields.len())),
        _ => {
            return Err("a Java class cannot be loaded here; use ProfileCredentialsProvider with a credential_process, or \
                        StsAssumeRoleCredentialsProvider|arn|session"
                .to_owned());
        }
    })
}

fn is_known(name: &str) -> bool {
    [
        "DefaultCredentialsProvider",
        "DefaultAWSCredentialsProviderChain",
        "EnvironmentVariableCredentialsProvider",
        "ProfileCredentialsProvider",
        "InstanceProfileCredentialsProvider",
        "ContainerCredentialsProvider",
        "WebIdentityTokenFileCredentialsProvider",
        "AnonymousCredentialsProvider",
        "SystemPropertyCredentialsProvider",
        "StaticCredentialsProvider",
        "ProcessCredentialsProvider",
    ]
    .contains(&name)
}

fn assume_role(
    role_arn: &str,
    session_name: &str,
    options: &[&str],
    messages: &mut Vec<String>,
) -> CredentialSource {
    let (mut external_id, mut region, mut endpoint) = (None, None, None);
    for option in options {
        match option.split_once('=') {
            Some(("externalId", value)) => external_id = Some(value.to_owned()),
            Some(("endpointRegion", value)) => region = Some(value.to_owned()),
            // host^region
            Some(("endpoint", value)) => match value.split_once('^') {
                Some((host, of_host)) => {
                    endpoint = Some(host.to_owned());
                    region = Some(of_host.to_owned());
                }
                None => messages.push(format!("option {option:?} is skipped: write endpoint=host^region")),
            },
            _ => messages.push(format!(
                "option {option:?} is skipped: write externalId=, endpointRegion= or endpoint=host^region"
            )),
        }
    }
    CredentialSource::AssumeRole {
        role_arn: role_arn.to_owned(),
        session_name: session_name.to_owned(),
        external_id,
        region,
        endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<CredentialSource> {
        let (sources, messages) = parse_credentials(text);
        assert_eq!(messages, Vec::<String>::new(), "{text}");
        sources
    }

    #[test]
    fn names_of_both_sdks_are_known() {
        let all = sources(
            "DefaultCredentialsProvider, DefaultAWSCredentialsProviderChain,EnvironmentVariableCredentialsProvider,\
             ProfileCredentialsProvider|audit,software.amazon.awssdk.auth.credentials.ContainerCredentialsProvider",
        );
        let expected = [
            CredentialSource::DefaultChain,
            CredentialSource::DefaultChain,
            CredentialSource::Environment,
            CredentialSource::Profile(Some("audit".to_owned())),
            CredentialSource::Container,
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn assumed_role_has_its_options() {
        let text = "StsAssumeRoleCredentialsProvider|arn:aws:iam::1:role/r|s|externalId=x|endpoint=sts.example^eu-west-1";
        let expected = CredentialSource::AssumeRole {
            role_arn: "arn:aws:iam::1:role/r".to_owned(),
            session_name: "s".to_owned(),
            external_id: Some("x".to_owned()),
            region: Some("eu-west-1".to_owned()),
            endpoint: Some("sts.example".to_owned()),
        };
        assert_eq!(sources(text), [expected]);
    }

    #[test]
    fn parts_that_cannot_be_used_are_named() {
        for (text, word) in [
            ("com.example.OwnProvider", "Java class"),
            ("defaultCredentialsProvider", "Java class"),
            ("STSAssumeRoleSessionCredentialsProvider|arn", "session name"),
            ("DefaultCredentialsProvider|x", "1 arguments"),
        ] {
            let (sources, messages) = parse_credentials(text);
            assert_eq!(sources, []);
            assert!(messages.len() == 1 && messages[0].contains(word), "{text}: {messages:?}");
        }
        let (sources, messages) = parse_credentials("KclStsAssumeRoleCredentialsProvider|a|s|color=red");
        assert_eq!((sources.len(), messages.len()), (1, 1));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", sources("StaticCredentialsProvider|AKIA|hush"));
        assert!(!shown.contains("hush") && !shown.contains("AKIA"), "{shown}");
    }
}
