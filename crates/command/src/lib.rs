//! The command `kinesis-streaming`.

mod command_line;
mod connection;
mod daemon;
mod describe;
mod doctor;
mod exit_code;
mod lag;
mod load;
mod look;
mod operate;
mod provide;
mod read;
mod replay;
mod serve;
mod terminal;
mod time_argument;
mod wall_clock;

pub use command_line::run;
