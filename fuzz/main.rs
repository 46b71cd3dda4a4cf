//! Runs one target under libFuzzer: the one that `FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

use fuzzing::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names = || fuzzing::targets().map(|target| target.name).collect::<Vec<_>>().join(", ");
    fuzzing::target(&name).unwrap_or_else(|| panic!("set FUZZ_TARGET to one of: {}", names()))
});

fuzz_target!(|input: &[u8]| {
    (TARGET.check)(input);
});
