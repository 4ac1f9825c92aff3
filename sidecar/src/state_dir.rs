//! The state directory: what must survive a restart, owned by one daemon at a time.

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "lock";

/// An open state directory. The lock lasts as long as the process: the kernel lets it go with the last descriptor, so a
/// killed daemon leaves nothing to clean up.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{}: another daemon runs on this state directory; two on one state would both believe to be this node", path.display())]
    Locked { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: {error}; remove the file to have it made anew", path.display())]
    Unreadable { path: PathBuf, error: serde_json::Error },
}

impl StateDir {
    /// Makes the directory (0700) where it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`StateError::Locked`] where another daemon has it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |error| StateError::Io { path: path.to_owned(), error };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StateError::Locked { path: path.to_owned() }),
            Err((_, errno)) => Err(io(errno.into())),
        }
    }

    /// The content of a file; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let mut content = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut content)) {
            Ok(_) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::Io { path, error }),
        }
    }

    /// Puts `content` in place of the file (0600), whole or not at all, and durable when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let next = self.path.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(content)?;
            // 1. The content, 2. its name, 3. the directory: reordered, a crash could leave an empty file in place.
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| StateError::Io { path: path.clone(), error })
    }

    /// # Errors
    /// [`StateError`] where the file cannot be read or is not what it should be.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(content) = self.read(name)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&content);
        parsed.map(Some).map_err(|error| StateError::Unreadable { path: self.path.join(name), error })
    }

    /// # Errors
    /// [`StateError::Io`].
    ///
    /// # Panics
    /// Never for the types of this crate, which all have string keys.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(value).expect("types with string keys always serialise");
        self.write(name, &json)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory of its own for one test, removed with it.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            let path = std::env::temp_dir().join(format!("leasehold-{}", crate::identity::random_hex(8)));
            std::fs::create_dir_all(&path).expect("a scratch directory");
            Self(path)
        }
        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn one_daemon_at_a_time() {
        let scratch = Scratch::new();
        let first = StateDir::open(scratch.path()).expect("open");
        assert!(matches!(StateDir::open(scratch.path()), Err(StateError::Locked { .. })));
        drop(first);
        StateDir::open(scratch.path()).expect("free again");
    }

    #[test]
    fn what_is_written_is_read_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = Scratch::new();
        let state = StateDir::open(scratch.path()).expect("open");
        assert_eq!(state.read("x").expect("no file"), None);
        state.write("x", b"one").expect("write");
        state.write("x", b"two").expect("write over it");
        assert_eq!(state.read("x").expect("read").as_deref(), Some(&b"two"[..]));
        let mode = std::fs::metadata(scratch.path().join("x")).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
