//! Whether the command of the children can be started, so that a wrong one is reported before a lease is taken.

use std::env;
use std::path::{Path, PathBuf};

/// Why this program cannot be started; `None`: it can, as far as its file shows.
pub(super) fn fault(program: &str) -> Option<String> {
    let places = places(program);
    let mut found = places.iter().filter(|place| place.is_file()).peekable();
    if found.peek().is_none() {
        let searched = if is_path(program) { "it does not exist" } else { "it is in no directory of PATH" };
        return Some(format!(
            "executableName: {program:?}: {searched}; install it, or give its path. Children inherit the working directory"
        ));
    }
    let is_startable = found.any(|place| is_executable(place));
    (!is_startable).then(|| {
        format!(
            "executableName: {program:?} is not executable; run `chmod +x` on it, or name its interpreter first, as in \
             `executableName = python3 {program}`"
        )
    })
}

fn is_path(program: &str) -> bool {
    program.contains(std::path::is_separator)
}

/// Where the operating system looks for it.
fn places(program: &str) -> Vec<PathBuf> {
    if is_path(program) {
        return vec![PathBuf::from(program)];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join(program)).collect()
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(_path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_not_executable_programs_are_named() {
        assert!(fault("no-such-program-here").is_some_and(|fault| fault.contains("PATH")));
        assert!(fault("./no/such/app.py").is_some_and(|fault| fault.contains("does not exist")));
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(fault(manifest).is_some_and(|fault| fault.contains("chmod +x")));
        assert_eq!(fault("sh"), None);
    }
}
