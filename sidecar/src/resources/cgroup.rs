//! Control groups, version 2: where processes cannot hide from being ended.

use super::mountinfo;
use lease::time::Millis;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How often the kernel is asked whether the last process is gone.
const POLL: Millis = Millis(10);

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "no cgroup v2 hierarchy is mounted (looked in /proc/self/mountinfo); mount one: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NoHierarchy,
    #[error("{}: not in a cgroup v2 hierarchy (no cgroup.procs); set [workload].cgroup to a path inside one", path.display())]
    NotCgroup { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: processes {left:?} are left {limit} after they were killed; they hang in the kernel", path.display())]
    Stuck { path: PathBuf, left: Vec<i32>, limit: Millis },
}

/// A cgroup that this daemon owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, made where it is missing.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn ensure(path: &Path) -> Result<Self, CgroupError> {
        std::fs::create_dir_all(path).map_err(|error| CgroupError::Io { path: path.to_owned(), error })?;
        if !path.join("cgroup.procs").exists() {
            // Not ours to leave behind: a directory in an ordinary file system.
            let _ = std::fs::remove_dir(path);
            return Err(CgroupError::NotCgroup { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// # Errors
    /// [`CgroupError`].
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        Self::ensure(&self.path.join(name))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a process lives in it or below it.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn populated(&self) -> Result<bool, CgroupError> {
        let events = self.read("cgroup.events")?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Kills every process in it and below it, also those being made right now.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        match std::fs::write(self.path.join("cgroup.kill"), "1") {
            Ok(()) => Ok(()),
            // Before Linux 5.14 there is no such file.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                for pid in self.processes() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                Ok(())
            }
            Err(error) => Err(CgroupError::Io { path: self.path.join("cgroup.kill"), error }),
        }
    }

    /// Kills until nothing is left.
    ///
    /// # Errors
    /// [`CgroupError::Stuck`] where something is left after `limit`.
    pub async fn clear(&self, limit: Millis) -> Result<(), CgroupError> {
        let cleared = tokio::time::timeout(limit.into(), async {
            while self.populated()? {
                // Again each time: without cgroup.kill a fork may have slipped through.
                self.kill()?;
                tokio::time::sleep(POLL.into()).await;
            }
            Ok(())
        });
        match cleared.await {
            Ok(result) => result,
            Err(_) => Err(CgroupError::Stuck { path: self.path.clone(), left: self.processes(), limit }),
        }
    }

    /// Waits until nothing is left by itself. Does not kill.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub async fn empty(&self) -> Result<(), CgroupError> {
        while self.populated()? {
            tokio::time::sleep(POLL.into()).await;
        }
        Ok(())
    }

    /// Processes in it and below it; those that end meanwhile may be missing.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut found: Vec<i32> =
            self.read("cgroup.procs").unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect();
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(Self { path: entry.path() }.processes());
            }
        }
        found
    }

    fn read(&self, file: &str) -> Result<String, CgroupError> {
        let path = self.path.join(file);
        std::fs::read_to_string(&path).map_err(|error| CgroupError::Io { path, error })
    }
}

/// `name` inside the cgroup that this process runs in.
///
/// # Errors
/// [`CgroupError::NoHierarchy`].
pub fn beside_this_process(name: &str) -> Result<PathBuf, CgroupError> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| CgroupError::Io { path: path.into(), error });
    let own = own_path(&read("/proc/self/cgroup")?).ok_or(CgroupError::NoHierarchy)?;
    let directory = locate(&read("/proc/self/mountinfo")?, &own).ok_or(CgroupError::NoHierarchy)?;
    Ok(directory.join(name))
}

/// The version 2 line of /proc/self/cgroup: `0::/path`.
fn own_path(cgroup: &str) -> Option<PathBuf> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

/// Where the cgroup `own` is mounted.
fn locate(mounts: &str, own: &Path) -> Option<PathBuf> {
    mountinfo::parse(mounts).filter(|mount| mount.fstype == "cgroup2").find_map(|mount| {
        // A container may have mounted only a part of the hierarchy.
        let below = own.strip_prefix(&mount.root).ok()?;
        Some(if below.as_os_str().is_empty() { mount.target } else { mount.target.join(below) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "25 30 0:23 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
        26 25 0:24 / /sys/fs/cgroup/unified rw,nosuid shared:2 - cgroup2 cgroup2 rw\n\
        27 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let own = own_path("9:name=systemd:/\n0::/system.slice/leasehold.service\n").expect("version 2");
        let found = locate(HYBRID, &own).expect("mounted");
        assert_eq!(found, Path::new("/sys/fs/cgroup/unified/system.slice/leasehold.service"));
        assert_eq!(locate(HYBRID, Path::new("/")).expect("mounted"), Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_part_that_a_container_mounted_is_seen_as_such() {
        let mounts = "26 25 0:24 /box /my\\040groups rw - cgroup2 cgroup2 rw\n";
        assert_eq!(locate(mounts, Path::new("/box/x")).expect("mounted"), Path::new("/my groups/x"));
        assert_eq!(locate(mounts, Path::new("/elsewhere")), None);
    }

    #[test]
    fn an_ordinary_directory_is_refused_and_not_left_behind() {
        let scratch = crate::state_dir::tests::Scratch::new();
        let path = scratch.path().join("group");
        let error = Cgroup::ensure(&path).expect_err("no cgroup");
        assert!(error.to_string().contains("[workload].cgroup"), "{error}");
        assert!(!path.exists());
    }
}
