//! Where log lines go: to the standard error, so that the standard output is that of the children. A thread writes them, so that a
//! standard error without a reader holds up no shard.

use std::env;
use std::io::{self, IsTerminal as _, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The most lines that wait for the standard error. Further ones are left out and counted.
const MAX_WAITING_LINES: usize = 1024;

/// Writes log lines to the standard error from here on. `RUST_LOG` names levels by target, as in `info,receiver=debug`; without
/// it, and where it cannot be read, only lines of `level` and above are written.
///
/// # Errors
/// When no thread can be started.
pub(super) fn log_to_stderr(level: LevelFilter) -> io::Result<LogLines> {
    let asked = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let log = LogLines::start(stderr())?;
    let lines = tracing_subscriber::fmt::layer().with_writer(log.clone()).with_ansi(stderr().is_terminal());
    // Fails only where a subscriber is installed already.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
    Ok(log)
}

/// Lines that wait for a stream. Clones write to the same one.
#[derive(Debug, Clone)]
pub(super) struct LogLines {
    waiting: mpsc::Sender<Request>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Request {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

impl LogLines {
    fn start(stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (waiting, received) = mpsc::channel(MAX_WAITING_LINES);
        let left_out = Arc::new(AtomicU64::new(0));
        let of_thread = left_out.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(stream, received, &of_thread))?;
        Ok(Self { waiting, left_out })
    }

    /// Waits until all lines so far, and then `last`, are written, but no longer than `limit`.
    pub(super) async fn finish(&self, last: Option<String>, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        let written = async {
            if let Some(line) = last {
                let _ = self.waiting.send(Request::Line(format!("{line}\n").into_bytes())).await;
            }
            let _ = self.waiting.send(Request::Flush(done)).await;
            let _ = flushed.await;
        };
        // A reader that makes no progress does not keep the daemon.
        let _ = timeout(limit, written).await;
    }
}

/// Each write is a whole line.
impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.try_send(Request::Line(bytes.to_vec())).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn write_all(mut stream: impl Write, mut received: mpsc::Receiver<Request>, left_out: &AtomicU64) {
    while let Some(request) = received.blocking_recv() {
        match request {
            // A closed stream is no reason to stop the application.
            Request::Line(bytes) => drop(stream.write_all(&bytes)),
            Request::Flush(done) => {
                let _ = stream.flush();
                let _ = done.send(());
            }
        }
        let count = left_out.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ =
                writeln!(stream, "{count} log lines were left out, since the standard error was not read");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A stream that passes on what is written once it is opened.
    struct Gate {
        opened: Receiver<()>,
        is_open: bool,
        written: SyncSender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_open {
                self.is_open = self.opened.recv().is_ok();
            }
            // The receiver ends with the test.
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The runtime has this one thread: a write that blocked it would never end. The clock is not paused, since it would advance while
    /// the thread writes.
    #[tokio::test]
    async fn log_without_a_reader_holds_up_nothing() {
        let (open, opened) = sync_channel(1);
        // More than all lines and the parts of the note.
        let (written, lines) = sync_channel(4 * MAX_WAITING_LINES);
        let mut log = LogLines::start(Gate { opened, is_open: false, written }).unwrap();
        for number in 0..2 * MAX_WAITING_LINES {
            log.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        log.finish(Some("not in time".to_owned()), Duration::ZERO).await;
        assert!(lines.try_recv().is_err(), "nothing is written yet");

        open.send(()).unwrap();
        // Until the thread has taken a line, the queue is full.
        while log.waiting.capacity() == 0 {
            thread::yield_now();
        }
        log.finish(Some("the end".to_owned()), Duration::from_secs(3600)).await;
        let text = String::from_utf8(lines.try_iter().collect::<Vec<_>>().concat()).unwrap();
        assert!(text.starts_with("0\n") && text.contains(" log lines were left out"), "{text}");
        assert!(text.trim_end().ends_with("the end"), "{text}");
    }
}
