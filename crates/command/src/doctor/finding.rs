//! A finding of `doctor`, with its remedy. Plain data.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Warning,
    /// Records may be lost or read by no worker, or workers cannot run.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What was looked at, such as `stream`.
    pub(crate) subject: &'static str,
    /// What was found, and what to do about it.
    pub(crate) text: String,
}

impl Finding {
    pub(crate) fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Good, subject, text: text.into() }
    }

    pub(crate) fn warning(subject: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, subject, text: text.into() }
    }

    pub(crate) fn error(subject: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, subject, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.severity {
            Severity::Good => "  ok",
            Severity::Warning => "- warning",
            Severity::Error => "! error",
        };
        write!(formatter, "{mark}: {}: {}", self.subject, self.text)
    }
}
