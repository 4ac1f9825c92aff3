//! What a device's server leaves for its successor: which kernel device it was, and of what state of the data. It lives as long as
//! the kernel's device can: until the next boot.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// Not below /run/leasehold, which goes with the daemon's unit.
const FOLDER: &str = "/run/leasehold-devices";

/// The record of one name; as long as it is open no other process serves a device of this name.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    _lock: File,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What the kernel calls it: `nbd0`, `ublkb0`.
    pub(super) disk: String,
    /// Of the NBD client; 0 for others.
    pub(super) connections: u16,
    /// What the device's contents follow from: [`super::device::Lineage`].
    pub(super) data: String,
}

impl Record {
    /// `None`: another process has it.
    pub(super) fn open(name: &str) -> io::Result<Option<Record>> {
        fs::create_dir_all(FOLDER)?;
        let path = PathBuf::from(FOLDER).join(name);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.with_file_name(format!("{name}.lock")))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Record { path, _lock: lock })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn read(&self) -> Option<Entry> {
        Entry::parse(&fs::read_to_string(&self.path).ok()?)
    }

    /// Whole or not at all, for who is killed meanwhile; a power failure takes the device along.
    pub(super) fn write(&self, entry: &Entry) -> io::Result<()> {
        let fresh = self
            .path
            .with_file_name(format!("{}.new", self.path.file_name().expect("it has a name").to_string_lossy()));
        File::create(&fresh)?.write_all(entry.text().as_bytes())?;
        fs::rename(&fresh, &self.path)
    }

    pub(super) fn clear(&self) {
        // Gone already: fine.
        let _ = fs::remove_file(&self.path);
    }
}

impl Entry {
    /// The disk's number, if it is one of those whose names begin so.
    pub(super) fn index(&self, prefix: &str) -> Option<u32> {
        number(&self.disk, prefix)
    }

    fn text(&self) -> String {
        format!("v1 {} {} {}\n", self.disk, self.connections, self.data)
    }

    fn parse(text: &str) -> Option<Entry> {
        let mut words = text.strip_suffix('\n')?.splitn(4, ' ');
        let (version, disk, connections, data) = (words.next()?, words.next()?, words.next()?, words.next()?);
        ["nbd", "ublkb"].iter().find_map(|prefix| number(disk, prefix))?;
        let (disk, data) = (disk.to_owned(), data.to_owned());
        (version == "v1").then_some(Entry { disk, connections: connections.parse().ok()?, data })
    }
}

fn number(disk: &str, prefix: &str) -> Option<u32> {
    disk.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Entry;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let entry = Entry { disk: "nbd3".into(), connections: 4, data: "file /srv/a b".into() };
        assert_eq!(entry.text(), "v1 nbd3 4 file /srv/a b\n");
        assert_eq!(Entry::parse(&entry.text()), Some(entry.clone()));
        assert_eq!((entry.index("nbd"), entry.index("ublkb")), (Some(3), None));
        let entry = Entry { disk: "ublkb0".into(), connections: 0, data: "x".into() };
        assert_eq!(Entry::parse(&entry.text()), Some(entry));
        for bad in ["", "v1 nbd3 4 x", "v2 nbd3 4 x\n", "v1 nbd 4 x\n", "v1 sda 4 x\n", "v1 nbd3 many x\n", "v1 nbd3\n"]
        {
            assert_eq!(Entry::parse(bad), None, "{bad:?}");
        }
    }
}
