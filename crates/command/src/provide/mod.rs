//! `kinesis-streaming iam-policy` and `terraform`: what an application needs of an account, for its settings. Makes no call.

mod policy;
mod terraform;

use clap::{Args, ValueEnum};

use self::policy::Needs;
use crate::exit_code::{CommandError, usage};
use crate::terminal::{print, print_json};

/// Who uses the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// A worker of the application.
    Worker,
    /// `describe`, `lag`, `serve`, `tail` and `cat`.
    Watch,
}

/// The settings that decide about the permissions.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProvideArguments {
    /// The application: the name of its lease table, unless --table names another one
    application: String,

    /// The ARN of the stream
    #[arg(long)]
    stream_arn: String,

    /// The lease table [default: the name of the application]
    #[arg(long)]
    table: Option<String>,

    /// Who uses the credentials
    #[arg(long = "for", value_enum, default_value = "worker")]
    subject: Subject,

    /// The workers create the table at their first start
    #[arg(long)]
    create_table: bool,

    /// The workers read by enhanced fan-out, and register the consumer of this name
    #[arg(long, value_name = "CONSUMER")]
    fan_out: Option<String>,

    /// The workers send metrics to CloudWatch
    #[arg(long)]
    metrics: bool,

    /// The ARN of the stream for dead letters
    #[arg(long, value_name = "ARN")]
    dead_letters: Option<String>,

    /// The ARN of the key that encrypts the stream
    #[arg(long, value_name = "ARN")]
    key: Option<String>,
}

impl ProvideArguments {
    fn needs(self) -> Result<Needs, CommandError> {
        let Self {
            application,
            stream_arn,
            table,
            subject,
            create_table,
            fan_out,
            metrics,
            dead_letters,
            key,
        } = self;
        let table = table.unwrap_or_else(|| application.clone());
        Needs::new(application, stream_arn, table, subject)
            .map(|needs| Needs { creates_table: create_table, fan_out, metrics, dead_letters, key, ..needs })
            .map_err(usage)
    }
}

/// Prints the least policy.
pub(crate) fn iam_policy(arguments: ProvideArguments) -> Result<(), CommandError> {
    print_json(&arguments.needs()?.policy())
}

/// Prints a configuration for Terraform.
pub(crate) fn terraform(arguments: ProvideArguments) -> Result<(), CommandError> {
    print(terraform::configuration(&arguments.needs()?).as_bytes())
}
