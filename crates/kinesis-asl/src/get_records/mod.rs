//! `GetRecords`: from an iterator to records that are slices of one buffer.
//!
//! In the SDK, the parser dominates the cost of reading records, and the request machinery dominates the cost of an empty read.
//! So this module decodes the answers itself, and after the first call sends the requests itself too:
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`call`] | one call: which path it takes, and what happens when it fails |
//! | [`format`] | the setting, and the memory of a fall-back to JSON |
//! | [`direct`] | a request over the SDK's connections with its credentials, but without its machinery; [`signing`] signs it |
//! | [`via_sdk`] | a call through the whole SDK, with our encoding of request and answer |
//! | [`sdk_parser`] | a call whose answer the SDK parses as well |
//! | [`codec`] | picks the decoder: [`cbor`] or [`json`], which share [`time`] and [`decode_error`] |
//! | [`body`] | how long an answer may take; [`read_limit`] asks for fewer records after one that was cut off |
//! | [`body_buffer`] | the buffers of answers, used again |
//! | [`answer`], [`encoding`] | the decoded answer, and the two encodings |
//!
//! After a failed direct request, the next call goes through the whole SDK, which handles clock skew, expired credentials and
//! broken connections. Exceptions are failures about the request itself, and throttling. The endpoint and the signing scope of
//! direct requests are learnt from the SDK's calls.

pub(crate) mod answer;
pub(crate) mod body;
mod body_buffer;
pub(crate) mod call;
mod cbor;
mod cbor_record;
pub(crate) mod codec;
pub(crate) mod decode_error;
mod direct;
pub(crate) mod encoding;
pub(crate) mod format;
#[cfg(feature = "internals")]
pub(crate) mod internals;
pub(crate) mod json;
pub(crate) mod read_limit;
mod sdk_parser;
mod signing;
mod time;
mod via_sdk;

#[cfg(test)]
mod differential_tests;
