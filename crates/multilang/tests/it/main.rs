//! Conversations with scripted children over pipes in memory, children as processes, processors, and properties files.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod answers;
mod documentation;
mod failures;
mod full_pipes;
mod processes;
mod processors;
mod properties;
mod support;
