//! One HTTP connection: answers one request after another.

use std::io::{Error, ErrorKind, IoSlice, Result};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::stream::Stream;

/// Longest head and longest body of a request, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The parts of a request head that the server uses.
#[derive(Debug, Default)]
struct Head {
    path: String,
    operation: String,
    is_cbor: bool,
    length: usize,
    expects_continue: bool,
}

/// Answers requests until the client closes the connection.
pub(super) async fn answer_all(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    stream: &Stream,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let head_length = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !read_more(&mut socket, &mut buffer).await? {
                return Ok(());
            }
        };
        let head = Head::parse(buffer.get(..head_length).unwrap_or_default());
        if head.expects_continue {
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            socket.flush().await?;
        }
        while buffer.len() < head_length + head.length {
            if !read_more(&mut socket, &mut buffer).await? {
                return Ok(());
            }
        }
        let body = buffer.get(head_length..head_length + head.length).unwrap_or_default();
        let response = stream.answer(&head.path, &head.operation, head.is_cbor, body);
        let top = format!(
            "HTTP/1.1 200 OK\r\nx-amzn-RequestId: 00000000-0000-0000-0000-000000000000\r\n\
             Date: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            response.content_type,
            response.body.len() + response.end.len(),
        );
        write_all(&mut socket, [top.as_bytes(), &response.body, &response.end]).await?;
        buffer.drain(..head_length + head.length);
    }
}

async fn read_more(socket: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<bool> {
    if buffer.len() > MAX_REQUEST_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, "the request is too long for this server"));
    }
    Ok(socket.read_buf(buffer).await? > 0)
}

/// Writes all parts, in one call where the socket accepts it.
async fn write_all(socket: &mut (impl AsyncWrite + Unpin), mut parts: [&[u8]; 3]) -> Result<()> {
    while parts.iter().any(|part| !part.is_empty()) {
        let slices = parts.map(IoSlice::new);
        let mut written = socket.write_vectored(&slices).await?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        for part in &mut parts {
            let taken = written.min(part.len());
            *part = part.get(taken..).unwrap_or_default();
            written -= taken;
        }
    }
    // TLS may hold bytes back.
    socket.flush().await
}

impl Head {
    fn parse(head: &[u8]) -> Self {
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let mut parsed = Self { path, ..Self::default() };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => parsed.length = value.parse().unwrap_or(0),
                "x-amz-target" => parsed.operation = value.rsplit('.').next().unwrap_or_default().to_owned(),
                "content-type" => parsed.is_cbor = value.contains("cbor"),
                "expect" => parsed.expects_continue = true,
                _ => {}
            }
        }
        parsed
    }
}
