//! The `mount` resource: a file system that is mounted while this node is active, and at no other time.
//!
//! What is mounted here while another node writes to the volume shows what was, and never what is; and what it holds back
//! must not reach the device later. So it is taken away before the node is anything but active: in order, as other
//! resources are stopped; by force, once whatever used it has been killed; and at the daemon's start, where an earlier one
//! was killed. Each instance of a volume's device is a new one, so that a file system that is still held by a forgotten
//! shell is never taken for the one that is mounted next.

use super::command::Runner;
use super::mountinfo;
use lease::time::Millis;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often one looks whether the device is there.
const POLL: Duration = Duration::from_millis(20);
/// Zeros at either end that make a device blank: every file system and partition table writes there.
const BLANK_BYTES: u64 = 1 << 20;
/// Mounts on top of each other that are taken away.
const LAYERS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device.
    pub source: PathBuf,
    /// The folder, made where it is missing.
    pub target: PathBuf,
    pub fstype: String,
    /// As `mount -o` takes them.
    pub options: Vec<String>,
    /// Makes the file system first, where the device is blank.
    pub make_filesystem: bool,
}

impl Mount {
    /// Waits for the device, and mounts it. The caller has a limit for all of it.
    ///
    /// # Errors
    /// Why it is not mounted, and what to do.
    pub(super) async fn start(&self, runner: &Runner<'_>, limit: Millis) -> Result<(), String> {
        let target = self.target.display();
        if let Some(there) = self.mounted()? {
            return Err(format!(
                "{} is mounted at {target} already: unmount it, nothing else may be there",
                there.source
            ));
        }
        while !self.source.exists() {
            tokio::time::sleep(POLL).await;
        }
        if self.make_filesystem && self.is_blank().await? {
            tracing::info!(device = %self.source.display(), fstype = self.fstype, "the device is blank: making a file system");
            // Nothing there is worth telling the disk to forget.
            let (make, keep) = match self.fstype.as_str() {
                "xfs" => ("mkfs.xfs", ["-K"].as_slice()),
                _ => ("mkfs.ext4", ["-E", "nodiscard"].as_slice()),
            };
            let mut words = vec![Path::new(make), Path::new("-q")];
            words.extend(keep.iter().map(Path::new));
            words.push(&self.source);
            runner.run(&words, limit).await.map_err(|error| error.to_string())?;
        }
        std::fs::create_dir_all(&self.target).map_err(|error| format!("{target} cannot be made: {error}"))?;
        let options = self.options.join(",");
        let mut words = vec![Path::new("mount"), Path::new("-t"), Path::new(&self.fstype)];
        if !options.is_empty() {
            words.extend([Path::new("-o"), Path::new(&options)]);
        }
        words.extend([self.source.as_path(), self.target.as_path()]);
        runner.run(&words, limit).await.map_err(|error| error.to_string())
    }

    /// Unmounts it. Where somebody outside the workload still uses it, what is written so far goes to the device, and it is
    /// taken from the tree; whoever holds it gets errors once the device is gone.
    ///
    /// # Errors
    /// Why it is still there.
    pub(super) async fn stop(&self, runner: &Runner<'_>, limit: Millis) -> Result<(), String> {
        while self.mounted()?.is_some() {
            if let Err(error) = runner.run(&[Path::new("umount"), &self.target], limit).await {
                tracing::warn!(target_folder = %self.target.display(), %error, "still in use: detaching it; whoever uses it gets errors from now on");
                runner
                    .run(&[Path::new("sync"), Path::new("-f"), &self.target], limit)
                    .await
                    .map_err(|error| error.to_string())?;
                self.detach(runner, limit).await?;
            }
        }
        Ok(())
    }

    /// Takes it from the tree, used or not. What it has not written is lost, or fails.
    ///
    /// # Errors
    /// Why it is still there.
    pub(super) async fn detach(&self, runner: &Runner<'_>, limit: Millis) -> Result<(), String> {
        for _ in 0..LAYERS_MAX {
            if self.mounted()?.is_none() {
                return Ok(());
            }
            let words = [Path::new("umount"), Path::new("--lazy"), &self.target];
            runner.run(&words, limit).await.map_err(|error| error.to_string())?;
        }
        Err(format!("{}: something mounts there again and again", self.target.display()))
    }

    /// Asks the kernel alone, so that it can be asked while the device stands still.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let target = self.target.display();
        let mount = self.mounted()?.ok_or_else(|| format!("nothing is mounted at {target}"))?;
        let has = |options: &str, option| options.split(',').any(|has| has == option);
        if has(&mount.options, "ro") && !self.options.iter().any(|options| has(options, "ro")) {
            return Err(format!("the kernel made {target} read-only after an error; dmesg says which"));
        }
        Ok(())
    }

    /// # Errors
    /// Where /proc cannot be read.
    pub(super) fn mounted(&self) -> Result<Option<mountinfo::Entry>, String> {
        // The kernel tells it without symbolic links.
        let target = std::fs::canonicalize(&self.target).unwrap_or_else(|_| self.target.clone());
        mountinfo::at(&target).map_err(|error| format!("/proc/self/mountinfo: {error}"))
    }

    async fn is_blank(&self) -> Result<bool, String> {
        let source = self.source.clone();
        // On a thread of its own: the device may stand still.
        let read = tokio::task::spawn_blocking(move || is_blank(&source)).await;
        read.map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(|error| format!("{} cannot be read: {error}", self.source.display()))
    }
}

/// # Errors
/// What the device says: whatever cannot be read is not blank.
fn is_blank(device: &Path) -> io::Result<bool> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    for start in [0, size.saturating_sub(BLANK_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        let mut read = Vec::new();
        file.by_ref().take(BLANK_BYTES).read_to_end(&mut read)?;
        if read.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn whatever_has_a_byte_at_either_end_is_not_blank() {
        let scratch = crate::state_dir::tests::Scratch::new();
        let path = scratch.path().join("disk");
        let file = File::create(&path).expect("made");
        assert!(!is_blank(&path).expect("read"), "nothing at all is no device");
        file.set_len(5 << 20).expect("grown");
        assert!(is_blank(&path).expect("read"));
        // XFS and ext4 begin at 0 and 1 KiB, a GUID partition table has a copy in the last sector.
        for at in [0, 1_080, (5 << 20) - 512] {
            file.write_all_at(b"x", at).expect("written");
            assert!(!is_blank(&path).expect("read"), "at {at}");
            file.write_all_at(b"\0", at).expect("written");
        }
        assert!(is_blank(&scratch.path().join("none")).is_err());
    }

    #[test]
    fn what_is_not_mounted_fails_its_check() {
        let scratch = crate::state_dir::tests::Scratch::new();
        let mount = |target: &Path, options: &str| Mount {
            source: "/dev/none".into(),
            target: target.into(),
            fstype: "ext4".into(),
            options: vec![options.into()],
            make_filesystem: false,
        };
        assert!(mount(scratch.path(), "").check().expect_err("an ordinary folder").contains("nothing is mounted"));
        assert_eq!(mount(Path::new("/proc"), "noatime").check(), Ok(()));
    }
}
