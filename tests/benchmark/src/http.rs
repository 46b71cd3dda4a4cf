//! A minimal HTTP client for the server's own pages, with one connection per request.

use std::collections::BTreeMap;
use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for an answer.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Bytes per read.
const CHUNK_BYTES: usize = 4096;

fn get(url: &str, path: &str) -> Result<String> {
    let host = url.strip_prefix("http://").ok_or_else(|| Error::other(format!("{url} is not http")))?;
    let mut socket = TcpStream::connect(host)?;
    socket.set_read_timeout(Some(TIME_LIMIT))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let (mut text, mut chunk) = (Vec::new(), [0; CHUNK_BYTES]);
    loop {
        let length = socket.read(&mut chunk)?;
        text.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let whole = String::from_utf8_lossy(&text);
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let expected = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if length == 0 || expected.and_then(|length| length.parse().ok()) == Some(body.len()) {
                return Ok(body.to_owned());
            }
        } else if length == 0 {
            return Err(Error::other("the server closed the connection"));
        }
    }
}

/// Returns the counters of the server.
pub(crate) fn stats(url: &str) -> Result<BTreeMap<String, u64>> {
    let text = get(url, "/stats")?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect())
}

/// Lets the server serve records.
pub(crate) fn open(url: &str) -> Result<()> {
    get(url, "/open").map(drop)
}
