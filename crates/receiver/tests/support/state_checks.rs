//! What must hold for any bytes that are read as a snapshot of the application's state.

use receiver::state::snapshot::{decode, decode_header, encode};
use receiver::state::{
    SlidingWindow, SlidingWindowCount, StateErrorKind, StateLogic, StateSchema, update_state_by_key,
};

/// How the last line begins.
const TRAILER: &[u8] = b"crc32 ";

/// Reads the input as it is, with the values of two applications. Returns whether one could.
pub(crate) fn check(input: &[u8]) -> bool {
    let counts = update_state_by_key(
        StateSchema::new("counts", 1),
        |_| Ok(Vec::<(String, u64)>::new()),
        |count: Option<u64>, add| Some(count.unwrap_or(0) + add),
        |one, other| one + other,
    );
    let second = std::time::Duration::from_secs(1);
    let window = SlidingWindow::new(second, second).expect("it is sound");
    let windows = SlidingWindowCount::new(StateSchema::new("windows", 1), window, |_| Ok(Vec::new()));
    check_as(input, &counts) | check_as(input, &windows)
}

fn check_as<L: StateLogic>(input: &[u8], logic: &L) -> bool
where
    L::State: PartialEq + std::fmt::Debug,
{
    match decode(input, logic) {
        Ok(snapshot) => {
            assert_eq!(decode_header(input).expect("its header can be read"), snapshot.header);
            let again = encode(&snapshot.header, &snapshot.state, usize::MAX).expect("it can be written");
            assert_eq!(decode(&again, logic).expect("it can be read again"), snapshot);
            true
        }
        Err(error) => {
            assert!(
                matches!(error.kind(), StateErrorKind::Corrupt | StateErrorKind::OtherVersion),
                "{error}"
            );
            false
        }
    }
}

/// The input with the right checksum, so that changes before it reach the parser.
pub(crate) fn sealed(input: &[u8]) -> Vec<u8> {
    let end = input.windows(TRAILER.len()).rposition(|window| window == TRAILER).unwrap_or(input.len());
    let mut sealed = input[..end].to_vec();
    let checksum = crc32fast::hash(&sealed);
    sealed.extend_from_slice(TRAILER);
    sealed.extend_from_slice(format!("{checksum:08x}\n").as_bytes());
    sealed
}
