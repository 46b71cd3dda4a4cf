//! The HTTP connection of one process to the service: the faults that hit its requests.

use std::future::pending;

use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::error::ConnectorError;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

use super::answers::shard_of;
use super::service::Connection;
use super::wire::{self, Answer};
use crate::event::SubscriptionStep;
use crate::network::{CallFault, Destination};

/// The HTTP status of a refusal.
const REFUSED: u16 = 400;

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
            // The interval between subscriptions starts here, not when the request arrives.
            let shard = shard_of(&body);
            self.service.record(self.process, shard, 0, SubscriptionStep::Requested);
        }
        self.link.wait_while_paused().await;
        let rates = self.service.kinesis.fault_rates.now();
        let is_partitioned = self.link.is_partitioned(Destination::Stream);
        let fault = self.link.draw_fault(Destination::Stream, rates);
        if !is_partitioned && fault == CallFault::Throttled {
            self.link.wait_latency(rates).await;
            self.link.wait_while_paused().await;
            let is_limit = self.link.draw(2) == 0;
            let code =
                if is_limit { "LimitExceededException" } else { "ProvisionedThroughputExceededException" };
            return self.respond(REFUSED, refusal(code));
        }
        if !is_partitioned && fault == CallFault::Unavailable {
            self.link.wait_latency(rates).await;
            self.link.wait_while_paused().await;
            return self.respond(500, refusal("InternalFailure"));
        }
        if fault == CallFault::RequestLost {
            return self.lost().await;
        }
        self.link.wait_latency(rates).await;
        let answer = self.odd_answer(operation, rates).unwrap_or_else(|| self.answer(operation, &body));
        if fault == CallFault::AnswerLost {
            drop(answer);
            return self.lost().await;
        }
        if fault == CallFault::Delayed {
            // Within or beyond the time-out of an attempt.
            tokio::time::sleep(tokio::time::Duration::from_millis(self.link.draw(15_000))).await;
        }
        self.link.wait_latency(rates).await;
        self.link.wait_while_paused().await;
        match answer {
            Answer::Json(body) => self.respond(200, SdkBody::from(body.to_string())),
            Answer::Refused(code) => self.respond(REFUSED, refusal(code)),
            Answer::Events(body) => self.respond(200, body),
        }
    }

    /// Gives no answer: the connection breaks after a while, or never answers.
    async fn lost(&self) -> Result<HttpResponse, ConnectorError> {
        if self.link.draw(2) == 0 {
            pending::<()>().await;
        }
        self.link.wait_for_timeout().await;
        Err(ConnectorError::io("simulated: connection reset".into()))
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
