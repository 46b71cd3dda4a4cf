//! The settings of retrieval: polling, or enhanced fan-out and its consumer.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lease_store::settings_format;
use serde::{Deserialize, Serialize};

use crate::stream_arn::{MAX_NAME_BYTES, is_arn, is_name, stream_of_consumer};

/// How long a subscription may be silent before it is replaced. AWS sends an event every few seconds, empty if there is no
/// record.
const DEFAULT_INACTIVITY_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest inactivity time-out: above the time between two events of a quiet shard.
const MIN_INACTIVITY_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest inactivity time-out: the lifetime of a subscription (AWS: 5 min).
const MAX_INACTIVITY_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long a shard is polled before fan-out is tried again.
const DEFAULT_RETRY_FAN_OUT_AFTER: Duration = Duration::from_secs(5 * 60);

/// The shortest polling time: AWS refuses two subscriptions within five seconds.
const MIN_RETRY_FAN_OUT_AFTER: Duration = Duration::from_secs(5);

/// The most tags of a consumer (AWS).
const MAX_TAGS: usize = 50;

/// The longest key of a tag, in characters (AWS).
const MAX_TAG_KEY_CHARS: usize = 128;

/// The longest value of a tag, in characters (AWS).
const MAX_TAG_VALUE_CHARS: usize = 256;

/// How the records of a stream are fetched. The mode is logged at start-up, and the ARN of the consumer once it is known.
///
/// ```
/// use kinesis_asl::{FanOutSettings, RetrievalMode};
///
/// assert_eq!(RetrievalMode::default(), RetrievalMode::Polling);
/// let mode = RetrievalMode::FanOut(FanOutSettings::with_consumer_name("billing"));
/// assert!(mode.faults().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum RetrievalMode {
    /// `GetRecords`: all applications share 2 MB and five reads a second for each shard. Costs nothing extra.
    #[default]
    Polling,
    /// `SubscribeToShard`: this application has 2 MB a second for each shard to itself, and the service pushes the records.
    /// AWS charges for it by consumer, shard, hour and byte.
    FanOut(FanOutSettings),
}

impl RetrievalMode {
    /// All faults, one line each; empty when the mode is valid.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Self::Polling => Vec::new(),
            Self::FanOut(settings) => settings.faults(),
        }
    }
}

impl fmt::Display for RetrievalMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Polling => formatter.write_str("polling"),
            Self::FanOut(settings) => {
                let fall_back =
                    if settings.fall_back_to_polling { "falls back to" } else { "never falls back to" };
                write!(formatter, "fan-out as consumer {}, {fall_back} polling", settings.consumer)
            }
        }
    }
}

/// The consumer as which an application subscribes. In a file it is one text, a name or an ARN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum ConsumerChoice {
    /// The consumer with this name, registered if it is missing. All processes of an application share it. Two applications
    /// with the same name would end each other's subscriptions.
    Name(String),
    /// A consumer that is registered already. It is neither registered nor deregistered here.
    Arn(String),
}

impl From<String> for ConsumerChoice {
    fn from(name_or_arn: String) -> Self {
        if is_arn(&name_or_arn) { Self::Arn(name_or_arn) } else { Self::Name(name_or_arn) }
    }
}

impl From<ConsumerChoice> for String {
    fn from(consumer: ConsumerChoice) -> Self {
        match consumer {
            ConsumerChoice::Name(name_or_arn) | ConsumerChoice::Arn(name_or_arn) => name_or_arn,
        }
    }
}

impl fmt::Display for ConsumerChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(formatter, "{name:?}"),
            Self::Arn(arn) => formatter.write_str(arn),
        }
    }
}

