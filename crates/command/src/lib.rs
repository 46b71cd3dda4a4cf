//! The command `kinesis-streaming`.

mod command_line;
mod daemon;

pub use command_line::run;
