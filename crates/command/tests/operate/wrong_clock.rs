//! Operations on a machine whose clock is wrong: what is stored goes by the clock of the stream.

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use lease_store::Position;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::bed::{APPLICATION, Bed, lease_after};

/// How far the clock of the machine is ahead of that of the stream. AWS accepts signatures up to five minutes.
const AHEAD: Duration = Duration::from_secs(240);

/// The largest body of a request.
const MAX_BODY_BYTES: usize = 1 << 20;

/// A server in front of a Kinesis server, whose clock is late.
async fn late_server(url: &str) -> (String, AbortOnDropHandle<()>) {
    let upstream = url.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(move |request: Request| {
        let upstream = upstream.clone();
        async move { forward(&upstream, request).await }
    });
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (own, AbortOnDropHandle::new(serving))
}

/// Sends a request on, on a connection of its own, and changes the date of the answer.
async fn forward(upstream: &str, request: Request) -> Response {
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
    let date = DateTime::from(now() - AHEAD).fmt(DateTimeFormat::HttpDate).unwrap();
    let headers = [("content-type", kind), ("date", date)];
    (StatusCode::from_u16(status).unwrap(), headers, answer.split_off(end + 4)).into_response()
}

#[allow(clippy::disallowed_methods)] // the clock of the machine is what is wrong
fn now() -> SystemTime {
    SystemTime::now()
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_go_by_the_clock_of_the_stream() {
    let bed = Bed::start().await;
    for number in 0..2 {
        bed.put_row(lease_after(number, 7)).await;
    }
    let (late, _serving) = late_server(&bed.endpoints().kinesis).await;
    // Records that arrive after the reset are not to be skipped.
    bed.run_at(&late, &["reset", APPLICATION, "--to", "latest", "--execute"]).await.assert(0, "2 done");
    let row = bed.row(0).await;
    assert_eq!(row.checkpoint, Position::Latest);
    let of_stream = millis(now() - AHEAD);
    let instant = row.initial_time_millis.unwrap();
    assert!(instant <= of_stream && instant + 60_000 > of_stream, "{instant} is not just before {of_stream}");
    // A pause of half an hour ends in half an hour.
    bed.run_at(&late, &["pause", APPLICATION, "--for", "30m"]).await.assert(0, "2 done");
    let end = bed.row(0).await.pause().unwrap().until_millis.unwrap();
    let expected = millis(now() - AHEAD) + 1_800_000;
    assert!(end <= expected && end + 60_000 > expected, "{end} is not just before {expected}");
}
