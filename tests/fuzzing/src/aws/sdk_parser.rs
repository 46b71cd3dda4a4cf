//! The SDK's own reading of a `GetRecords` answer: its whole client, over a connector that returns a prepared body.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::{Client, Config};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_types::body::SdkBody;
use tokio::runtime::Runtime;

thread_local! {
    /// One client per thread, because creating it costs more than a call.
    static READER: RefCell<Reader> = RefCell::new(Reader::new());
}

/// Parses a body in JSON; `None` when the SDK refuses it.
pub(super) fn read(body: &[u8]) -> Option<GetRecordsOutput> {
    READER.with_borrow(|reader| {
        *reader.body.0.lock().expect("the lock is poisoned") = body.to_vec();
        reader.runtime.block_on(reader.client.get_records().shard_iterator("iterator").send()).ok()
    })
}

struct Reader {
    client: Client,
    runtime: Runtime,
    body: Canned,
}

/// Returns the prepared body for every request.
#[derive(Debug, Clone, Default)]
struct Canned(Arc<Mutex<Vec<u8>>>);

impl HttpConnector for Canned {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let body = self.0.lock().expect("the lock is poisoned").clone();
        let response = HttpResponse::new(200.try_into().expect("200 is a status"), SdkBody::from(body));
        HttpConnectorFuture::ready(Ok(response))
    }
}

impl Reader {
    fn new() -> Self {
        let body = Canned::default();
        let connector = SharedHttpConnector::new(body.clone());
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("cannot create a runtime");
        Self { client: Client::from_conf(config), runtime, body }
    }
}
