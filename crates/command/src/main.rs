//! The program `kinesis-streaming`.

use std::env;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    command::run(env::args_os().collect()).await
}
