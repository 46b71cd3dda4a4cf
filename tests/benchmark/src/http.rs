//! The server's own pages: plain requests, one connection each.

use std::collections::BTreeMap;
use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How much is read at a time, in bytes.
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
            return Err(Error::other("the server has hung up"));
        }
    }
}

/// What the server has counted.
pub(crate) fn stats(url: &str) -> Result<BTreeMap<String, u64>> {
    let text = get(url, "/stats")?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect())
}

/// From now on there are records.
pub(crate) fn open(url: &str) -> Result<()> {
    get(url, "/open").map(drop)
}
