//! An HTTP/2 connection: answers requests side by side, and pushes the events of subscriptions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use hyper::{Request, Response};
use kinesis_streaming::prelude::BoxError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use super::event;
use super::stream::Stream;

/// Time between the records of two answers in a subscription: as often as a shard may be read.
const PUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Time between the empty events of a subscription at the tip.
const HEARTBEAT: Duration = Duration::from_secs(1);

const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// Answers requests until the client closes the connection.
pub(super) async fn answer_all(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    stream: &Arc<Stream>,
) -> Result<(), BoxError> {
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let stream = stream.clone();
        // An error means that the client gave up the request.
        tokio::spawn(async move { drop(answer(request, respond, &stream).await) });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    stream: &Stream,
) -> Result<(), BoxError> {
    let (head, mut received) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = received.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        received.flow_control().release_capacity(data.len())?;
    }
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = header("x-amz-target").rsplit('.').next().unwrap_or_default();
    if operation == "SubscribeToShard" {
        let mut events = respond.send_response(head_of(EVENT_STREAM)?, false)?;
        return push(stream, &body, &mut events).await;
    }
    let is_cbor = header("content-type").contains("cbor");
    let answer = stream.answer(head.uri.path(), operation, is_cbor, &body);
    // In one piece: clients close a connection on which they receive many empty DATA frames.
    let whole = [&answer.body[..], &answer.end].concat();
    let mut head = head_of(answer.content_type)?;
    head.headers_mut().insert("content-length", whole.len().into());
    Ok(respond.send_response(head, false)?.send_data(whole.into(), true)?)
}

fn head_of(content_type: &str) -> Result<Response<()>, BoxError> {
    let head = Response::builder()
        .header("x-amzn-requestid", "00000000-0000-0000-0000-000000000000")
        .header("date", "Tue, 14 Nov 2023 22:13:20 GMT")
        .header("content-type", content_type);
    Ok(head.body(())?)
}

/// Pushes the events of a shard from the requested position on, and empty ones at its tip, until the client ends it.
async fn push(stream: &Stream, request: &[u8], events: &mut SendStream<Bytes>) -> Result<(), BoxError> {
    let (shard, mut after) = stream.subscribed(request);
    events.send_data(event::accepted()?, false)?;
    let mut due = Instant::now();
    for body in stream.bodies(shard) {
        for event in body.events.iter().filter(|event| event.last > after) {
            stream.count_read(shard);
            events.send_data(event.frame.clone(), false)?;
        }
        if let Some(event) = body.events.last().filter(|event| event.last > after) {
            after.clone_from(&event.last);
            due += PUSH_INTERVAL;
            sleep_until(due).await;
        }
    }
    loop {
        events.send_data(event::empty(&after)?, false)?;
        sleep(HEARTBEAT).await;
    }
}
