//! Commands on a machine whose clock is wrong: what they store and what they read goes by the clock of the stream.

use std::time::SystemTime;

use aws_sdk_kinesis::primitives::{Blob, DateTime, DateTimeFormat};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use lease_store::Position;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::bed::{APPLICATION, Bed, STREAM, lease_after};

/// How far the clock of the stream is behind that of the machine, or ahead of it, in seconds. AWS accepts signatures up to five minutes.
const BEHIND: i64 = -240;
const AHEAD: i64 = 240;

/// The largest body of a request.
const MAX_BODY_BYTES: usize = 1 << 20;

/// A server in front of a Kinesis server, whose clock differs from that of the machine by these seconds.
async fn server_with_clock(url: &str, offset_seconds: i64) -> (String, AbortOnDropHandle<()>) {
    let upstream = url.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(move |request: Request| {
        let upstream = upstream.clone();
        async move { forward(&upstream, request, offset_seconds).await }
    });
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (own, AbortOnDropHandle::new(serving))
}

/// Sends a request on, on a connection of its own, and changes the date of the answer.
async fn forward(upstream: &str, request: Request, offset_seconds: i64) -> Response {
    let mut head = format!("POST / HTTP/1.1\r\nhost: {upstream}\r\nconnection: close\r\n");
    for (name, value) in request.headers() {
        if !["host", "connection", "content-length"].contains(&name.as_str()) {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
    }
    let body = to_bytes(request.into_body(), MAX_BODY_BYTES).await.unwrap();
    head += &format!("content-length: {}\r\n\r\n", body.len());
    let mut connection = TcpStream::connect(upstream).await.unwrap();
    connection.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(!head.contains("transfer-encoding: chunked"), "{head}");
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap().to_owned();
    let date = DateTime::from_millis(now_millis() + offset_seconds * 1_000);
    let date = date.fmt(DateTimeFormat::HttpDate).unwrap();
    let headers = [("content-type", kind), ("date", date)];
    (StatusCode::from_u16(status).unwrap(), headers, answer.split_off(end + 4)).into_response()
}

#[allow(clippy::disallowed_methods)] // the clock of the machine is what is wrong
fn now_millis() -> i64 {
    DateTime::from(SystemTime::now()).to_millis().unwrap()
}

/// The time of the stream whose clock is behind, in milliseconds since 1970.
fn late_millis() -> u64 {
    u64::try_from(now_millis() + BEHIND * 1_000).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_go_by_the_clock_of_the_stream() {
    let bed = Bed::start().await;
    for number in 0..2 {
        bed.put_row(lease_after(number, 7)).await;
    }
    let (late, _serving) = server_with_clock(&bed.endpoints().kinesis, BEHIND).await;
    // Records that arrive after the reset are not to be skipped.
    bed.run_at(&late, &["reset", APPLICATION, "--to", "latest", "--execute"]).await.assert(0, "2 done");
    let row = bed.row(0).await;
    assert_eq!(row.checkpoint, Position::Latest);
    let of_stream = late_millis();
    let instant = row.initial_time_millis.unwrap();
    assert!(instant <= of_stream && instant + 60_000 > of_stream, "{instant} is not just before {of_stream}");
    // A pause of half an hour ends in half an hour.
    bed.run_at(&late, &["pause", APPLICATION, "--for", "30m"]).await.assert(0, "2 done");
    let end = bed.row(0).await.pause().unwrap().until_millis.unwrap();
    let expected = late_millis() + 1_800_000;
    assert!(end <= expected && end + 60_000 > expected, "{end} is not just before {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_a_reading_go_by_the_clock_of_the_stream() {
    let bed = Bed::start().await;
    let kinesis = bed.endpoints().kinesis_client();
    kinesis
        .put_record()
        .stream_name(STREAM)
        .partition_key("k")
        .data(Blob::new("early"))
        .send()
        .await
        .unwrap();
    let url = &bed.endpoints().kinesis;
    let minutes = ["cat", STREAM, "--from", "5m", "--until", "3m", "--raw"];
    let finished = bed.read_at(url, &minutes).await;
    assert_eq!((finished.code, finished.output.as_str()), (0, ""), "{}", finished.errors);
    // At a stream whose clock is ahead, the record arrived some four minutes ago.
    let (ahead, _serving) = server_with_clock(url, AHEAD).await;
    bed.read_at(&ahead, &minutes).await.assert(0, "early");
    // A time after that of the stream is in the future, whatever the clock of the machine shows.
    let (late, _serving) = server_with_clock(url, BEHIND).await;
    let time = (late_millis() + 120_000).to_string();
    bed.read_at(&late, &["cat", STREAM, "--until", &time]).await.assert(2, "in the future");
    let replay =
        ["replay", "records", STREAM, "--from", "trim-horizon", "--until", &time, "--to-stream", "other"];
    bed.read_at(&late, &replay).await.assert(2, "in the future");
}
