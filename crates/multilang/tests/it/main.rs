//! Conversations with scripted children over pipes in memory, children as processes, processors, and properties files.

mod answers;
mod failures;
mod full_pipes;
mod processes;
mod processors;
mod properties;
mod support;
