//! Snapshots of the application's state. They cause no panic, an accepted snapshot survives a round trip, and one
//! with another checksum or version is refused.

use std::fmt;
use std::time::Duration;

use processor_state::internals::{decode_snapshot, encode_snapshot};
use processor_state::{
    SlidingWindow, SlidingWindowCount, StateErrorKind, StateLogic, StateSchema, decode_snapshot_header,
    update_state_by_key,
};

use crate::target::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "state_snapshot",
    check,
    tokens: &[
        b"0",
        b"9",
        b",",
        b":",
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b"\\",
        b"\n",
        b" ",
        b"null",
        b"-1",
        b"18446744073709551615",
        b"SHARD_END",
        b"\"passed\":",
        b"\xff",
        b"\x00",
        TRAILER,
    ],
};

/// The first line of the only version.
const FIRST_LINE: &[u8] = b"kinesis-state 1\n";

/// The beginning of the last line.
const TRAILER: &[u8] = b"crc32 ";

fn check(input: &[u8]) -> Reading {
    if read(input) {
        assert!(sealed(input) == input, "a snapshot with a wrong checksum was read");
    }
    let sealed = sealed(input);
    if !read(&sealed) {
        return Reading::Refused;
    }
    assert!(sealed.starts_with(FIRST_LINE), "a snapshot of another version was read");
    Reading::Accepted
}

/// Parses the input as the state of two applications. Returns whether one of them accepts it.
fn read(input: &[u8]) -> bool {
    let counts = update_state_by_key(
        StateSchema::new("counts", 1),
        |_| Ok(Vec::<(String, u64)>::new()),
        |count: Option<u64>, add| Some(count.unwrap_or(0) + add),
        |one, other| one + other,
    );
    let second = Duration::from_secs(1);
    let window = SlidingWindow::new(second, second).expect("a valid window");
    let windows = SlidingWindowCount::new(StateSchema::new("windows", 1), window, |_| Ok(Vec::new()));
    read_as(input, &counts) | read_as(input, &windows)
}

fn read_as<L: StateLogic>(input: &[u8], logic: &L) -> bool
where
    L::State: PartialEq + fmt::Debug,
{
    match decode_snapshot(input, logic) {
        Ok(snapshot) => {
            assert_eq!(decode_snapshot_header(input).expect("cannot read the header"), snapshot.header);
            let again = encode_snapshot(&snapshot.header, &snapshot.state, usize::MAX)
                .expect("cannot write the snapshot");
            assert_eq!(decode_snapshot(&again, logic).expect("cannot read the written snapshot"), snapshot);
            true
        }
        Err(error) => {
            let is_clear = matches!(error.kind(), StateErrorKind::Corrupt | StateErrorKind::OtherVersion);
            assert!(is_clear, "{error}");
            false
        }
    }
}

/// Returns the input with a correct checksum, so that mutations reach the parser.
fn sealed(input: &[u8]) -> Vec<u8> {
    let end = input.windows(TRAILER.len()).rposition(|window| window == TRAILER).unwrap_or(input.len());
    let mut sealed = input[..end].to_vec();
    let checksum = crc32fast::hash(&sealed);
    sealed.extend_from_slice(TRAILER);
    sealed.extend_from_slice(format!("{checksum:08x}\n").as_bytes());
    sealed
}
