//! Forwards the standard error of a child, line by line.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::output::ChildOutput;

/// How long a part of a line waits for its end. Some children never end a line.
const PARTIAL_LINE_WAIT: Duration = Duration::from_millis(100);

/// The most bytes that wait for the end of a line, and the bytes of one read.
const MAX_WAITING_BYTES: usize = 8 * 1024;

/// Reads until the child closes its standard error. Lines of several children do not mix, unless they are long or unfinished.
pub async fn forward_stderr<R>(mut stderr: R, shard_id: Arc<str>, sink: Arc<dyn ChildOutput>)
where
    R: AsyncRead + Send + Unpin,
{
    let mut waiting: Vec<u8> = Vec::new();
    let mut bytes = vec![0; MAX_WAITING_BYTES];
    loop {
        let read = if waiting.is_empty() {
            stderr.read(&mut bytes).await
        } else {
            match timeout(PARTIAL_LINE_WAIT, stderr.read(&mut bytes)).await {
                Ok(read) => read,
                Err(_) => {
                    sink.stderr_bytes(&shard_id, &waiting).await;
                    waiting.clear();
                    continue;
                }
            }
        };
        let length = read.unwrap_or(0);
        waiting.extend_from_slice(&bytes[..length]);
        let complete = match waiting.iter().rposition(|byte| *byte == b'\n') {
            _ if length == 0 || waiting.len() > MAX_WAITING_BYTES => waiting.len(),
            Some(end) => end + 1,
            None => 0,
        };
        if complete > 0 {
            sink.stderr_bytes(&shard_id, &waiting[..complete]).await;
            waiting.drain(..complete);
        }
        if length == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[derive(Debug, Default)]
    struct Recorded(Mutex<Vec<String>>);

    #[async_trait]
    impl ChildOutput for Recorded {
        async fn stdout_line(&self, _shard_id: &str, _line: &[u8], _dropped_bytes: u64) {}

        async fn stderr_bytes(&self, _shard_id: &str, bytes: &[u8]) {
            self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_line_is_forwarded_after_a_while() {
        let (mut child, stderr) = tokio::io::duplex(1024);
        let recorded = Arc::new(Recorded::default());
        let forwarding = tokio::spawn(forward_stderr(stderr, "shardId-0".into(), recorded.clone()));
        child.write_all(b"one\ntwo").await.unwrap();
        tokio::time::sleep(PARTIAL_LINE_WAIT * 2).await;
        assert_eq!(*recorded.0.lock().unwrap(), ["one\n", "two"]);
        child.write_all(b" three\nfour").await.unwrap();
        drop(child);
        forwarding.await.unwrap();
        assert_eq!(recorded.0.lock().unwrap().concat(), "one\ntwo three\nfour");
    }
}
