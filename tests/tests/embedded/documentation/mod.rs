//! The documentation against the code: the configuration reference is written from the settings, and each default that a doc
//! comment states is the real one.
//!
//! To update `docs/configuration.md`:
//! `UPDATE_DOCS=1 cargo test --workspace --all-features --test embedded documentation::`

#[cfg(feature = "wire")]
mod aws_settings;
mod defaults;
mod permissions;
mod settings;
mod source;
mod stated;

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Held while a test reads and writes the reference, which several tests do.
static REFERENCE: Mutex<()> = Mutex::new(());

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Compares a part of `docs/configuration.md` with what it should contain, or writes it with `UPDATE_DOCS`.
fn check_part(name: &str, expected: &str) {
    const DOCUMENT: &str = "docs/configuration.md";
    let _held = REFERENCE.lock().unwrap_or_else(PoisonError::into_inner);
    let document = read(DOCUMENT);
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = document.split_once(&begin).unwrap_or_else(|| panic!("{DOCUMENT} lacks {begin}"));
    let (shown, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{DOCUMENT} lacks {end}"));
    let expected = format!("\n{expected}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file(DOCUMENT), format!("{before}{begin}{expected}{end}{after}")).unwrap();
        return;
    }
    assert!(
        shown == expected,
        "the part {name} of {DOCUMENT} differs from the code; update it with\n\
         UPDATE_DOCS=1 cargo test --workspace --all-features --test embedded documentation::\n{expected}"
    );
}