/// The settings of enhanced fan-out.
///
/// ```
/// use kinesis_asl::FanOutSettings;
///
/// let mut settings = FanOutSettings::with_consumer_name("billing");
/// settings.fall_back_to_polling = false;
/// assert!(settings.faults().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "FanOutSettings::without_consumer", deny_unknown_fields)]
#[non_exhaustive]
pub struct FanOutSettings {
    /// The consumer as which the application subscribes.
    pub consumer: ConsumerChoice,
    /// Whether [`KinesisStream::end_retrieval`](crate::KinesisStream::end_retrieval) deregisters the consumer; `false` by
    /// default.
    ///
    /// Only that call deregisters it, because no process can know whether it is the last of a fleet. It affects only a
    /// consumer that was registered through the same stream value or a clone of it. Processes that still use the consumer
    /// then register it again under a new ARN; they are interrupted, but lose no records. A process that crashes leaves its
    /// consumer registered.
    pub deregister_at_end: bool,
    /// Whether a shard is polled for a while when its subscriptions keep failing; `true` by default.
    pub fall_back_to_polling: bool,
    /// How long a subscription may be silent before it is replaced, together with its connection; 10 s by default, up to 5 min.
    #[serde(with = "settings_format::duration")]
    pub inactivity_timeout: Duration,
    /// How long a shard is polled before fan-out is tried again; 5 min by default, at least 5 s. The actual time is randomly
    /// 0.75 to 1.25 times this, so that the shards do not all return at once.
    #[serde(with = "settings_format::duration")]
    pub retry_fan_out_after: Duration,
    /// The tags of the consumer, set when it is registered; none by default. A consumer that exists already keeps its tags. With
    /// tags, registration also needs the permission `kinesis:TagResource`.
    pub consumer_tags: BTreeMap<String, String>,
}

impl FanOutSettings {
    /// Fan-out as the consumer with this name, registered if it is missing.
    pub fn with_consumer_name(name: impl Into<String>) -> Self {
        Self::new(ConsumerChoice::Name(name.into()))
    }

    /// Fan-out with a consumer that is already registered.
    pub fn with_consumer_arn(arn: impl Into<String>) -> Self {
        Self::new(ConsumerChoice::Arn(arn.into()))
    }

    /// Fan-out as the consumer with this name or ARN.
    pub fn with_consumer(name_or_arn: impl Into<String>) -> Self {
        Self::new(name_or_arn.into().into())
    }

    /// The defaults for a file that names no consumer, which is a fault.
    fn without_consumer() -> Self {
        Self::with_consumer_name("")
    }

    fn new(consumer: ConsumerChoice) -> Self {
        Self {
            consumer,
            deregister_at_end: false,
            fall_back_to_polling: true,
            inactivity_timeout: DEFAULT_INACTIVITY_TIMEOUT,
            retry_fan_out_after: DEFAULT_RETRY_FAN_OUT_AFTER,
            consumer_tags: BTreeMap::new(),
        }
    }

