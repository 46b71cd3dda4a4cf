//! Writes to a stream of this process in a thread of its own, so that a reader of the stream that makes no progress blocks no thread
//! of the runtime.

use std::io::{self, Write};
use std::thread;

use tokio::sync::{mpsc, oneshot};

/// The most writes that wait for the stream. Each is a line of limited length, so at most 4 MiB.
pub(super) const MAX_WAITING_WRITES: usize = 64;

/// A stream of this process. Clones write to the same one.
#[derive(Debug, Clone)]
pub(super) struct StreamWriter {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    Write(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

impl StreamWriter {
    /// Starts the thread, which ends once this value and its clones are dropped.
    pub(super) fn start(name: &str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (requests, received) = mpsc::channel(MAX_WAITING_WRITES);
        thread::Builder::new().name(name.to_owned()).spawn(move || write_all(stream, received))?;
        Ok(Self { requests })
    }

    /// Queues bytes; waits while the queue is full, so that a child whose output is not read is held up, and nothing is lost.
    pub(super) async fn write(&self, bytes: Vec<u8>) {
        // The thread lives as long as this value.
        let _ = self.requests.send(Request::Write(bytes)).await;
    }

    /// Waits until everything queued so far is written.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.requests.send(Request::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

fn write_all(mut stream: impl Write, mut received: mpsc::Receiver<Request>) {
    let mut requests = Vec::new();
    let mut bytes = Vec::new();
    while received.blocking_recv_many(&mut requests, MAX_WAITING_WRITES) > 0 {
        let mut flushed = Vec::new();
        for request in requests.drain(..) {
            match request {
                Request::Write(more) => bytes.extend_from_slice(&more),
                Request::Flush(done) => flushed.push(done),
            }
        }
        // A closed stream is no reason to stop the application.
        let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
        bytes.clear();
        for done in flushed {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use tokio::time::{Duration, timeout};

    use super::*;

    /// A stream that is not read until it is opened.
    #[derive(Clone, Default)]
    #[allow(clippy::type_complexity)] // one value behind one lock
    struct Gate(Arc<(Mutex<(bool, Vec<u8>)>, Condvar)>);

    impl Gate {
        fn open(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |(is_open, _)| !*is_open).unwrap();
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The runtime has this one thread: a write that blocked it would end the test by its time limit, or never.
    #[tokio::test(start_paused = true)]
    async fn stream_that_is_not_read_holds_up_only_its_writers() {
        let gate = Gate::default();
        let writer = StreamWriter::start("test", gate.clone()).unwrap();
        let lines: Vec<String> = (0..5 * MAX_WAITING_WRITES).map(|number| format!("{number}\n")).collect();
        let all = async {
            for line in &lines {
                writer.write(line.clone().into_bytes()).await;
            }
            writer.flush().await;
        };
        tokio::pin!(all);
        assert!(timeout(Duration::from_secs(3600), &mut all).await.is_err(), "the queue has a bound");
        gate.open();
        all.await;
        assert_eq!(gate.0.0.lock().unwrap().1, lines.concat().into_bytes());
    }
}
