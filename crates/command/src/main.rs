//! The program `kinesis-streaming`.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Builder;

/// The longest time for tasks to end after the command has: a blocked standard output must not keep the program.
const EXIT_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kinesis-streaming: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command::run(env::args_os().collect()));
    runtime.shutdown_timeout(EXIT_LIMIT);
    code
}
