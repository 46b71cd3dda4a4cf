//! `kinesis-streaming daemon`: in place of the KCL's `MultiLangDaemon`.
//!
//! | file | content |
//! | --- | --- |
//! | `arguments` | the command line, also in the form for `java` |
//! | `properties_file` | finds and reads the properties file |
//! | `executable` | whether the command of the children can be started |
//! | `aws_settings` | the settings of the daemon as those of the AWS side; pure |
//! | `credentials` | the credential providers that the file names |
//! | `connection` | the AWS clients |
//! | `metrics` | the metrics that the file asks for |
//! | `log_output` | where log lines go |
//! | `log_configuration` | the level in a logback file; pure |
//! | `service` | runs the consumer until a signal, a failed child or an error ends it |
//! | `signals` | which signal after the first is a second one |
//! | `exit_status` | the exit code; pure |

mod arguments;
mod aws_settings;
mod connection;
mod credentials;
mod executable;
mod exit_status;
mod log_configuration;
mod log_output;
mod metrics;
mod properties_file;
mod service;
mod signals;

use std::process::ExitCode;
use std::time::Duration;

use multilang::java_arguments::{DaemonArguments, Invocation, USAGE, parse_java};
use multilang::properties::{DaemonSettings, EffectiveConfiguration};
use tracing_subscriber::filter::LevelFilter;

pub(crate) use self::arguments::{DaemonCommand, java_line};
use self::exit_status::{Ending, Form, exit_code};

/// How long the end waits until the output of the children, and then the log, is written.
const OUTPUT_TIME: Duration = Duration::from_secs(1);

/// The exit code after an error: of the command line, of the properties, of a child, of the servers.
const FAILURE: u8 = 1;

/// Runs until a signal, a failed child or an error ends it.
pub(crate) async fn run(command: DaemonCommand) -> ExitCode {
    match command.daemon_arguments() {
        Ok(arguments) => ExitCode::from(start(&arguments, Form::Own).await),
        Err(error) => refused(&error),
    }
}

/// Does what `java` with these arguments would do: the MultiLangDaemon.
pub(crate) async fn run_as_java(line: &[String]) -> ExitCode {
    match parse_java(line) {
        Ok(Invocation::Run(arguments)) => ExitCode::from(start(&arguments, Form::Java).await),
        Ok(Invocation::Version) => {
            // Helpers start `java -version` only to see whether it can be started.
            eprintln!("kinesis-streaming {} in place of java", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(_) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error.to_string()),
    }
}

fn refused(error: &str) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::from(FAILURE)
}

/// Writes a line for the operator, whatever the level of the log is.
fn say(line: &str) {
    eprintln!("{}", said(line));
}

fn said(line: &str) -> String {
    format!("kinesis-streaming daemon: {line}")
}

async fn start(arguments: &DaemonArguments, form: Form) -> u8 {
    let configuration = match properties_file::read(arguments) {
        Ok(configuration) => configuration,
        Err(error) => {
            say(&format!("error: {error}"));
            return FAILURE;
        }
    };
    let log_level = match log_level(arguments) {
        Ok(level) => level,
        Err(error) => {
            say(&format!("error: {error}"));
            return FAILURE;
        }
    };
    if arguments.is_check {
        return check(arguments, &configuration);
    }
    for note in notes(arguments) {
        say(&format!("note: {note}"));
    }
    for message in configuration.messages() {
        say(&message.to_string());
    }
    let settings = match usable(arguments, &configuration) {
        Ok(settings) => settings,
        Err(faults) => {
            faults.iter().for_each(|fault| say(&format!("error: {fault}")));
            return FAILURE;
        }
    };
    let log = match log_output::log_to_stderr(log_level) {
        Ok(log) => log,
        Err(error) => {
            say(&format!("error: cannot start a thread for log lines: {error}"));
            return FAILURE;
        }
    };
    let ending = match connection::connect(&settings, &arguments.system_properties).await {
        // Boxed because the future is large.
        Ok(aws) => Box::pin(service::run(&settings, &aws)).await,
        Err(error) => Ending::Failed(error),
    };
    let last = ending.described(settings.shutdown_grace).map(|line| said(&line));
    log.finish(last, OUTPUT_TIME).await;
    exit_code(&ending, form)
}

/// What has to be said about the command line.
fn notes(arguments: &DaemonArguments) -> Vec<String> {
    let proxies = arguments.system_properties.keys().filter(|name| name.contains("proxy"));
    let of_proxies = proxies
        .map(|name| format!("-D{name} has no effect; set HTTPS_PROXY or HTTP_PROXY in the environment"));
    arguments.notes.iter().cloned().chain(of_proxies).collect()
}

/// Prints the effective configuration with the origin of each value, and what is wrong with it.
fn check(arguments: &DaemonArguments, configuration: &EffectiveConfiguration) -> u8 {
    print!("{}", configuration.report());
    for note in notes(arguments) {
        println!("note: {note}");
    }
    if !configuration.is_usable() {
        return FAILURE;
    }
    match usable(arguments, configuration) {
        Ok(_) => 0,
        Err(faults) => {
            faults.iter().for_each(|fault| println!("error: {fault}"));
            FAILURE
        }
    }
}

/// The settings, or everything that makes a start impossible. The errors of the file itself are among its messages.
fn usable(
    arguments: &DaemonArguments,
    configuration: &EffectiveConfiguration,
) -> Result<DaemonSettings, Vec<String>> {
    let settings = match DaemonSettings::new(configuration) {
        Ok(settings) => settings,
        Err(_) if !configuration.is_usable() => return Err(Vec::new()),
        Err(error) => return Err(vec![error.to_string()]),
    };
    let mut faults = settings.receiver_settings().faults();
    faults.extend(aws_settings::aws_settings(&settings, &arguments.system_properties).faults());
    faults.extend(credentials::faults(&settings, &arguments.system_properties));
    faults.extend(executable::fault(settings.command.program()));
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}

/// The level of log lines without `RUST_LOG`: that of the root logger in a logback file, or `INFO`.
fn log_level(arguments: &DaemonArguments) -> Result<LevelFilter, String> {
    let Some(path) = &arguments.log_configuration else { return Ok(LevelFilter::INFO) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("log configuration {}: {error}; name a file that can be read, or none", path.display())
    })?;
    say(&format!(
        "note: only the level of the root logger is taken from {}; log lines go to the standard error",
        path.display()
    ));
    Ok(log_configuration::root_level(&text).unwrap_or(LevelFilter::INFO))
}
