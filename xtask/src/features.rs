//! Checks which crates each feature brings into the dependency tree.

use std::collections::BTreeSet;

use crate::process::{Outcome, cargo};

/// Prefixes of crates that talk to AWS, or that only such crates need.
const AWS_PREFIXES: [&str; 4] = ["aws-", "hyper", "rustls", "http-body"];

/// Features that write to a store of the user's choice.
const STORE_FEATURES: [(&str, &str); 2] =
    [("state", "kinesis-processor-state"), ("storage", "kinesis-storage-buffer")];

/// Features of `kinesis-asl` that are on by default, with a crate that only the feature brings. The facade has the same features.
const LIGHT_BUILD_FEATURES: [(&str, &str); 4] = [
    ("cloudwatch", "aws-sdk-cloudwatch"),
    ("dynamodb", "aws-sdk-dynamodb"),
    ("sso", "aws-sdk-sso"),
    // The process itself is in tokio; this is how tokio learns of its end.
    ("credentials-process", "signal-hook-registry"),
];

/// Whether the default features of a package are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defaults {
    Included,
    LeftOut,
}

/// Packages that need AWS, each with the features that it is compiled with. Only `cloudwatch` and `dynamodb` leave out source files.
const LIGHT_BUILDS: [(&str, Defaults, &str); 7] = [
    ("kinesis-asl", Defaults::LeftOut, ""),
    ("kinesis-asl", Defaults::LeftOut, "kinesis-asl/cloudwatch"),
    ("kinesis-asl", Defaults::LeftOut, "kinesis-asl/dynamodb"),
    ("kinesis-streaming", Defaults::LeftOut, "kinesis-streaming/kinesis-asl"),
    ("kinesis-streaming", Defaults::LeftOut, "kinesis-streaming/kinesis-asl,kinesis-streaming/cloudwatch"),
    ("kinesis-streaming", Defaults::Included, "kinesis-streaming/kinesis-asl"),
    ("kinesis-lease-store", Defaults::Included, "kinesis-lease-store/dynamodb"),
];

/// The package that gives third-party crates the same features in every check.
const THIRD_PARTY: &str = "third-party";

/// Packages that depend on no AWS crate without features.
const WITHOUT_AWS: [&str; 13] = [
    "kinesis-lease-store",
    "kinesis-checkpointer",
    "kinesis-shard-worker",
    "kinesis-receiver",
    "kinesis-processor-state",
    "kinesis-storage-buffer",
    "kinesis-multilang",
    "kinesis-fleet-view",
    "kinesis-streaming",
    "examples",
    "end-to-end-tests",
    "simulation",
    "fuzzing",
];

/// Checks that the default build has no AWS crate and that `kinesis-asl` brings them, and compiles each feature set.
pub(crate) fn check() -> Outcome {
    for package in WITHOUT_AWS {
        let crates = dependencies(package, &[])?;
        if let Some(found) = crates.iter().find(|name| is_aws(name)) {
            return Err(format!(
                "{package} without features depends on {found}; only a feature may bring an AWS crate"
            ));
        }
        println!("{package}: {} crates, none of AWS", crates.len());
    }
    let crates = dependencies("kinesis-streaming", &["--features", "kinesis-asl"])?;
    for expected in ["aws-sdk-kinesis", "aws-sdk-dynamodb", "aws-config"] {
        if !crates.contains(expected) {
            return Err(format!("kinesis-streaming with kinesis-asl lacks {expected}"));
        }
    }
    println!("kinesis-streaming with kinesis-asl: {} crates", crates.len());
    check_stores()?;
    check_light_builds()?;
    // `backoff` is unmaintained, so only one crate may depend on it.
    let users = cargo("tree --workspace --all-features --invert backoff --depth 1 --prefix none").output()?;
    let users: BTreeSet<&str> = users.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    if users != BTreeSet::from(["kinesis-checkpointer"]) {
        return Err(format!("only kinesis-checkpointer may use backoff, but these do: {users:?}"));
    }
    for features in ["", " --features conformance"] {
        cargo(&format!("check --quiet --package kinesis-lease-store{features}")).run()?;
    }
    for features in
        ["", " --no-default-features --features http", " --no-default-features --features metrics"]
    {
        cargo(&format!("check --quiet --package kinesis-streaming{features}")).run()?;
    }
    cargo("check --quiet --package examples --features service").run()
}

