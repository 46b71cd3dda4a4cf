//! A failure policy as plain data, as in a file.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use lease_store::settings_format;
use serde::{Deserialize, Serialize};

use super::failure_policy::FailurePolicy;
use super::file_dead_letters::FileDeadLetters;

/// What happens to records that the application cannot process; see [`FailurePolicy`].
///
/// ```
/// use shard_worker::{FailureSettings, LastResortSetting};
///
/// let mut settings = FailureSettings::default();
/// settings.last_resort = LastResortSetting::DeadLetterFile("dead-letters.jsonl".into());
/// let policy = settings.policy();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FailureSettings {
    /// What happens after the last attempt.
    pub last_resort: LastResortSetting,
    /// The attempts at a batch, the first one included; 12 by default.
    pub attempts: NonZeroU32,
    /// How long the application's code may take for a batch. `None`, the default: only the watchdog cancels it.
    #[serde(with = "settings_format::optional_duration", skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// Whether a batch is divided to find its poison record. `None`, the default: unless the last resort is to halt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divides: Option<bool>,
}

/// What happens to a record after the last attempt.
///
/// ```
/// use shard_worker::LastResortSetting;
///
/// assert_eq!(LastResortSetting::default(), LastResortSetting::Halt);
/// let written = serde_json::to_string(&LastResortSetting::Skip)?;
/// assert_eq!(serde_json::from_str::<LastResortSetting>(&written)?, LastResortSetting::Skip);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum LastResortSetting {
    /// See [`FailurePolicy::halt`]. The default.
    #[default]
    Halt,
    /// See [`FailurePolicy::skip`].
    Skip,
    /// See [`FailurePolicy::dead_letters`]: appends the record to the file at this path.
    DeadLetterFile(PathBuf),
}

impl Default for FailureSettings {
    fn default() -> Self {
        Self {
            last_resort: LastResortSetting::default(),
            attempts: FailurePolicy::DEFAULT_ATTEMPTS,
            time_limit: None,
            divides: None,
        }
    }
}

impl FailureSettings {
    /// The policy of these settings.
    pub fn policy(&self) -> FailurePolicy {
        let mut policy = match &self.last_resort {
            LastResortSetting::Halt => FailurePolicy::halt(),
            LastResortSetting::Skip => FailurePolicy::skip(),
            LastResortSetting::DeadLetterFile(path) => {
                FailurePolicy::dead_letters(FileDeadLetters::new(path))
            }
        };
        policy = policy.attempts(self.attempts);
        if let Some(time_limit) = self.time_limit {
            policy = policy.time_limit(time_limit);
        }
        match self.divides {
            Some(divides) => policy.divide(divides),
            None => policy,
        }
    }
}
