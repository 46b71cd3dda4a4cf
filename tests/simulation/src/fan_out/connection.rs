//! The way of one process to the service: what becomes of each of its requests.

use std::future::pending;

use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::error::ConnectorError;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

use super::service::Service;
use super::{answers, wire};
use crate::event::{Process, SubscriptionStep};
use crate::network::{Fate, Link, Service as Destination};
use crate::plan::Planted;

/// The status of an answer that is none.
const REFUSED: u16 = 400;

/// What an operation answers.
pub(super) enum Answer {
    /// This, as JSON.
    Json(Value),
    /// A refusal with this code.
    Refused(&'static str),
    /// A stream of events.
    Events(SdkBody),
}

/// The connection of one process.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) service: Service,
    pub(super) link: Link,
    pub(super) process: Process,
    pub(super) planted: Option<Planted>,
}

impl HttpConnector for Connection {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connection = self.clone();
        HttpConnectorFuture::new(async move { connection.exchange(&request).await })
    }
}

impl Connection {
    async fn exchange(&self, request: &HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let body = request.body().bytes().unwrap_or_default();
        let body: Value = serde_json::from_slice(body).map_err(|error| ConnectorError::user(error.into()))?;

        if operation == "SubscribeToShard" {
            // Counts from here: how long it is on its way is not the reader's business.
            let shard = answers::shard_of(&body);
            self.service.note(self.process, shard, 0, SubscriptionStep::Asked);
        }
        self.link.pass().await;
        let weather = self.service.kinesis.sky.now();
        let is_cut = self.link.is_cut(Destination::Stream);
        let fate = self.link.fate(Destination::Stream, weather);
        if !is_cut && fate == Fate::Throttled {
            self.link.travel(weather).await;
            self.link.pass().await;
            let is_limit = self.link.draw(2) == 0;
            let code =
                if is_limit { "LimitExceededException" } else { "ProvisionedThroughputExceededException" };
            return self.respond(REFUSED, refusal(code));
        }
        if !is_cut && fate == Fate::Unavailable {
            self.link.travel(weather).await;
            self.link.pass().await;
            return self.respond(500, refusal("InternalFailure"));
        }
        if fate == Fate::Dropped {
            return self.lost().await;
        }
        self.link.travel(weather).await;
        let answer = self.answer(operation, &body);
        if fate == Fate::Applied {
            drop(answer);
            return self.lost().await;
        }
        if fate == Fate::Late {
            // Within the time-out of an attempt, or behind it.
            tokio::time::sleep(tokio::time::Duration::from_millis(self.link.draw(15_000))).await;
        }
        self.link.travel(weather).await;
        self.link.pass().await;
        match answer {
            Answer::Json(body) => self.respond(200, SdkBody::from(body.to_string())),
            Answer::Refused(code) => self.respond(REFUSED, refusal(code)),
            Answer::Events(body) => self.respond(200, body),
        }
    }

    /// There is no answer: the connection breaks after a while, or the client waits until it has had enough.
    async fn lost(&self) -> Result<HttpResponse, ConnectorError> {
        if self.link.draw(2) == 0 {
            pending::<()>().await;
        }
        self.link.time_out().await;
        Err(ConnectorError::io("simulated: the connection broke".into()))
    }

    fn respond(&self, status: u16, body: SdkBody) -> Result<HttpResponse, ConnectorError> {
        let status = StatusCode::try_from(status).map_err(|error| ConnectorError::user(error.into()))?;
        let mut response = HttpResponse::new(status, body);
        response.headers_mut().insert("date", wire::date(self.service.kinesis.clock()));
        Ok(response)
    }
}

fn refusal(code: &str) -> SdkBody {
    SdkBody::from(json!({ "__type": code, "message": "simulated" }).to_string())
}
