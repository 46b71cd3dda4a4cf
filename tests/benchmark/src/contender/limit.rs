//! The lower limit: our decoder and signer on one `hyper` connection per shard, as a hand-written client for this one
//! call would be.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use kinesis_streaming::kinesis_asl::internals::{HandMade, read};
use kinesis_streaming::prelude::BoxError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::job::{Job, READ_INTERVAL, credentials};
use super::tally::Tally;
use super::trust;

/// A request body in one piece.
#[derive(Debug)]
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|body| Ok(Frame::data(body))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |body| body.len() as u64))
    }
}

pub(super) fn start(is_cbor: bool, job: &Job, tally: &Arc<Tally>) -> Result<(), BoxError> {
    let host = job.endpoint.split_once("://").ok_or("the URL has no host")?.1.to_owned();
    let connector = job.is_over_tls().then(trust::connector).transpose()?;
    let hand_made = Arc::new(HandMade::new(is_cbor, &host, credentials()));
    for shard in 0..job.shards {
        let (host, hand_made, tally, job) = (host.clone(), hand_made.clone(), tally.clone(), job.clone());
        let connector = connector.clone();
        tokio::spawn(async move {
            let read = async {
                let sender = connect(&host, connector.as_ref()).await?;
                read_shard(sender, &host, &hand_made, shard, &job, &tally).await
            };
            if let Err(error) = read.await {
                eprintln!("limit, shard {shard}: {error}");
            }
        });
    }
    Ok(())
}

async fn connect(host: &str, connector: Option<&TlsConnector>) -> Result<SendRequest<Whole>, BoxError> {
    let socket = TcpStream::connect(host).await?;
    socket.set_nodelay(true)?;
    let Some(connector) = connector else { return begin(socket).await };
    let name = ServerName::from(socket.peer_addr()?.ip());
    begin(connector.connect(name, socket).await?).await
}

async fn begin(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Whole>, BoxError> {
    let (sender, connection) = handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn read_shard(
    mut sender: SendRequest<Whole>,
    host: &str,
    hand_made: &HandMade,
    shard: u64,
    job: &Job,
    tally: &Tally,
) -> Result<(), BoxError> {
    let first = serde_json::json!({
        "StreamName": "words", "ShardId": format!("shardId-{shard:012}"), "ShardIteratorType": "TRIM_HORIZON",
    });
    let request = Request::post("/")
        .header("host", host)
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amz-target", "Kinesis_20131202.GetShardIterator")
        .body(Whole(Some(first.to_string().into())))?;
    let answer: serde_json::Value = serde_json::from_slice(&exchange(&mut sender, request).await?)?;
    let mut iterator = answer["ShardIterator"].as_str().map(str::to_owned);
    let mut records = 0;
    while let Some(current) = iterator {
        let due = Instant::now() + READ_INTERVAL;
        let request = hand_made.request(&current).ok_or("the request cannot be signed")?;
        let request = Request::post("/")
            .header("host", host)
            .header("content-type", request.content_type)
            .header("x-amz-target", "Kinesis_20131202.GetRecords")
            .header("x-amz-date", request.date)
            .header("authorization", request.authorization)
            .body(Whole(Some(request.body.into())))?;
        let (found, next) = read(exchange(&mut sender, request).await?)?;
        let count = found.len() as u64;
        if count > 0 {
            tally.arrived(found.iter().map(|record| record.approximate_arrival));
            tally.add(records == 0, count, found.iter().map(|record| record.data.len() as u64).sum());
            records += count;
        }
        drop(found);
        iterator = next;
        if !job.is_timed() && records >= job.shape.records() * job.answers {
            return Ok(());
        }
        sleep_until(due).await;
    }
    Ok(())
}

/// Sends a request and returns the body of its answer in one buffer.
async fn exchange(sender: &mut SendRequest<Whole>, request: Request<Whole>) -> Result<Vec<u8>, BoxError> {
    sender.ready().await?;
    let mut body: Incoming = sender.send_request(request).await?.into_body();
    let mut whole = Vec::with_capacity(usize::try_from(body.size_hint().lower())?);
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}
