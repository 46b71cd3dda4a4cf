//! Nothing but dependencies: see its `Cargo.toml`.
