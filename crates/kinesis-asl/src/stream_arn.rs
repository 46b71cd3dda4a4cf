//! A stream or a consumer as settings name it: by its name or by its ARN. Pure.

use std::fmt;

/// The longest name of a stream or of a consumer, in bytes (Kinesis API).
pub(crate) const MAX_NAME_BYTES: usize = 128;

/// The longest accepted region, in bytes: the region becomes a label of a host name.
const MAX_REGION_BYTES: usize = 63;

/// The length of an account id, in digits (AWS).
const ACCOUNT_DIGITS: usize = 12;

/// The start of every ARN. A name contains no `:`.
const ARN_PREFIX: &str = "arn:";

/// The form of a stream's ARN, for error messages.
pub(crate) const STREAM_FORM: &str = "arn:aws:kinesis:<region>:<account of 12 digits>:stream/<stream>";

/// The form of a consumer's ARN, for error messages.
pub(crate) const CONSUMER_FORM: &str =
    "arn:aws:kinesis:<region>:<account of 12 digits>:stream/<stream>/consumer/<name>:<time>";

/// Whether a value is meant as an ARN rather than a name.
pub(crate) fn is_arn(text: &str) -> bool {
    text.starts_with(ARN_PREFIX)
}

/// Whether a value is a valid name of a stream or of a consumer.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_name_byte)
}

pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

pub(crate) fn is_region(region: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_REGION_BYTES).contains(&region.len()) && region.bytes().all(allowed)
}

/// The ARN of a stream, with its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamArn {
    text: String,
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) name: String,
}

impl StreamArn {
    /// Reads the ARN of a stream.
    ///
    /// # Errors
    /// The fault, which names the value and the form.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = Parts::parse(text).map_err(|fault| with_form(text, &fault, STREAM_FORM))?;
        let fault = match parts.resource.strip_prefix("stream/") {
            Some(name) if is_name(name) => return Ok(parts.of_stream(text, name)),
            Some(rest) if rest.contains("/consumer/") => "is the ARN of a consumer, not of a stream",
            _ => "names no stream",
        };
        Err(with_form(text, fault, STREAM_FORM))
    }
}

impl fmt::Display for StreamArn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// The stream in the ARN of a consumer.
///
/// # Errors
/// The fault, which names the value and the form.
pub(crate) fn stream_of_consumer(consumer_arn: &str) -> Result<StreamArn, String> {
    let fault = |fault: &str| with_form(consumer_arn, fault, CONSUMER_FORM);
    let parts = Parts::parse(consumer_arn).map_err(|reason| fault(&reason))?;
    let names = parts.resource.strip_prefix("stream/").and_then(|rest| rest.split_once("/consumer/"));
    let (stream, consumer) = names.ok_or_else(|| fault("names no consumer"))?;
    let Some((name, created_at)) = consumer.split_once(':') else {
        return Err(fault("lacks the registration time of the consumer"));
    };
    let has_time = !created_at.is_empty() && created_at.bytes().all(|byte| byte.is_ascii_digit());
    if !is_name(stream) || !is_name(name) || !has_time {
        return Err(fault("names no consumer"));
    }
    let stream_arn = consumer_arn.split("/consumer/").next().unwrap_or_default();
    Ok(parts.of_stream(stream_arn, stream))
}

/// A stream by its name or by its ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamId {
    pub(crate) name: String,
    /// `None`: the stream was given by its name.
    pub(crate) arn: Option<StreamArn>,
}

impl StreamId {
    /// Reads a name or an ARN. A name is not checked.
    ///
    /// # Errors
    /// The fault of an ARN, which names the value and the form.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !is_arn(text) {
            return Ok(Self { name: text.to_owned(), arn: None });
        }
        let arn = StreamArn::parse(text)?;
        Ok(Self { name: arn.name.clone(), arn: Some(arn) })
    }
}