/// Each default feature of `kinesis-asl` can be left out: its crates are absent then, and what remains compiles.
fn check_light_builds() -> Outcome {
    // No feature, each one alone, and all but one.
    let names = LIGHT_BUILD_FEATURES.map(|(name, _)| name);
    let mut sets = vec![Vec::new(), names.to_vec()];
    sets.extend(names.map(|name| vec![name]));
    sets.extend(names.map(|left_out| names.into_iter().filter(|name| *name != left_out).collect()));
    for set in sets {
        let features = set.join(",");
        let of_asl = dependencies("kinesis-asl", &["--no-default-features", "--features", &features])?;
        for (name, brings) in LIGHT_BUILD_FEATURES {
            if set.contains(&name) != of_asl.contains(brings) {
                return Err(format!(
                    "kinesis-asl with the features {features:?}: {brings} must be part of it exactly with {name}"
                ));
            }
        }
        let facade_features = format!("kinesis-asl,{features}");
        let facade_features = facade_features.trim_end_matches(',');
        let of_facade =
            dependencies("kinesis-streaming", &["--no-default-features", "--features", facade_features])?;
        println!(
            "features {features:?}: kinesis-asl {} crates, kinesis-streaming with kinesis-asl {}",
            of_asl.len(),
            of_facade.len()
        );
    }
    let whole = third_party(&["--workspace", "--all-features", "--edges", "normal,build,dev"])?;
    for (package, defaults, features) in LIGHT_BUILDS {
        let mut selection = vec!["--package", THIRD_PARTY, "--package", package];
        if defaults == Defaults::LeftOut {
            selection.push("--no-default-features");
        }
        if !features.is_empty() {
            selection.extend(["--features", features]);
        }
        // Otherwise cargo would compile all crates of AWS once for each check.
        let alone = third_party(&[&selection[..], &["--edges", "normal,build"]].concat())?;
        let others: Vec<&String> = alone.difference(&whole).collect();
        if !others.is_empty() {
            return Err(format!(
                "with {package} alone these crates have other features than in the whole workspace; give \
                 tests/third-party/Cargo.toml the dependency that switches theirs on: {others:?}"
            ));
        }
        cargo("check --quiet").args(selection).run()?;
    }
    Ok(())
}

/// The third-party crates of a selection, each with its features.
fn third_party(selection: &[&str]) -> Outcome<BTreeSet<String>> {
    let tree = cargo("tree --prefix none --format").args(["{p} {f}"]).args(selection).output()?;
    // Packages of the workspace have their path in parentheses.
    let lines = tree.lines().map(|line| line.replace(" (*)", "").replace(" (proc-macro)", ""));
    Ok(lines.filter(|line| !line.contains('(')).collect())
}

/// The features `storage` and `state` bring `object_store` without any cloud's client.
fn check_stores() -> Outcome {
    let without = dependencies("kinesis-streaming", &[])?;
    if without.contains("object_store") {
        return Err("kinesis-streaming without features depends on object_store".to_owned());
    }
    for (feature, package) in STORE_FEATURES {
        let with = dependencies("kinesis-streaming", &["--features", feature])?;
        if !with.contains("object_store") {
            return Err(format!("kinesis-streaming with {feature} lacks object_store"));
        }
        if let Some(found) = with.iter().find(|name| is_aws(name)) {
            return Err(format!(
                "kinesis-streaming with {feature} depends on {found}; the application brings the client of its store"
            ));
        }
        let more = with.len() - without.len();
        println!("kinesis-streaming with {feature}: {} crates, {more} more, none of AWS", with.len());
        cargo("check --quiet").args(["--package", package]).run()?;
        cargo("check --quiet --package kinesis-streaming").args(["--features", feature]).run()?;
    }
    Ok(())
}

fn is_aws(name: &str) -> bool {
    AWS_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The names of all crates that a package is built from, including the package.
fn dependencies(package: &str, features: &[&str]) -> Outcome<BTreeSet<String>> {
    let tree =
        cargo("tree --edges normal --prefix none --format {p}").args(["--package", package]).args(features);
    let tree = tree.output()?;
    Ok(tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::is_aws;

    #[test]
    fn aws_crates_are_known_by_prefix() {
        assert!(is_aws("aws-sdk-kinesis") && is_aws("aws-smithy-types") && is_aws("hyper-rustls"));
        assert!(!is_aws("tokio") && !is_aws("bytes") && !is_aws("kinesis-streaming"));
    }
}
