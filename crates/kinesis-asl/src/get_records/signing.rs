//! Signature version 4 for requests of one fixed shape, with a cache for the key of the day.
//!
//! The cryptography is that of `aws-sigv4`. Its general request handling and the key derivation of each call are saved. A test
//! compares the signatures with those of `aws-sigv4`.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use lease_store::settings_format::timestamp;
use sha2::{Digest, Sha256};

/// The length of the day at the start of a date such as `20260102T030405Z`.
const DAY_LENGTH: usize = 8;

/// The signed parts of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signable<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) host: &'a str,
    pub(super) content_type: &'a str,
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
}

/// The headers that carry a signature.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) date: String,
    pub(super) authorization: String,
}

/// Signs requests, and caches the key of the day.
#[derive(Default)]
pub(crate) struct Signer(Mutex<SignerState>);

#[derive(Default)]
struct SignerState {
    key: Option<Key>,
    /// Buffers for the texts to sign, reused between calls.
    canonical: String,
    to_sign: String,
}

struct Key {
    /// The inputs of the key: secret, day, region and service.
    made_from: [String; 4],
    key: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer(..)")
    }
}

impl Signer {
    /// Signs a `POST` to `/`. `None`: the time is out of range.
    pub(super) fn sign(
        &self,
        credentials: &Credentials,
        signable: &Signable<'_>,
        time: SystemTime,
    ) -> Option<Signature> {
        let date = date_of(time)?;
        let day = date.get(..DAY_LENGTH)?;
        let Signable { region, service, host, content_type, target, body } = signable;
        let token = credentials.session_token();
        let names = match token {
            Some(_) => "content-type;host;x-amz-date;x-amz-security-token;x-amz-target",
            None => "content-type;host;x-amz-date;x-amz-target",
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let SignerState { key, canonical, to_sign } = &mut *state;
        canonical.clear();
        to_sign.clear();
        let mut add = |text: &str| canonical.push_str(text);
        for text in ["POST\n/\n\ncontent-type:", content_type, "\nhost:", host, "\nx-amz-date:", &date] {
            add(text);
        }
        if let Some(token) = token {
            add("\nx-amz-security-token:");
            add(token);
        }
        for text in ["\nx-amz-target:", target, "\n\n", names, "\n"] {
            add(text);
        }
        push_hash(canonical, body);

        write!(to_sign, "AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n").ok()?;
        push_hash(to_sign, canonical.as_bytes());
        let signature = signature(key, credentials, day, signable, time, to_sign.as_bytes());
        drop(state);
        let key_id = credentials.access_key_id();
        let authorization = [
            "AWS4-HMAC-SHA256 Credential=",
            key_id,
            "/",
            day,
            "/",
            region,
            "/",
            service,
            "/aws4_request, SignedHeaders=",
            names,
            ", Signature=",
            &signature,
        ]
        .concat();
        Some(Signature { date, authorization })
    }
}

fn signature(
    cached: &mut Option<Key>,
    credentials: &Credentials,
    day: &str,
    signable: &Signable<'_>,
    time: SystemTime,
    to_sign: &[u8],
) -> String {
    let wanted = [credentials.secret_access_key(), day, signable.region, signable.service];
    if let Some(cached) = cached.as_ref()
        && cached.made_from == wanted
    {
        return calculate_signature(&cached.key, to_sign);
    }
    let [secret, _, region, service] = wanted;
    let key = generate_signing_key(secret, time, region, service).as_ref().to_vec();
    let signature = calculate_signature(&key, to_sign);
    *cached = Some(Key { made_from: wanted.map(str::to_owned), key });
    signature
}

fn push_hash(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in Sha256::digest(bytes) {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from(DIGITS[usize::from(nibble)]));
        }
    }
}

/// The date of a time, such as `20260102T030405Z`. `None`: before 1970 or after 9999.
fn date_of(time: SystemTime) -> Option<String> {
    let mut date = timestamp::text_to_the_second(time)?;
    date.retain(|character| !matches!(character, '-' | ':'));
    Some(date)
}

/// Parses a date such as `20260102T030405Z`.
pub(super) fn parse_date(date: &str) -> Option<DateTime> {
    let part = |range: std::ops::Range<usize>| date.get(range);
    let formatted = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(9..11)?,
        part(11..13)?,
        part(13..15)?
    );
    DateTime::from_str(&formatted, aws_sdk_kinesis::primitives::DateTimeFormat::DateTime).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sigv4::http_request::{
        SignableBody, SignableRequest, SigningParams, SigningSettings, sign as reference,
    };
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;

    use super::*;

    fn expected(
        credentials: &Credentials,
        signable: &Signable<'_>,
        time: SystemTime,
    ) -> Vec<(String, String)> {
        let identity = credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(signable.region)
            .name(signable.service)
            .time(time)
            .settings(SigningSettings::default())
            .build()
            .unwrap();
        let headers = [("content-type", signable.content_type), ("x-amz-target", signable.target)];
        let url = format!("https://{}/", signable.host);
        let request =
            SignableRequest::new("POST", url, headers.into_iter(), SignableBody::Bytes(signable.body))
                .unwrap();
        let (instructions, _) = reference(request, &SigningParams::V4(params)).unwrap().into_parts();
        instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    proptest! {
        #[test]
        fn signatures_match_those_of_the_sdk(
            secret in "[A-Za-z0-9/+]{40}",
            token in proptest::option::of("[A-Za-z0-9/+=]{1,400}"),
            port in proptest::option::of(1024..u16::MAX),
            body: Vec<u8>,
            times in proptest::collection::vec(0..4_102_444_800_u64, 1..4),
        ) {
            let signer = Signer::default();
            let host = port.map_or("kinesis.test".to_owned(), |port| format!("kinesis.test:{port}"));
            let credentials = Credentials::new("AKIDEXAMPLE", secret, token, None, "test");
            let signable = Signable {
                region: "eu-west-1",
                service: "kinesis",
                host: &host,
                content_type: "application/x-amz-cbor-1.1",
                target: "Kinesis_20131202.GetRecords",
                body: &body,
            };
            for time in times.into_iter().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)) {
                let signature = signer.sign(&credentials, &signable, time).unwrap();
                let expected = expected(&credentials, &signable, time);
                let value = |wanted: &str| expected.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
                prop_assert_eq!(Some(&signature.date), value("x-amz-date"));
                prop_assert_eq!(Some(&signature.authorization), value("authorization"));
                let parsed = parse_date(&signature.date).unwrap();
                prop_assert_eq!(SystemTime::try_from(parsed).unwrap(), time);
            }
        }
    }
}