    /// All faults, one line each; empty when the settings are valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match &self.consumer {
            ConsumerChoice::Name(name) if !is_name(name) => faults.push(format!(
                "consumer name {name:?} must be 1 to {MAX_NAME_BYTES} letters, digits, '_', '.' or '-'"
            )),
            ConsumerChoice::Arn(arn) if stream_of_consumer(arn).is_err() => {
                faults.extend(stream_of_consumer(arn).err().map(|fault| format!("consumer ARN {fault}")));
            }
            ConsumerChoice::Arn(_) if self.deregister_at_end => faults.push(
                "deregister_at_end has no effect on a consumer given by its ARN, which is never deregistered; leave it \
                 out, or give the name"
                    .to_owned(),
            ),
            ConsumerChoice::Name(_) | ConsumerChoice::Arn(_) => {}
        }
        if !(MIN_INACTIVITY_TIMEOUT..=MAX_INACTIVITY_TIMEOUT).contains(&self.inactivity_timeout) {
            faults.push(format!(
                "inactivity_timeout {:?} must be {MIN_INACTIVITY_TIMEOUT:?} to {MAX_INACTIVITY_TIMEOUT:?}: AWS sends \
                 nothing for seconds on a quiet shard",
                self.inactivity_timeout
            ));
        }
        if self.retry_fan_out_after < MIN_RETRY_FAN_OUT_AFTER {
            faults.push(format!(
                "retry_fan_out_after {:?} must be at least {MIN_RETRY_FAN_OUT_AFTER:?}",
                self.retry_fan_out_after
            ));
        }
        faults.extend(self.tag_faults());
        faults
    }

    fn tag_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if matches!(self.consumer, ConsumerChoice::Arn(_)) && !self.consumer_tags.is_empty() {
            faults.push(
                "consumer_tags have no effect on a consumer given by its ARN, which is never registered; leave them out, \
                 or give the name"
                    .to_owned(),
            );
        }
        if self.consumer_tags.len() > MAX_TAGS {
            faults.push(format!(
                "consumer_tags has {} tags; at most {MAX_TAGS} are allowed",
                self.consumer_tags.len()
            ));
        }
        for (key, value) in &self.consumer_tags {
            if !(1..=MAX_TAG_KEY_CHARS).contains(&key.chars().count()) || key.starts_with("aws:") {
                faults.push(format!(
                    "consumer_tags key {key:?} must be 1 to {MAX_TAG_KEY_CHARS} characters and not begin with aws:"
                ));
            }
            if value.chars().count() > MAX_TAG_VALUE_CHARS {
                faults.push(format!(
                    "consumer_tags value of {key:?} must be at most {MAX_TAG_VALUE_CHARS} characters"
                ));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count:1525898737";

    #[test]
    fn polling_is_the_default_and_modes_are_displayed() {
        assert_eq!(RetrievalMode::default(), RetrievalMode::Polling);
        assert_eq!(RetrievalMode::Polling.to_string(), "polling");
        let mut settings = FanOutSettings::with_consumer_name("count");
        let displayed = RetrievalMode::FanOut(settings.clone()).to_string();
        assert_eq!(displayed, "fan-out as consumer \"count\", falls back to polling");
        settings.fall_back_to_polling = false;
        assert!(RetrievalMode::FanOut(settings).to_string().ends_with("never falls back to polling"));
        let by_arn = RetrievalMode::FanOut(FanOutSettings::with_consumer_arn(ARN));
        assert!(by_arn.to_string().contains(ARN));
    }

    #[test]
    fn names_and_arns_follow_the_rules_of_the_api() {
        let longest = "a".repeat(MAX_NAME_BYTES);
        for name in ["a", "Count_2.x-y", longest.as_str()] {
            assert_eq!(FanOutSettings::with_consumer_name(name).faults(), Vec::<String>::new(), "{name}");
        }
        for name in ["", "two words", "wörter", ARN, &format!("{longest}a")] {
            assert_eq!(FanOutSettings::with_consumer_name(name).faults().len(), 1, "{name}");
        }
        assert_eq!(FanOutSettings::with_consumer_arn(ARN).faults(), Vec::<String>::new());
        for arn in [
            "",
            "count",
            "arn:aws:kinesis:eu-west-1:111122223333:stream/words",
            "arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count",
            "arn:aws:kinesis:eu-west-1:111122223333:stream/words/consumer/count:soon",
            "arn:aws:kinesis:eu-west-1:111122223333:stream//consumer/count:1",
            "arn:aws:dynamodb:eu-west-1:111122223333:stream/words/consumer/count:1",
        ] {
            assert_eq!(FanOutSettings::with_consumer_arn(arn).faults().len(), 1, "{arn}");
        }
    }

    #[test]
    fn tags_follow_the_rules_of_the_api() {
        let with_tags = |settings: FanOutSettings, tags: &[(&str, &str)]| {
            let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            FanOutSettings { consumer_tags: tags, ..settings }.faults()
        };
        let name = || FanOutSettings::with_consumer("count");
        let (longest_key, longest_value) = ("k".repeat(MAX_TAG_KEY_CHARS), "v".repeat(MAX_TAG_VALUE_CHARS));
        for tags in [&[("team", "orders")][..], &[("empty", "")], &[(&longest_key, &longest_value)]] {
            assert_eq!(with_tags(name(), tags), Vec::<String>::new());
        }
        for tags in [
            ("", "v"),
            ("aws:team", "v"),
            (&*format!("{longest_key}k"), "v"),
            ("k", &format!("{longest_value}v")),
        ] {
            assert_eq!(with_tags(name(), &[tags]).len(), 1, "{tags:?}");
        }
        assert!(
            with_tags(FanOutSettings::with_consumer(ARN), &[("team", "orders")])[0]
                .contains("never registered")
        );
        let keys: Vec<String> = (0..=MAX_TAGS).map(|key| key.to_string()).collect();
        let many: Vec<_> = keys.iter().map(|key| (key.as_str(), "")).collect();
        assert_eq!(with_tags(name(), &many).len(), 1);
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let mut settings = FanOutSettings::with_consumer_arn(ARN);
        settings.deregister_at_end = true;
        settings.inactivity_timeout = Duration::from_secs(1);
        settings.retry_fan_out_after = Duration::from_secs(1);
        let faults = RetrievalMode::FanOut(settings).faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, name) in
            faults.iter().zip(["deregister_at_end", "inactivity_timeout", "retry_fan_out_after"])
        {
            assert!(fault.contains(name), "{fault}");
        }
    }
}
