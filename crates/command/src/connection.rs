//! The options with which every command finds the services and the application, and the clients built from them.

use clap::Args;
use kinesis_asl::{AwsSettings, KinesisAsl, KinesisStream};
use lease_store::dynamodb::DynamoDbLeaseStore;

use crate::exit_code::{CommandError, settings_error};

/// Stands for the stream while only the table is used; no call is made with it.
const NO_STREAM: &str = "not-known-yet";

/// How the services are reached. As with the command line of AWS, the rest comes from the environment and the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArguments {
    /// The region [default: AWS_REGION, or that of the profile]
    #[arg(long)]
    pub(crate) region: Option<String>,

    /// The profile of the shared configuration files [default: AWS_PROFILE]
    #[arg(long)]
    pub(crate) profile: Option<String>,

    /// The endpoint of all services, such as that of an emulator
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,

    /// The endpoint of Kinesis alone
    #[arg(long, value_name = "URL")]
    pub(crate) kinesis_endpoint_url: Option<String>,

    /// The endpoint of DynamoDB alone
    #[arg(long, value_name = "URL")]
    pub(crate) dynamodb_endpoint_url: Option<String>,
}

/// The application that a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApplicationArguments {
    /// The application: the name of its lease table, unless --table names another one
    pub(crate) application: String,

    /// The lease table [default: the name of the application]
    #[arg(long)]
    pub(crate) table: Option<String>,

    /// The stream: its name, its ARN, or ACCOUNT:NAME:EPOCH in a table of many streams [default: the stream in the rows]
    #[arg(long)]
    pub(crate) stream: Option<String>,

    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

impl ConnectionArguments {
    /// The clients for a stream.
    pub(crate) async fn connect(
        &self,
        stream: &str,
        table: Option<&str>,
    ) -> Result<KinesisAsl, CommandError> {
        let mut settings = AwsSettings::new(stream);
        settings.region.clone_from(&self.region);
        let endpoint = |own: &Option<String>| own.clone().or_else(|| self.endpoint_url.clone());
        settings.kinesis_endpoint_url = endpoint(&self.kinesis_endpoint_url);
        settings.dynamodb_endpoint_url = endpoint(&self.dynamodb_endpoint_url);
        settings.cloudwatch_endpoint_url.clone_from(&self.endpoint_url);
        settings.lease_table = table.map(str::to_owned);
        let mut builder = KinesisAsl::builder(settings);
        if let Some(profile) = &self.profile {
            builder = builder.profile(profile);
        }
        Box::pin(builder.connect()).await.map_err(settings_error)
    }

    /// Whether Kinesis alone has another endpoint: then the services without one must not be asked.
    pub(crate) fn is_emulator_of_kinesis(&self) -> bool {
        self.kinesis_endpoint_url.is_some() && self.endpoint_url.is_none()
    }

    /// A stream by its name or ARN.
    pub(crate) async fn stream(&self, stream: &str) -> Result<KinesisStream, CommandError> {
        Ok(self.connect(stream, None).await?.stream())
    }

    /// The lease table of an application, in the layout of one stream.
    pub(crate) async fn table(
        &self,
        application: &str,
        table: Option<&str>,
        stream: Option<&str>,
    ) -> Result<DynamoDbLeaseStore, CommandError> {
        let stream = stream.filter(|stream| stream.starts_with("arn:")).unwrap_or(NO_STREAM);
        self.connect(stream, table).await?.lease_store(application).map_err(settings_error)
    }
}
