//! A volume's device where the kernel has no NBD client: nbdfuse makes a file of the volume, a loop device makes a device
//! of the file. For development and tests, by `leasehold node --dev`: it can deadlock when memory runs out.

use super::command::Runner;
use lease::time::Millis;
use std::ffi::OsStr;
use std::path::PathBuf;

/// For nbdfuse to be there, and to be gone.
pub(super) const LIMIT: Millis = Millis(10_000);

/// `$1`: the device. `$2`: the volume's socket. The loop device goes with the last who has it open: while nothing is mounted,
/// that is a process of ours. This shell has it open first: it is detached before that process has run.
const START: &str = r#"
mkdir -p "$1.nbdfuse"
nbdfuse "$1.nbdfuse/volume" --unix "$2" &
until [ -s "$1.nbdfuse/volume" ]; do sleep 0.02; done
loop=$(losetup --find --show "$1.nbdfuse/volume")
exec 9<"$loop"
sleep infinity <&9 9<&- &
echo $! >"$1.holder"
losetup --detach "$loop"
ln -sfn "$loop" "$1"
"#;

/// Also what an earlier daemon left, all of whose processes are dead.
const STOP: &str = r#"
if loop=$(readlink "$1") && holder=$(cat "$1.holder") && [ "$(readlink "/proc/$holder/fd/0")" = "$loop" ]; then
    kill "$holder"
    for _ in $(seq 100); do [ -e "/sys/block/${loop##*/}/loop" ] || break; sleep 0.02; done
fi
rm -f "$1" "$1.holder"
umount "$1.nbdfuse" 2>/dev/null || umount --lazy "$1.nbdfuse" 2>/dev/null || true
"#;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    /// Where it is found: a symbolic link to the loop device. Beside it, nbdfuse's folder.
    pub device: PathBuf,
    /// The volume's NBD server.
    pub socket: PathBuf,
}

impl LoopDevice {
    /// # Errors
    /// What the commands said.
    pub(super) async fn start(&self, runner: &Runner<'_>) -> Result<(), String> {
        self.run(runner, START).await
    }

    /// Succeeds twice.
    ///
    /// # Errors
    /// What the commands said.
    pub(super) async fn stop(&self, runner: &Runner<'_>) -> Result<(), String> {
        self.run(runner, STOP).await
    }

    async fn run(&self, runner: &Runner<'_>, script: &str) -> Result<(), String> {
        let shell = ["/bin/sh", "-eu", "-c", script, "nbdfuse"].map(OsStr::new);
        let words = [shell.as_slice(), &[self.device.as_os_str(), self.socket.as_os_str()]].concat();
        runner.run(&words, LIMIT).await.map_err(|error| error.to_string())
    }
}
