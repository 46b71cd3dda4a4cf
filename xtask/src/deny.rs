//! Checks licences, advisories, sources and duplicate versions of the dependencies with `cargo deny`.

use crate::process::{Outcome, command, root};

/// The version that is installed if there is none.
const VERSION: &str = "0.20.2";

/// Runs `cargo deny`, after installing it into `target/tools` if it is absent. Advisories need a database from the network. If it
/// cannot be fetched, that part is left out with a message.
pub(crate) fn check() -> Outcome {
    let program = find_or_install()?;
    command(&program).args(["--all-features", "check", "bans", "licenses", "sources"]).run()?;
    let fetched = command(&program).args(["--all-features", "fetch", "db"]).output();
    match fetched {
        Ok(_) => command(&program).args(["--all-features", "check", "--disable-fetch", "advisories"]).run(),
        Err(error) => {
            println!(
                "LEFT OUT: advisories, because their database could not be fetched: {}",
                last_line(&error)
            );
            Ok(())
        }
    }
}

fn find_or_install() -> Outcome<String> {
    let local = root().join("target/tools/bin/cargo-deny");
    for candidate in ["cargo-deny".to_owned(), local.to_string_lossy().into_owned()] {
        if command(&candidate).args(["--version"]).output().is_ok() {
            return Ok(candidate);
        }
    }
    println!("building cargo-deny {VERSION}; this takes minutes once ...");
    // Unoptimised: it builds in a fraction of the time and checks this tree in seconds all the same.
    let arguments =
        ["install", "--debug", "--locked", "--root", "target/tools", "--version", VERSION, "cargo-deny"];
    command("cargo").args(arguments).run()?;
    Ok(local.to_string_lossy().into_owned())
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim()
}
