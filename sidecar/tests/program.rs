//! The program as an operator meets it: its verbs, its words, its exit codes.

#![allow(clippy::disallowed_methods, reason = "a test of a process waits for it")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn leasehold(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leasehold")).args(arguments).output().expect("the program")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of this test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("leasehold-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("written");
        Self(path)
    }
    fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_version_is_told() {
    let output = leasehold(&["--version"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("leasehold {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_shipped_example_passes_its_check() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/node.toml");
    let output = leasehold(&["node", "--config", example, "--check"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "node a of cluster web: the configuration is good\n");
}

#[test]
fn every_mistake_is_told_with_file_and_key_and_the_daemon_does_not_start() {
    let file = Scratch::new("bad.toml", "cluster = 'web'\nnode = 'A'\nbus = 'b'\n[peer]\nlisten = 'here'\n");
    for arguments in [vec!["node", "--config", file.path()], vec!["node", "--config", file.path(), "--check"]] {
        let output = leasehold(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let told = stderr(&output);
        for part in ["node = \"A\"", "table is missing", "peer.listen = \"here\""] {
            assert!(told.contains(&format!("{}: {part}", file.path())), "{part} in:\n{told}");
        }
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let file = Scratch::new("torn.toml", "cluster = 'web'\nnode = \n");
    let told = stderr(&leasehold(&["node", "--config", file.path(), "--check"]));
    assert!(told.contains("not TOML") && told.contains("line 2"), "{told}");
}

#[test]
fn status_without_a_daemon_says_what_to_look_for() {
    let output = leasehold(&["status", "--socket", "/nonexistent/node.sock"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is the daemon running, and is this its [admin].socket?"), "{}", stderr(&output));
}

/// A daemon whose instance metadata never answers. Needs root, as the daemon does.
#[test]
fn a_daemon_that_waits_says_what_for_and_a_second_one_leaves_it_alone() {
    let folder = std::env::temp_dir().join(format!("leasehold-waiting-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let socket = folder.join("node.sock").display().to_string();
    let config = Scratch::new(
        "waiting.toml",
        &format!(
            "cluster = 'web'\nnode = 'a'\ntable = 't'\nbus = 'b'\nstate_dir = '{0}'\n[peer]\nlisten = '127.0.0.1:0'\n\
             [address]\ninterface = 'lo'\n[admin]\nsocket = '{socket}'\n",
            folder.display()
        ),
    );
    let daemon = || {
        Command::new(env!("CARGO_BIN_EXE_leasehold"))
            .args(["node", "--config", config.path()])
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program")
    };
    let mut first = daemon();
    let until = Instant::now() + Duration::from_secs(20);
    let (code, screen) = loop {
        let output = leasehold(&["status", "--socket", &socket]);
        let screen = String::from_utf8_lossy(&output.stdout).into_owned();
        // With the problem of a first try, not only with what is tried.
        if screen.contains("!!") || Instant::now() > until {
            break (output.status.code(), screen);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let second = daemon().wait_with_output().expect("ended");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(first.id()).expect("a process id")),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("told to end");
    let ended = first.wait().expect("ended");
    let _ = std::fs::remove_dir_all(&folder);
    assert!(screen.starts_with("web   a has been waiting for instance metadata for "), "{screen}");
    assert_eq!(code, Some(2), "something needs an operator");
    assert!(stderr(&second).contains("a socket of another daemon that still answers"), "{}", stderr(&second));
    assert!(ended.success(), "nothing was started yet: {ended}");
}

#[test]
fn a_launch_outside_any_cgroup_starts_nothing() {
    let output = leasehold(&["launch", "--cgroup", "/nonexistent", "--", "/bin/echo", "started"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains("cannot enter cgroup /nonexistent"), "{}", stderr(&output));
}
