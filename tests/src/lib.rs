//! What the contract tests stand on: the repository's files, and the local cloud as a child process.
//!
//! The stories that need whole nodes, a network and functions are in `tests/scenarios` (Python).

pub mod cloud;
pub mod example;

use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the repository").to_owned()
}

/// A JSON file of the repository.
#[must_use]
pub fn json(path: &str) -> serde_json::Value {
    let path = repository().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
