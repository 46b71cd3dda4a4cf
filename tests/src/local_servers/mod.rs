//! Kinesis and DynamoDB on this machine: in this process, or as child processes. They end when their handle is dropped.
//!
//! There are two pairs of emulators, since none is right about everything. Where they disagree, the tests follow the
//! documentation of AWS. For enhanced fan-out and TLS, [`ServersWithTls`] has a Kinesis server of the tests' own.
//!
//! | what | `ferrokinesis` 0.7 | `kinesis-local` 0.6 | AWS, and what we rely on |
//! | --- | --- | --- | --- |
//! | end of a closed shard | on an empty answer after the last records | with the last records | no next iterator, on either |
//! | children in that answer | absent | named | named; where absent they are looked up by listing |
//! | `MillisBehindLatest` of an open shard | always 0 | behind the newest record | only a hint for the pace, never the end |
//! | starting position of a subscription | lost in the parsing of the request, which we bypass | as requested | as requested
//! |
//! | end of a subscription at the end of a shard | children in every event of a closed shard, then the stream ends | never | no continuation in the last event; both are understood |
//! | reads per second and shard | not limited | not limited | five; our own pace is tested by itself |
//!
//! The Java KCL relies on more; [`InProcessServers::start_for_java`] adds what `ferrokinesis` lacks.
//!
//! | what | `dynoxide` 3.2 | `dynalite` 4.0 | AWS, and what we rely on |
//! | --- | --- | --- | --- |
//! | the row that made a condition fail | returned | absent | returned; where absent it is read again |
//! | a new table | active at the next call | active after a while | active after a while; asked for until it is |

mod in_process;
mod kinesis_answers;
mod node;
mod stream_server;
mod tls_front;
mod with_tls;

use std::fmt;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};

pub use in_process::InProcessServers;
pub use node::NodeServers;
pub use stream_server::StreamServer;
pub use tls_front::{Recycling, TlsFront};
pub use with_tls::ServersWithTls;

/// The region of the local servers.
pub const REGION: &str = "us-east-1";

/// The local servers accept any credentials, but require some.
pub const ACCESS_KEY_ID: &str = "000000000000";

/// The secret that goes with [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "local";

/// The addresses of a pair of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The Kinesis endpoint, as a URL.
    pub kinesis: String,
    /// The DynamoDB endpoint, as a URL.
    pub dynamodb: String,
}

impl fmt::Display for Endpoints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Kinesis {}, DynamoDB {}", self.kinesis, self.dynamodb)
    }
}

impl Endpoints {
    /// A Kinesis client for the server.
    pub fn kinesis_client(&self) -> aws_sdk_kinesis::Client {
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials())
            .endpoint_url(&self.kinesis)
            .build();
        aws_sdk_kinesis::Client::from_conf(config)
    }

    /// A DynamoDB client for the server.
    pub fn dynamodb_client(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials())
            .endpoint_url(&self.dynamodb)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// Puts one item into a new table whose key is this attribute of it, a text.
    ///
    /// # Panics
    /// When the server refuses it.
    #[allow(clippy::unwrap_used)] // only tests call it
    pub async fn put_into_new_table(&self, table: &str, key: &str, item: &[(&str, AttributeValue)]) {
        let dynamodb = self.dynamodb_client();
        let attribute =
            AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
        let element = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash);
        let request = dynamodb
            .create_table()
            .table_name(table)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(element.build().unwrap())
            .attribute_definitions(attribute.build().unwrap());
        request.send().await.unwrap();
        let item = item.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        dynamodb.put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
    }

    /// The environment variables with which a child process reaches the servers.
    pub fn environment() -> [(&'static str, &'static str); 4] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
    }
}

fn credentials() -> Credentials {
    Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "local servers")
}
