//! The KCL's line protocol for record processors in other languages, and what a daemon needs around it.
//!
//! The KCL's MultiLangDaemon starts one child process for each shard, writes records to its standard input as lines of JSON,
//! and reads status and checkpoint messages from its standard output. This crate speaks the same protocol, reads the same
//! properties file and understands the same command line, so that unmodified children run on it. It knows nothing of AWS.
//!
//! | module | content |
//! | --- | --- |
//! | [`protocol`] | the messages in both directions; pure |
//! | [`conversation`] | the dialogue with one child: a pure state machine, and a session that drives it over any reader and writer |
//! | [`child`] | the command of a child, its process, its standard error |
//! | [`processor`] | record processors that are children |
//! | [`properties`] | the properties file: parser, table of keys, effective configuration; pure |
//! | [`java_arguments`] | the command line, also in the form that helpers pass to `java`; pure |

pub mod child;
pub mod conversation;
mod error;
pub mod java_arguments;
pub mod processor;
pub mod properties;
pub mod protocol;

pub use error::{MultilangError, MultilangErrorKind};
