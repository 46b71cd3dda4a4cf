//! Fuzzing by coverage: builds `fuzz/` with libFuzzer and runs each target for a while.
//!
//! libFuzzer is linked as a library and coverage is a pass of the compiler, so a stable toolchain is enough. A C++ compiler is
//! needed. New inputs go to `target/fuzz`; the tasks never write to the corpus in the tree.

use std::fs;
use std::process::Command;

use crate::process::{Outcome, command, root, target_directory};

/// Compiler flags that count the edges reached and trace comparisons.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// The most memory of a run, in MiB; an input that needs more breaks its property.
const MEMORY_LIMIT_MIB: u32 = 1024;

/// The most memory of one allocation, in MiB.
const ALLOCATION_LIMIT_MIB: u32 = 64;

/// The largest input, in bytes.
const MAX_INPUT_BYTES: u32 = 4096;

/// The time limit of one input, in seconds.
const INPUT_TIME_LIMIT_SECONDS: u32 = 10;

/// How many lines of a failed run are shown: the panic and the path of the input.
const SHOWN_LINES: usize = 40;

/// The targets that need the feature `aws`.
const NEEDS_AWS: [&str; 3] = ["aws_settings", "get_records", "lease_row"];

/// Which targets are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The targets that need no crate of AWS, as in `ci`: the crates of AWS take minutes to build.
    WithoutAws,
    /// All targets.
    All,
}

/// Runs all targets of a form, or those whose name contains the text, for this many seconds each.
pub(crate) fn run(form: Form, seconds: u32, only: Option<&str>) -> Outcome {
    if let Err(why) = cpp_compiler() {
        println!(
            "LEFT OUT: fuzzing by coverage: libFuzzer needs a C++ compiler: {why}. The bounded runs in `cargo test -p fuzzing` need none"
        );
        return Ok(());
    }
    let chosen: Vec<String> =
        targets(form)?.into_iter().filter(|target| only.is_none_or(|only| target.contains(only))).collect();
    if chosen.is_empty() {
        return Err(format!("there is no target {:?}", only.unwrap_or_default()));
    }
    println!("building {} fuzz targets with coverage; the first build takes minutes ...", chosen.len());
    let program = build(form)?;
    for (number, target) in chosen.iter().enumerate() {
        println!("[{}/{}] {target}: {seconds} s ...", number + 1, chosen.len());
        fuzz(&program, target, seconds)?;
    }
    Ok(())
}

fn cpp_compiler() -> Outcome {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    command(&compiler).args(["--version"]).output().map(drop)
}

/// The names of a form's targets; each has a directory of seeds.
fn targets(form: Form) -> Outcome<Vec<String>> {
    let listed = fs::read_dir(root().join("fuzz/corpus")).map_err(|error| format!("fuzz/corpus: {error}"))?;
    let mut names: Vec<String> = listed
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| form == Form::All || !NEEDS_AWS.contains(&name.as_str()))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds the program and returns its path.
fn build(form: Form) -> Outcome<String> {
    let host = host()?;
    let directory = target_directory().join("fuzz");
    // `--target` keeps the flags away from build scripts and macros.
    let mut build = command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["build", "--manifest-path", "fuzz/Cargo.toml", "--target", &host])
        .args(["--target-dir", &directory.to_string_lossy()]);
    if form == Form::All {
        build = build.args(["--features", "aws"]);
    }
    build.env("RUSTFLAGS", COVERAGE).run()?;
    Ok(directory.join(host).join("debug/kinesis-streaming-fuzz").to_string_lossy().into_owned())
}

fn host() -> Outcome<String> {
    let version = command("rustc").args(["-vV"]).output()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "`rustc -vV` printed no line `host: ...`".to_owned())
}

/// Runs one target. An input that breaks its property is reported with the next steps.
fn fuzz(program: &str, target: &str, seconds: u32) -> Outcome {
    let found = target_directory().join("fuzz/corpus").join(target);
    let broken = target_directory().join("fuzz/broken").join(target);
    for directory in [&found, &broken] {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let seeds = format!("fuzz/corpus/{target}");
    println!("$ FUZZ_TARGET={target} {program} -max_total_time={seconds} ...");
    let run = Command::new(program)
        .current_dir(root())
        .env("FUZZ_TARGET", target)
        .args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={MAX_INPUT_BYTES}"),
            format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"),
            format!("-malloc_limit_mb={ALLOCATION_LIMIT_MIB}"),
            format!("-timeout={INPUT_TIME_LIMIT_SECONDS}"),
            format!("-artifact_prefix={}/", broken.display()),
        ])
        // libFuzzer writes new inputs to the first directory and only reads the second.
        .args([&found, &root().join(&seeds)])
        .output()
        .map_err(|error| format!("`{program}` could not be started: {error}"))?;
    let log = String::from_utf8_lossy(&run.stderr);
    if run.status.success() {
        println!("{target}: {}", summary(&log));
        return Ok(());
    }
    let end = log.lines().rev().take(SHOWN_LINES).collect::<Vec<_>>();
    let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
    let broken = broken.display();
    Err(format!(
        "{end}\n{target} breaks its property; fix the cause, and keep the input as a seed under a name that describes it: \
         mv {broken}/... {seeds}/..."
    ))
}

/// Executions and coverage, from the output of libFuzzer.
fn summary(log: &str) -> String {
    let last = log.lines().rfind(|line| line.contains(" cov: ")).unwrap_or_default();
    let words: Vec<&str> = last.split_whitespace().collect();
    let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
    let executions = words.first().map_or("0", |word| word.trim_start_matches('#'));
    let (edges, features) = (after("cov:").unwrap_or(&"0"), after("ft:").unwrap_or(&"0"));
    format!("{executions} executions, {edges} edges and {features} features reached")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_from_the_last_line_with_coverage() {
        let log = "#2\tINITED cov: 5 ft: 6 corp: 1/1b\n#99\tDONE   cov: 1203 ft: 4410 corp: 391/60Kb lim: 200\nDone 99 runs\n";
        assert_eq!(summary(log), "99 executions, 1203 edges and 4410 features reached");
    }

    #[test]
    fn every_target_that_needs_aws_has_a_corpus() {
        let all = targets(Form::All).unwrap();
        assert!(NEEDS_AWS.iter().all(|name| all.iter().any(|target| target == name)), "{all:?}");
        assert_eq!(targets(Form::WithoutAws).unwrap().len() + NEEDS_AWS.len(), all.len());
    }
}
