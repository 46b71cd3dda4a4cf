//! Follows the messages of an event stream, to know the size of the one that is arriving: pure.

/// The size of the length with which each message begins, in bytes. It counts the whole message.
const LENGTH_BYTES: usize = 4;

/// The longest message, in bytes, for which memory is reserved. It holds the largest record, 10 MiB, as Base64 text. A message that
/// announces more ends its session.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The place in an event stream up to which its bytes have arrived.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// The first bytes of the message that is arriving, until they are its length.
    length: Vec<u8>,
    /// The length of that message, once it is known.
    message_bytes: Option<u32>,
    /// How many bytes of it are still to come.
    left: usize,
}

impl Framing {
    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.message_bytes.is_none() {
                let (of_length, rest) = bytes.split_at(bytes.len().min(LENGTH_BYTES - self.length.len()));
                self.length.extend(of_length);
                bytes = rest;
                let Some(length) = self.length.first_chunk::<LENGTH_BYTES>() else { return };
                let length = u32::from_be_bytes(*length);
                self.message_bytes = Some(length);
                // An impossible length ends the session.
                self.left = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(LENGTH_BYTES);
            }
            let (_, rest) = bytes.split_at(bytes.len().min(self.left));
            self.left -= bytes.len() - rest.len();
            bytes = rest;
            if self.left == 0 {
                self.message_bytes = None;
                self.length.clear();
            }
        }
    }

    /// The size of the message of which a part has arrived, but not the whole; `None`: no such message, or its length has not
    /// arrived.
    pub(super) fn arriving_bytes(&self) -> Option<u32> {
        self.message_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = u32::try_from(bytes).unwrap().to_be_bytes().to_vec();
        message.resize(bytes, 0xee);
        message
    }

    #[test]
    fn size_of_an_arriving_message_is_known() {
        let mut framing = Framing::default();
        for (bytes, expected) in [
            (&message(100)[..3], None),
            (&message(100)[3..5], Some(100)),
            (&message(100)[5..99], Some(100)),
            (&message(100)[99..], None),
            (&[message(4), message(20), message(5000)[..10].to_vec()].concat(), Some(5000)),
            (&[message(5000)[10..].to_vec(), message(16)].concat(), None),
        ] {
            framing.push(bytes);
            assert_eq!(framing.arriving_bytes(), expected);
        }
    }

    proptest! {
        #[test]
        fn frames_may_end_anywhere(sizes in prop::collection::vec(4..60_usize, 1..8), cuts in prop::collection::vec(0..400_usize, 0..8)) {
            let stream: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            let (mut framing, mut from) = (Framing::default(), 0);
            for cut in cuts {
                framing.push(&stream[from..cut]);
                from = cut;
                let mut start = 0;
                let arriving = sizes.iter().find(|&&size| { start += size; cut < start });
                let is_known = arriving.is_some_and(|size| cut + size >= start + LENGTH_BYTES);
                let expected = arriving.filter(|_| is_known).map(|&size| u32::try_from(size).unwrap());
                prop_assert_eq!(framing.arriving_bytes(), expected);
            }
        }

        #[test]
        fn any_bytes_are_followed_without_panic(frames: Vec<Vec<u8>>) {
            let mut framing = Framing::default();
            frames.iter().for_each(|frame| framing.push(frame));
        }
    }
}
