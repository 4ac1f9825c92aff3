//! What decides is pure: same inputs, same answer, in the daemon, in a function, in a model. No clock, randomness, I/O or
//! runtime is named in these files.

use std::path::{Path, PathBuf};

/// Pure files and folders; beside each, what in it is exempt.
const PURE: [(&str, &[&str]); 14] = [
    ("lease/src", &["table.rs", "table"]),
    ("lambdas/src/decide.rs", &[]),
    ("lambdas/src/decide", &[]),
    ("lambdas/src/routing.rs", &[]),
    ("lambdas/src/routing", &[]),
    ("sidecar/node/src", &[]),
    ("sidecar/bridge/src", &[]),
    ("sidecar/volume/src/ids.rs", &[]),
    ("sidecar/volume/src/wire", &[]),
    ("sidecar/volume/src/metadata", &[]),
    // Tests: one measures, one is told its seeds from outside.
    ("sidecar/volume/src/core", &["core/pace.rs", "sim/tests.rs"]),
    ("sidecar/volume/src/nbd/handshake.rs", &[]),
    ("sidecar/volume/src/nbd/spec.rs", &[]),
    ("sidecar/volume/src/nbd/transmission.rs", &[]),
];

/// What is banned, as a run of letters that no other word may touch on its left.
const IMPURE: [&str; 24] = [
    "tokio",
    "aws_",
    "futures",
    "reqwest",
    "rustls",
    "nix",
    "rtnetlink",
    "getrandom",
    "rand",
    "tracing",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::io",
    "std::process",
    "std::thread",
    "std::sync",
    "std::time::",
    "net::Tcp",
    "net::Udp",
    "async fn",
    "unsafe",
    "static mut",
];
/// Types of `std::time` that only measure.
const MEASURES: &str = "std::time::Duration";

/// The banned words in a source, each with its line. Comments do not count.
fn impurities(source: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default().replace(MEASURES, "");
        for word in IMPURE {
            let banned = code.match_indices(word).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
                    && !is_longer_name(&code[at + word.len()..], word)
            });
            if banned {
                found.push((number + 1, word));
            }
        }
    }
    found
}

/// `rand` does not ban `random_order`; `aws_` and paths ban whatever follows.
fn is_longer_name(rest: &str, word: &str) -> bool {
    let prefix = word.ends_with(['_', ':']) || word.contains("::");
    !prefix && rest.chars().next().is_some_and(|next| next.is_alphanumeric() || next == '_')
}

fn sources(path: &Path, exempt: &[&str]) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| !exempt.iter().any(|name| path.ends_with(name)))
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path, exempt)
            } else if path.extension().is_some_and(|end| end == "rs") {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect()
}

#[test]
fn what_decides_is_pure() {
    let mut impure = Vec::new();
    let mut files = 0;
    for (path, exempt) in PURE {
        for file in sources(&tests::repository().join(path), exempt) {
            files += 1;
            let source = std::fs::read_to_string(&file).expect("a readable source");
            let lines = impurities(&source);
            impure.extend(lines.iter().map(|(line, word)| format!("{}:{line}: {word}", file.display())));
        }
    }
    assert!(impure.is_empty(), "time, chance and I/O are passed in as values:\n{}", impure.join("\n"));
    assert!(files > 20, "only {files} files were looked at");
}

#[test]
fn the_check_sees_what_it_should_and_no_more() {
    let source = "use tokio::time;\nlet t = std::time::Instant::now();\nlet d = std::time::Duration::ZERO; // tokio\n\
                  let operand = random_order;\nuse aws_sdk_dynamodb::Client;\nlet r = rand::random();\n";
    let lines: Vec<usize> = impurities(source).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [1, 2, 2, 5, 6]);
}
