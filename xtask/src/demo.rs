//! The main job on the embedded stream: a fleet counts words through a reshard and a crash.

use std::path::Path;

use crate::process::{Outcome, built_in, cargo, command, root};
use crate::sim::CHECKED_PROFILE;
use crate::testing::Packages;

/// From this size of the input on, the optimised build pays for itself. 32 MB (five million words) take 20 s of CPU time
/// unoptimised, which is less than the optimised build.
const OPTIMISED_FROM_BYTES: u64 = 256 * 1024 * 1024;

/// Builds the example and runs it with these arguments.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let size: u64 = inputs(arguments).map(|input| bytes_in(&root().join(input))).sum();
    // Selected from the packages of `cargo xtask test`, so that the two commands share what they build.
    let mut build = cargo(&format!("build {} --bin word_count", Packages::WithoutAws.cargo_words()));
    let mut folder = "debug";
    if size >= OPTIMISED_FROM_BYTES {
        println!("building the example word_count, optimised for {} MB of input ...", size / 1_000_000);
        build = build.args(["--profile", CHECKED_PROFILE]);
        folder = CHECKED_PROFILE;
    } else {
        println!("building the example word_count ...");
    }
    build.run()?;
    command(&built_in(folder, "word_count")).args(arguments).run()
}

/// The values of `--input`.
fn inputs(arguments: &[String]) -> impl Iterator<Item = &str> {
    let after = arguments.iter().zip(arguments.iter().skip(1));
    let separate = after.filter(|(name, _)| *name == "--input").map(|(_, value)| value.as_str());
    separate.chain(arguments.iter().filter_map(|argument| argument.strip_prefix("--input=")))
}

/// The size of a file, or of all files in a folder. The example reports unreadable paths.
fn bytes_in(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| bytes_in(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_found_in_both_forms() {
        let arguments = ["--plain", "--input", "a", "--input=b", "--seconds", "3"].map(str::to_owned);
        assert_eq!(inputs(&arguments).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn the_size_of_a_folder_is_that_of_its_files() {
        assert!(bytes_in(&root().join("xtask")) > 50_000);
        assert_eq!(bytes_in(Path::new("/no/such/folder")), 0);
    }
}
