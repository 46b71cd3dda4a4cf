//! The properties file of the MultiLangDaemon.
//!
//! The file is read as Java reads it, with one difference: everything that Java would ignore or change in silence is named
//! once, with its line and what to do.
//!
//! | file | content |
//! | --- | --- |
//! | `java_properties` | the syntax: escapes, continued lines, encodings |
//! | `keys` | the table of all keys, with kind, default and effect |
//! | `values` | the text of a value by its kind, with Java's odd rules |
//! | `effective` | the effective configuration: each value with its origin, and the messages |
//! | `interpret` | from the file to the effective configuration |
//! | `resolve` | the rules between keys |
//! | `settings` | the configuration as plain types |
//! | `receiver_settings` | the settings of the receiver |
//! | `credentials` | the strings that name credential providers |

pub(crate) mod credentials;
pub(crate) mod effective;
pub(crate) mod interpret;
pub(crate) mod java_properties;
pub(crate) mod keys;
mod receiver_settings;
pub(crate) mod resolve;
pub(crate) mod settings;
pub(crate) mod values;

pub use self::credentials::{CredentialSource, parse_credentials};
pub use self::effective::{EffectiveConfiguration, EffectiveValue, Message, Origin, Severity, Strictness};
pub use self::interpret::interpret;
pub use self::java_properties::{MAX_FILE_BYTES, ParsedFile, Property, parse_properties};
pub use self::keys::{DefaultValue, Effect, KEYS, Key, Kind};
pub use self::settings::{ChildFailurePolicy, DaemonSettings, RetrievalMode, StartPosition};
pub use self::values::Value;