/// The parts of an ARN of Kinesis.
struct Parts<'a> {
    region: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", partition, service, region, account, resource] = parts[..] else {
            return Err("is no ARN".to_owned());
        };
        let is_partition = partition == "aws"
            || partition.strip_prefix("aws-").is_some_and(|rest| is_region(rest) && !rest.is_empty());
        if !is_partition {
            return Err(format!("has the partition {partition:?}"));
        }
        if service != "kinesis" {
            return Err(format!("is of the service {service:?}, not of Kinesis data streams"));
        }
        if !is_region(region) {
            return Err(format!("has the region {region:?}"));
        }
        if account.len() != ACCOUNT_DIGITS || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("has the account {account:?}"));
        }
        Ok(Self { region, account, resource })
    }

    fn of_stream(&self, text: &str, name: &str) -> StreamArn {
        StreamArn {
            text: text.to_owned(),
            region: self.region.to_owned(),
            account: self.account.to_owned(),
            name: name.to_owned(),
        }
    }
}

fn with_form(text: &str, fault: &str, form: &str) -> String {
    format!("{text:?} {fault}; it must look like {form}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/words";

    #[test]
    fn a_name_and_an_arn_name_the_same_stream() {
        let by_name = StreamId::parse("words").unwrap();
        assert_eq!((by_name.name.as_str(), by_name.arn), ("words", None));
        for (arn, region) in [
            (ARN, "eu-west-1"),
            ("arn:aws-cn:kinesis:cn-north-1:111122223333:stream/words", "cn-north-1"),
            ("arn:aws-us-gov:kinesis:us-gov-west-1:111122223333:stream/words", "us-gov-west-1"),
            ("arn:aws-iso-b:kinesis:us-isob-east-1:111122223333:stream/words", "us-isob-east-1"),
        ] {
            let by_arn = StreamId::parse(arn).unwrap();
            assert_eq!(by_arn.name, "words");
            let parsed = by_arn.arn.unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), parsed.region.as_str(), parsed.account.as_str()),
                (arn, region, "111122223333")
            );
        }
    }

    #[test]
    fn a_faulty_arn_is_named_with_its_fault_and_the_form() {
        for (arn, reason) in [
            ("arn:aws:kinesis", "is no ARN"),
            ("arn:", "is no ARN"),
            ("arn:oops:kinesis:eu-west-1:111122223333:stream/words", "partition \"oops\""),
            ("arn:aws-:kinesis:eu-west-1:111122223333:stream/words", "partition \"aws-\""),
            ("arn:aws:dynamodb:eu-west-1:111122223333:table/words", "service \"dynamodb\""),
            ("arn:aws:firehose:eu-west-1:111122223333:deliverystream/words", "service \"firehose\""),
            ("arn:aws:kinesis::111122223333:stream/words", "region \"\""),
            ("arn:aws:kinesis:EU:111122223333:stream/words", "region \"EU\""),
            ("arn:aws:kinesis:eu-west-1::stream/words", "account \"\""),
            ("arn:aws:kinesis:eu-west-1:1111:stream/words", "account \"1111\""),
            ("arn:aws:kinesis:eu-west-1:111122223333:table/words", "names no stream"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream/", "names no stream"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream/two words", "names no stream"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count:17", "of a consumer"),
        ] {
            let fault = StreamId::parse(arn).unwrap_err();
            assert!(fault.contains(arn) && fault.contains(reason), "{fault}");
            assert!(fault.contains(STREAM_FORM), "{fault}");
        }
    }

    #[test]
    fn a_consumer_names_its_stream() {
        let consumer = format!("{ARN}/consumer/count:1525898737");
        assert_eq!(stream_of_consumer(&consumer).unwrap(), StreamArn::parse(ARN).unwrap());
        for (arn, reason) in [
            ("count", "is no ARN"),
            (ARN, "names no consumer"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count", "registration time"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count:soon", "names no consumer"),
            ("arn:aws:kinesis:eu-west-1:111122223333:stream//consumer/count:1", "names no consumer"),
            ("arn:aws:kinesis:eu-west-1::stream/words/consumer/count:1", "account"),
            ("arn:aws:dynamodb:eu-west-1:111122223333:stream/words/consumer/count:1", "dynamodb"),
        ] {
            let fault = stream_of_consumer(arn).unwrap_err();
            assert!(fault.contains(reason) && fault.contains(CONSUMER_FORM), "{fault}");
        }
    }
}
