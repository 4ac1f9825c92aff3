//! One command of a resource: in its cgroup, within its limit, with an environment that is written down and nothing else.

use super::Surroundings;
use super::cgroup::Cgroup;
use lease::ids::Epoch;
use lease::time::Millis;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Child;

/// What is kept of a command's output, for the reason that it failed.
const OUTPUT_KEPT_BYTES: usize = 2 * 1024;
/// Output is read this much at a time, and then not for a while: at most 1.6 MB/s, in a hundred reads. A process that
/// floods its output waits for the pipe, as on a slow terminal, and takes next to no time from this daemon.
const OUTPUT_READ_BYTES: usize = 16 * 1024;
const OUTPUT_PAUSE: Millis = Millis(10);
/// PATH of every command.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command did not do what it was asked. The text names no resource: whoever reports it does.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{command}: cannot be started: {error}")]
    NotStarted { command: String, error: std::io::Error },
    #[error("{command}: {ending}{}", said(output))]
    Failed { command: String, ending: String, output: String },
    #[error("{command}: not done within {limit}{}", said(output))]
    TooSlow { command: String, limit: Millis, output: String },
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said: {output}") }
}

/// Where a resource's commands run, and what they are told.
#[derive(Clone, Copy, Debug)]
pub struct Runner<'a> {
    pub cgroup: &'a Cgroup,
    pub resource: &'a str,
    /// Of the start or the check; a stop has none.
    pub epoch: Option<Epoch>,
    pub around: &'a Surroundings,
}

impl Runner<'_> {
    /// Runs `words` inside the cgroup and waits for its end, for at most `limit`. What it leaves running stays in the cgroup;
    /// after an error that may be the command itself: the caller clears the cgroup.
    ///
    /// # Errors
    /// [`CommandError`], with the end of the output.
    pub async fn run(&self, words: &[impl AsRef<OsStr>], limit: Millis) -> Result<(), CommandError> {
        let command = words.iter().map(|word| shown(word.as_ref())).collect::<Vec<_>>().join(" ");
        let (mut child, read) =
            self.spawn(words).map_err(|error| CommandError::NotStarted { command: command.clone(), error })?;
        let output = Arc::new(Mutex::new(Tail::default()));
        // Outlives the command: what it leaves running may hold the pipe, and must not die of a closed one.
        tokio::spawn(drain(read, Arc::clone(&output)));
        match tokio::time::timeout(limit.into(), child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                // The last words may still be in the pipe.
                tokio::time::sleep(Millis(2 * OUTPUT_PAUSE.0).into()).await;
                let ending = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
                };
                Err(CommandError::Failed { command, ending, output: kept(&output) })
            }
            Ok(Err(error)) => Err(CommandError::NotStarted { command, error }),
            Err(_) => Err(CommandError::TooSlow { command, limit, output: kept(&output) }),
        }
    }

    fn spawn(&self, words: &[impl AsRef<OsStr>]) -> std::io::Result<(Child, pipe::Receiver)> {
        let (read, write) = std::io::pipe()?;
        let Surroundings { cluster, node, virtual_ips, launcher } = self.around;
        let mut process = tokio::process::Command::new(launcher);
        process.arg("launch").arg("--cgroup").arg(self.cgroup.path()).arg("--").args(words);
        process.env_clear().env("PATH", PATH);
        process.env("LEASEHOLD_CLUSTER", cluster.as_str()).env("LEASEHOLD_NODE", node.as_str());
        process.env("LEASEHOLD_RESOURCE", self.resource);
        let addresses: Vec<String> = virtual_ips.iter().map(ToString::to_string).collect();
        process.env("LEASEHOLD_VIRTUAL_IPS", addresses.join(" "));
        if let Some(epoch) = self.epoch {
            process.env("LEASEHOLD_EPOCH", epoch.to_string());
        }
        process.current_dir("/").stdin(Stdio::null());
        process.stdout(write.try_clone()?).stderr(write);
        process.kill_on_drop(true);
        Ok((process.spawn()?, pipe::Receiver::from_owned_fd(read.into())?))
    }
}

/// For a message of one line: of a script in an argument, no more than that there is one.
fn shown(word: &OsStr) -> Cow<'_, str> {
    let text = word.to_string_lossy();
    if text.contains('\n') { "(a script)".into() } else { text }
}

/// Becomes the command `words` inside `cgroup`. Returns only where that fails.
///
/// A program of its own between fork and exec, because code in a forked child of a threaded process must not allocate;
/// and this way no process of the workload ever exists outside the cgroup.
///
/// # Errors
/// What the kernel says.
pub fn launch(cgroup: &Path, words: &[String]) -> std::io::Error {
    if let Err(error) = std::fs::write(cgroup.join("cgroup.procs"), "0") {
        return std::io::Error::new(error.kind(), format!("cannot enter cgroup {}: {error}", cgroup.display()));
    }
    close_inherited();
    stand_before_the_daemon();
    // A session of its own: no terminal's signals, and none from this daemon's group.
    let _ = nix::unistd::setsid();
    let Some((program, arguments)) = words.split_first() else {
        return std::io::Error::other("no command was given");
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    std::io::Error::new(error.kind(), format!("{program}: {error}"))
}

/// The kernel that must kill for memory takes the workload before the daemon, which has to be there to stop it. The unit
/// gives the daemon a low score, which children inherit: the workload's is above it, and not below an ordinary process's.
fn stand_before_the_daemon() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let daemons = std::fs::read_to_string(SCORE).ok().and_then(|score| score.trim().parse::<i32>().ok());
    let Some(score) = daemons.map(|score| (score + 1).clamp(0, 1_000)) else { return };
    if let Err(error) = std::fs::write(SCORE, score.to_string()) {
        // Into the command's own output: it runs all the same.
        eprintln!("{SCORE}: {error}; killed for want of memory no sooner than the daemon");
    }
}

/// Closes every descriptor but the standard ones. This program's own are closed by exec; what is closed here is what
/// whoever started the daemon left open.
fn close_inherited() {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The directory's own is gone by now.
        let _ = nix::unistd::close(fd);
    }
}

/// The end of an output.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(OUTPUT_KEPT_BYTES)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(OUTPUT_KEPT_BYTES);
        self.0.drain(..over);
        self.0.extend(bytes);
    }
}

fn kept(output: &Mutex<Tail>) -> String {
    let bytes: Vec<u8> = output.lock().expect("no thread panics while it holds this").0.iter().copied().collect();
    String::from_utf8_lossy(&bytes).trim().replace('\n', " | ")
}

async fn drain(mut reader: pipe::Receiver, output: Arc<Mutex<Tail>>) {
    let mut buffer = vec![0; OUTPUT_READ_BYTES];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => output.lock().expect("no thread panics while it holds this").push(&buffer[..read]),
        }
        tokio::time::sleep(OUTPUT_PAUSE.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_an_output_is_kept() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; 10 * OUTPUT_KEPT_BYTES]);
        tail.push(b"the end");
        assert_eq!(tail.0.len(), OUTPUT_KEPT_BYTES);
        assert!(tail.0.iter().copied().collect::<Vec<_>>().ends_with(b"athe end"));
    }

    #[test]
    fn a_script_does_not_fill_a_message() {
        assert_eq!(shown(OsStr::new("-c")), "-c");
        assert_eq!(shown(OsStr::new("\nmkdir x\nls")), "(a script)");
    }
}
