//! A replica that is not in use is told that its disks have become larger. Its metadata grows with the volumes, so all of it is written anew,
//! at another place, and one write changes over: whenever this is cut off, what is there is the old replica, the new one, or says what to do.
//!
//! ```text
//!   own file:   FILE.resize.new: all pages ─▶ renamed to FILE.resize ─▶ copied over FILE ─▶ FILE.resize removed
//!               └────── the old replica ─────┘└──── refused, until `resize` goes on with it ───┘
//!   tail:       volume | area | locator | . . . what was gained . . . . | new area | new locator
//!               1. the new area, durable   2. the new locator: from here on it is the new replica   3. the old locator is wiped
//! ```
//! FILE keeps its inode, by which the daemon knows that it is still the same disk.

use super::area::{AreaError, Files, Opened, failed, read_page, sync_folder, whole, write_pages};

use crate::backing::disk::Disk;
use crate::buffer::Pool;
use crate::metadata::{Geometry, Locator, PAGE, Store, grown};
use crate::request::Volume as _;
use bytes::Bytes;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

const PAGE64: u64 = PAGE as u64;
/// Where a device can have ended before it grew: partitions and logical volumes grow by the MiB, EBS volumes by the GiB. Each is looked
/// at, 100,000 reads for 100 GiB: a coarser look first could find what an earlier resize that was cut off has left.
const STEP: u64 = 1 << 20;

/// What has become of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resized {
    /// The sizes of its volumes before; the same where nothing was to be done.
    pub before: Vec<u64>,
    pub now: Vec<u64>,
}

