//! The buffers of answers, used again.
//!
//! An allocator returns large buffers to the system, and each page of the next one costs a page fault: a fifth of the time of a busy
//! reader over TLS. So the buffer of a large answer is kept for the next one, once no record refers to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// The most bytes that are kept for further answers of a stream.
const MAX_KEPT_BYTES: usize = 8 * 1024 * 1024;

/// A smaller buffer is left to the allocator, in bytes: it keeps those itself.
const MIN_KEPT_BYTES: usize = 64 * 1024;

/// A kept buffer is larger than its next answer by at most this part of the answer: the memory limit counts records, and they keep the
/// whole buffer.
const MAX_EXCESS_PART: usize = 8;

/// The next read frees a buffer that no answer has used for this long.
const MAX_KEPT_TIME: Duration = Duration::from_secs(5);

/// The buffers that wait for an answer. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyBuffers(Arc<Mutex<Vec<Kept>>>);

#[derive(Debug)]
struct Kept {
    buffer: Vec<u8>,
    since: Instant,
}

/// The body of one answer. Its buffer is kept when it is dropped.
#[derive(Debug)]
pub(super) struct BodyBuffer {
    pub(super) bytes: Vec<u8>,
    home: BodyBuffers,
}

impl BodyBuffers {
    /// An empty buffer for an answer of this size, in bytes.
    pub(super) fn take(&self, bytes: usize) -> BodyBuffer {
        let mut kept = self.kept();
        // In the order in which they were returned.
        let expired = kept.iter().take_while(|kept| kept.since.elapsed() >= MAX_KEPT_TIME).count();
        kept.drain(..expired);
        let fits = |kept: &Kept| {
            let capacity = kept.buffer.capacity();
            bytes >= MIN_KEPT_BYTES && (bytes..=bytes + bytes / MAX_EXCESS_PART).contains(&capacity)
        };
        // The newest is the likeliest to be in the CPU caches.
        let found = kept.iter().rposition(fits).map(|index| kept.remove(index).buffer);
        drop(kept);
        BodyBuffer { bytes: found.unwrap_or_else(|| Vec::with_capacity(bytes)), home: self.clone() }
    }

    fn put_back(&self, mut buffer: Vec<u8>) {
        if !(MIN_KEPT_BYTES..=MAX_KEPT_BYTES).contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        let mut kept = self.kept();
        let mut bytes = buffer.capacity() + kept.iter().map(|kept| kept.buffer.capacity()).sum::<usize>();
        while bytes > MAX_KEPT_BYTES && !kept.is_empty() {
            bytes -= kept.remove(0).buffer.capacity();
        }
        kept.push(Kept { buffer, since: Instant::now() });
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BodyBuffer {
    pub(super) fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for BodyBuffer {
    fn drop(&mut self) {
        self.home.put_back(std::mem::take(&mut self.bytes));
    }
}

impl AsRef<[u8]> for BodyBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for BodyBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl From<BodyBuffer> for Bytes {
    fn from(buffer: BodyBuffer) -> Self {
        Self::from_owner(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: usize = 1024 * 1024;

    fn address(buffer: &BodyBuffer) -> *const u8 {
        buffer.bytes.as_ptr()
    }

    #[tokio::test(start_paused = true)]
    async fn buffer_is_used_again_once_no_record_refers_to_it() {
        let buffers = BodyBuffers::default();
        let mut first = buffers.take(MEBIBYTE);
        let at = address(&first);
        first.bytes.extend(b"abcdef");
        let whole = Bytes::from(first);
        let record = whole.slice(2..4);
        drop(whole);
        let second = buffers.take(MEBIBYTE);
        assert_ne!(address(&second), at, "a record refers to the first one");
        assert_eq!(record, "cd");
        drop(record);
        let third = buffers.take(MEBIBYTE);
        assert_eq!((address(&third), third.bytes.len()), (at, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn answer_keeps_no_much_larger_buffer() {
        let buffers = BodyBuffers::default();
        drop(buffers.take(4 * MEBIBYTE));
        assert!(buffers.take(3 * MEBIBYTE).bytes.capacity() < 4 * MEBIBYTE);
        assert!(buffers.take(100).bytes.capacity() < MIN_KEPT_BYTES);
        assert!(buffers.take(4 * MEBIBYTE - 1000).bytes.capacity() >= 4 * MEBIBYTE);
    }

    #[tokio::test(start_paused = true)]
    async fn few_buffers_are_kept_and_for_a_short_time() {
        let buffers = BodyBuffers::default();
        let busy: Vec<BodyBuffer> = (0..20).map(|_| buffers.take(MEBIBYTE)).collect();
        drop(busy);
        let kept = || buffers.kept().iter().map(|kept| kept.buffer.capacity()).sum::<usize>();
        assert_eq!(kept(), MAX_KEPT_BYTES);
        drop(buffers.take(10 * MEBIBYTE));
        assert_eq!(kept(), MAX_KEPT_BYTES, "a buffer beyond the limit is freed");
        tokio::time::advance(MAX_KEPT_TIME).await;
        drop(buffers.take(100));
        assert_eq!(kept(), 0);
    }
}
