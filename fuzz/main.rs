//! Runs the target named by `FUZZ_TARGET` under libFuzzer, which prints its own progress.

#![no_main]

use std::sync::LazyLock;

use fuzzing::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names = || fuzzing::targets().map(|target| target.name).collect::<Vec<_>>().join(", ");
    fuzzing::target_named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}; set it to one of: {}", names()))
});

fuzz_target!(|input: &[u8]| {
    (TARGET.check)(input);
});