/// Where the new area of a replica with a metadata file waits, whole, until it is in its place.
pub(super) fn journal_of(metadata: &Path) -> PathBuf {
    with_ending(metadata, ".resize")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

impl Files {
    /// Makes the replica's volumes as large as its disks are. `was`: what the first disk had before it grew, where its metadata lie at
    /// its end and are not found.
    ///
    /// # Errors
    /// [`AreaError`]. The replica is as it was then, or says itself that this must be done again.
    pub fn resize(&self, was: Option<u64>) -> Result<Resized, AreaError> {
        let pool = Pool::default();
        match &self.metadata {
            Some(path) => self.resize_with_file(path, &pool),
            None => self.resize_with_tail(was, &pool),
        }
    }

    fn resize_with_file(&self, path: &Path, pool: &Pool) -> Result<Resized, AreaError> {
        let journal = journal_of(path);
        if journal.exists() {
            // Cut off in the middle of the copy. Nobody has used the replica since: it is refused.
            let _locked = self.open_backings(None, pool)?;
            return self.copy_over(path, &journal, pool);
        }
        let opened = self.open(None, pool)?;
        let before = opened.store.geometry().volumes().to_vec();
        let sizes: Vec<u64> = opened.backings.iter().map(|backing| whole(backing.geometry().size_bytes)).collect();
        if sizes == before {
            return Ok(Resized { now: before.clone(), before });
        }
        let (geometry, pages) = grown(&opened.store, sizes)?;
        let draft = with_ending(path, ".resize.new");
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&draft).map_err(failed(&draft, "made"))?;
        file.set_len(geometry.area()).map_err(failed(&draft, "enlarged"))?;
        drop(file);
        write_pages(&Disk::open(&self.options(&draft), pool.clone())?, &draft, 0, pages, pool)?;
        crash_point(&draft)?;
        fs::rename(&draft, &journal).map_err(failed(&draft, "renamed"))?;
        sync_folder(&journal).map_err(failed(&journal, "made durable"))?;
        // The backings stay locked, the file is opened anew: it is about to be longer.
        let Opened { backings: _locked, area, .. } = opened;
        drop(area);
        let resized = self.copy_over(path, &journal, pool)?;
        Ok(Resized { before, ..resized })
    }

    /// Puts what waits in the journal in its place.
    fn copy_over(&self, path: &Path, journal: &Path, pool: &Pool) -> Result<Resized, AreaError> {
        let found = fs::read(journal).map_err(failed(journal, "read"))?;
        let pages = || found.chunks_exact(PAGE).zip(0..).map(|(page, at)| (at * PAGE64, Bytes::copy_from_slice(page)));
        let read = |at: u64| pages().nth(usize::try_from(at / PAGE64).ok()?).map(|(_, page)| page);
        let (store, _) =
            Store::recover(read).map_err(|source| AreaError::Refused { path: journal.to_owned(), source })?;
        crash_point(path)?;
        let file = OpenOptions::new().write(true).open(path).map_err(failed(path, "opened"))?;
        file.set_len(found.len() as u64).map_err(failed(path, "enlarged"))?;
        drop(file);
        write_pages(&Disk::open(&self.options(path), pool.clone())?, path, 0, pages().collect(), pool)?;
        crash_point(path)?;
        fs::remove_file(journal).map_err(failed(journal, "removed"))?;
        sync_folder(path).map_err(failed(path, "made durable"))?;
        let now = store.geometry().volumes().to_vec();
        Ok(Resized { before: now.clone(), now })
    }

    fn resize_with_tail(&self, was: Option<u64>, pool: &Pool) -> Result<Resized, AreaError> {
        let backings = self.open_backings(None, pool)?;
        let (path, disk) = (&self.backings[0], backings[0].disk());
        let size = whole(disk.geometry().size_bytes);
        let end = match was {
            Some(bytes) => whole(bytes).min(size),
            None => end_of_replica(disk, size, pool).unwrap_or(size),
        };
        let store = replica_ending_at(disk, end, path, pool)?;
        let before = store.geometry().volumes().to_vec();
        if before.len() != backings.len() {
            return Err(AreaError::Count { given: backings.len(), known: before.len() });
        }
        let mut sizes: Vec<u64> = backings.iter().map(|backing| whole(backing.geometry().size_bytes)).collect();
        if end == size {
            sizes[0] = before[0];
            if sizes == before {
                return Ok(Resized { now: before.clone(), before });
            }
            grown(&store, sizes)?;
            return Err(AreaError::NoRoom { path: path.clone(), needed: PAGE64 });
        }
        // With the whole disk as its size the area is as large as it can be.
        let most = Geometry::new(sizes.clone(), store.geometry().chunk_shift(), store.geometry().slots())?;
        let area_at = size.saturating_sub(most.area() + PAGE64);
        if area_at < end {
            // The old area must stay as it is until the new one is whole.
            return Err(AreaError::NoRoom { path: path.clone(), needed: end - area_at });
        }
        sizes[0] = area_at;
        let (_, pages) = grown(&store, sizes.clone())?;
        write_pages(disk, path, area_at, pages, pool)?;
        write_pages(disk, path, 0, vec![(size - PAGE64, Locator { area_at }.encode())], pool)?;
        write_pages(disk, path, 0, vec![(end - PAGE64, Bytes::from_static(&[0; PAGE]))], pool)?;
        Ok(Resized { before, now: sizes })
    }
}

/// Where the replica on a disk ends: at the end of the disk, or, since the disk has grown, further in front. The last one counts.
fn end_of_replica(disk: &Disk, size: u64, pool: &Pool) -> Option<u64> {
    let found = |end: &u64| Locator::decode(read_page(disk, end.saturating_sub(PAGE64), pool).as_deref()).is_ok();
    if found(&size) {
        return Some(size);
    }
    (1..=(size.saturating_sub(1)) / STEP).rev().map(|number| number * STEP).find(found)
}

fn replica_ending_at(disk: &Disk, end: u64, path: &Path, pool: &Pool) -> Result<Store, AreaError> {
    let locator = Locator::decode(read_page(disk, end.saturating_sub(PAGE64), pool).as_deref())
        .map_err(|fault| AreaError::NoLocator { path: path.to_owned(), fault })?;
    let (store, _) = Store::recover(|offset| read_page(disk, locator.area_at.checked_add(offset)?, pool))
        .map_err(|source| AreaError::Refused { path: path.to_owned(), source })?;
    Ok(store)
}

/// Tests end the process here, as far as the files can tell.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it fails")]
fn crash_point(_: &Path) -> Result<(), AreaError> {
    Ok(())
}
#[cfg(test)]
use tests::crash::point as crash_point;

#[cfg(test)]
pub(super) mod tests;
