//! The command `kinesis-streaming`.

mod command_line;
mod connection;
mod daemon;
mod describe;
mod exit_code;
mod lag;
mod load;
mod look;
mod operate;
mod terminal;
mod time_argument;
mod wall_clock;

pub use command_line::run;
