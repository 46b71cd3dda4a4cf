//! Divides a connection of HTTP/2 into frames: pure.

/// The first bytes of a client (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of a frame, in bytes: length, type, flags and stream.
const HEAD_BYTES: usize = 9;

/// The type of GOAWAY frames.
const GOAWAY: u8 = 7;

/// Bytes that have arrived, and are returned frame by frame.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    /// The bytes before the first frame that are still to come.
    preface: usize,
}

impl Frames {
    /// The bytes of a client, which sends a preface first.
    pub(super) fn of_client() -> Self {
        Self { bytes: Vec::new(), preface: PREFACE.len() }
    }

    /// The bytes of a server.
    pub(super) fn of_server() -> Self {
        Self { bytes: Vec::new(), preface: 0 }
    }

    /// Takes further bytes.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The next whole frame, or the preface.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let bytes = if self.preface > 0 {
            self.preface
        } else {
            let [high, middle, low, ..] = *self.bytes.first_chunk::<HEAD_BYTES>()?;
            HEAD_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize
        };
        if self.bytes.len() < bytes {
            return None;
        }
        self.preface = 0;
        let rest = self.bytes.split_off(bytes);
        Some(std::mem::replace(&mut self.bytes, rest))
    }
}

/// The stream of a frame; 0 for frames of the connection, and for the preface.
pub(super) fn stream_id(frame: &[u8]) -> u32 {
    if frame == PREFACE {
        return 0;
    }
    frame
        .first_chunk::<HEAD_BYTES>()
        .map_or(0, |head| u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1))
}

/// A GOAWAY frame without an error. Requests up to this stream are answered.
pub(super) fn goaway(last_stream: u32) -> Vec<u8> {
    let mut frame = vec![0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
    frame.extend(last_stream.to_be_bytes());
    frame.extend(0_u32.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_returned_whole_wherever_bytes_are_divided() {
        let data = [&[0, 0, 3, 0, 0, 0, 0, 0, 5][..], b"abc"].concat();
        let sent = [PREFACE.to_vec(), goaway(7), data.clone()];
        let bytes = sent.concat();
        for cut in 0..bytes.len() {
            let (mut frames, mut read) = (Frames::of_client(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                frames.buffer().extend(part);
                read.extend(std::iter::from_fn(|| frames.next()));
            }
            assert_eq!(read, sent);
        }
        assert_eq!([PREFACE, &goaway(7), &data].map(stream_id), [0, 0, 5]);
    }
}
