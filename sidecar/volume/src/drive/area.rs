//! Where a replica's metadata lies: a file of its own, or the tail of the first backing; how it is made, found and written.
//!
//! ```text
//!   own file:   area
//!   tail:       volume (whole pages) | area | locator: one page that says where the area begins
//! ```

use super::resize;
use super::undo::{Place, UndoError, UndoFile, UndoLog};
use crate::backing::disk::{Disk, OpenError, Options};
use crate::backing::{Backing, Engine, StartError};
use crate::buffer::Pool;
use crate::metadata::{DataState, Geometry, Locator, PAGE, PageFault, Recovery, Refused, Store, Unfit, Ungrown};
use crate::request::{Device, Done, Request, Volume as _};
use bytes::Bytes;
use lease::ids::{Incarnation, Lineage};
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

const PAGE64: u64 = PAGE as u64;
/// Looked at for data at each end of a backing before its tail is taken: partition tables, file systems' superblocks, LVM and md
/// metadata all lie within.
const LOOK_BYTES: u64 = 4 << 20;

/// What a new replica is to be like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub chunk_shift: u8,
    pub slots: u16,
}

impl Default for Shape {
    /// Chunks of 64 KiB; 1237 slots of 4 MiB: at most 5 GB to compare after a crash.
    fn default() -> Self {
        Self { chunk_shift: 16, slots: 1237 }
    }
}

/// Why a replica can not be made, or not be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AreaError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error("{path} cannot be {what}: {source}")]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("{path} exists: metadata is written into a new file only; remove it if it is not needed any more")]
    Exists { path: PathBuf },
    #[error(
        "{path} holds data, which its tail may be part of: keep the metadata in a file of its own (--metadata FILE, {bytes} bytes on another file system)"
    )]
    HoldsData { path: PathBuf, bytes: u64 },
    #[error(
        "{path} is a replica already: see it with `leasehold volume dump-metadata`, or begin anew by wiping its last page"
    )]
    IsReplica { path: PathBuf },
    #[error("{path} has {bytes} bytes: too few for a volume and its metadata of {needed} bytes")]
    Small { path: PathBuf, bytes: u64, needed: u64 },
    #[error(
        "{path}: no part of it says where metadata lies ({fault}): make it a replica with `leasehold volume create`, or name its --metadata FILE; if it was made larger since, run `leasehold volume resize` first"
    )]
    NoLocator { path: PathBuf, fault: PageFault },
    #[error("{path}: {source}")]
    Refused { path: PathBuf, source: Refused },
    #[error(
        "{path} has {bytes} bytes, its metadata knows a volume of {known}: this is another device, or it was made smaller; a volume never is: give it its size back"
    )]
    Size { path: PathBuf, bytes: u64, known: u64 },
    #[error(
        "{path}: a resize of this replica was cut off, and {journal} says how it goes on: run `leasehold volume resize` again, with the same files"
    )]
    CutOff { path: PathBuf, journal: PathBuf },
    #[error(
        "{path} has no room for its new metadata behind the old: make it at least {needed} bytes larger, and run this again"
    )]
    NoRoom { path: PathBuf, needed: u64 },
    #[error(transparent)]
    Ungrown(#[from] Ungrown),
    #[error("{given} backings are named, the metadata knows {known} volumes")]
    Count { given: usize, known: usize },
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

pub(super) fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> AreaError + use<> {
    let path = path.to_owned();
    move |source| AreaError::Io { path, what, source }
}

/// Data of a replica, by its files; and the file of its metadata, where that is one of its own.
#[derive(Clone, Debug)]
pub struct Files {
    pub backings: Vec<PathBuf>,
    pub metadata: Option<PathBuf>,
    /// What a resync overwrites is kept there.
    pub undo: Option<Place>,
    /// Through the page cache, where the file system has no `O_DIRECT`.
    pub buffered: bool,
}

impl Files {
    pub(super) fn options(&self, path: &Path) -> Options {
        Options { path: path.to_owned(), read_only: false, buffered: self.buffered }
    }

    /// Makes a replica without history of these files: what is on them is its image. Nothing of it is changed; the tail of the
    /// first backing is taken where no file is named, and only where nothing seems to be on it.
    ///
    /// # Errors
    /// [`AreaError`]. Nothing was made then.
    pub fn create(&self, lineage: Lineage, incarnation: Incarnation, shape: &Shape) -> Result<Geometry, AreaError> {
        let pool = Pool::default();
        let disks = self
            .backings
            .iter()
            .map(|path| Disk::open(&self.options(path), pool.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let sizes: Vec<u64> = disks.iter().map(|disk| whole(disk.geometry().size_bytes)).collect();
        let geometry = Geometry::new(sizes.clone(), shape.chunk_shift, shape.slots)?;
        if let Some(path) = &self.metadata {
            let (_, pages) = Store::format(lineage, incarnation, geometry.clone());
            let made = OpenOptions::new().write(true).create_new(true).open(path);
            let file = match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(AreaError::Exists { path: path.clone() });
                }
                made => made.map_err(failed(path, "made"))?,
            };
            file.set_len(geometry.area()).map_err(failed(path, "enlarged"))?;
            drop(file);
            let area = Disk::open(&self.options(path), pool.clone())?;
            write_pages(&area, path, 0, pages, &pool)?;
            sync_folder(path).map_err(failed(path, "made durable"))?;
            return Ok(geometry);
        }
        let (path, disk, size) = (&self.backings[0], &disks[0], sizes[0]);
        let needed = geometry.area() + PAGE64;
        if size < needed + PAGE64 {
            return Err(AreaError::Small { path: path.clone(), bytes: size, needed });
        }
        if Locator::decode(read_page(disk, size - PAGE64, &pool).as_deref()).is_ok() {
            return Err(AreaError::IsReplica { path: path.clone() });
        }
        let at = size - needed;
        for look in [(0, size.min(LOOK_BYTES)), (at.saturating_sub(LOOK_BYTES) / PAGE64 * PAGE64, size)] {
            if !is_blank(disk, look.0, look.1, &pool) {
                return Err(AreaError::HoldsData { path: path.clone(), bytes: geometry.area() });
            }
        }
        let mut sizes = sizes;
        sizes[0] = at;
        let geometry = Geometry::new(sizes, shape.chunk_shift, shape.slots)?;
        let (_, pages) = Store::format(lineage, incarnation, geometry.clone());
        write_pages(disk, path, at, pages, &pool)?;
        // Last: who finds it finds all of it.
        write_pages(disk, path, 0, vec![(size - PAGE64, Locator { area_at: at }.encode())], &pool)?;
        Ok(geometry)
    }

    /// Opens the volumes' files: locked for this process.
    pub(super) fn open_backings(&self, engine: Option<Engine>, pool: &Pool) -> Result<Vec<Backing>, AreaError> {
        let open = |path: &PathBuf| Backing::open(&self.options(path), engine, pool.clone());
        Ok(self.backings.iter().map(open).collect::<Result<Vec<_>, _>>()?)
    }

    /// Opens the replica: everything of it is locked for this process.
    ///
    /// # Errors
    /// [`AreaError`].
    pub fn open(&self, engine: Option<Engine>, pool: &Pool) -> Result<Opened, AreaError> {
        let backings = self.open_backings(engine, pool)?;
        if let Some(path) = self.metadata.as_deref().filter(|path| resize::journal_of(path).exists()) {
            return Err(AreaError::CutOff { path: path.to_owned(), journal: resize::journal_of(path) });
        }
        let (path, area, at) = match &self.metadata {
            Some(path) => (path, Backing::open(&self.options(path), engine, pool.clone())?, 0),
            None => {
                let (path, first) = (&self.backings[0], &backings[0]);
                let size = first.geometry().size_bytes / PAGE64 * PAGE64;
                let page = read_page(first.disk(), size.saturating_sub(PAGE64), pool);
                let locator = Locator::decode(page.as_deref())
                    .map_err(|fault| AreaError::NoLocator { path: path.clone(), fault })?;
                (path, first.clone(), locator.area_at)
            }
        };
        let (mut store, recovery) = Store::recover(|offset| read_page(area.disk(), at.checked_add(offset)?, pool))
            .map_err(|source| AreaError::Refused { path: path.clone(), source })?;
        let known = store.geometry().volumes();
        if known.len() != backings.len() {
            return Err(AreaError::Count { given: backings.len(), known: known.len() });
        }
        for (number, (backing, known)) in backings.iter().zip(known).enumerate() {
            let bytes = backing.geometry().size_bytes;
            let limit = if number == 0 && self.metadata.is_none() { at } else { bytes };
            if *known > limit {
                return Err(AreaError::Size { path: self.backings[number].clone(), bytes, known: *known });
            }
        }
        let undo = self.undo.as_ref().map(|place| open_undo(place, &mut store)).transpose()?;
        Ok(Opened { backings, area, at, undo, store, recovery })
    }
}

/// What of a disk is used: whole pages.
pub(super) fn whole(bytes: u64) -> u64 {
    bytes / PAGE64 * PAGE64
}

/// A log that has nothing of what the superblock says is another one, or was lost: nothing is kept then.
fn open_undo(place: &Place, store: &mut Store) -> Result<UndoLog, UndoError> {
    let file = UndoFile::open(&place.path, 1 << store.geometry().chunk_shift())?;
    let number = store.superblock().undo.as_ref().map(|undo| undo.number);
    let found = number.filter(|number| matches!(file.end(*number), Ok(1..)));
    if number.is_some() && found.is_none() {
        tracing::warn!(path = %place.path.display(), "the undo log has nothing of the resync that was interrupted: the image of before it cannot be had again");
        store.change(|superblock| superblock.undo = None);
    }
    UndoLog::start(file, place.limit, found)
}

/// Whether this backing holds a replica's metadata at its end.
#[must_use]
pub fn has_locator(backing: &Backing) -> bool {
    let size = backing.geometry().size_bytes / PAGE64 * PAGE64;
    let page = read_page(backing.disk(), size.saturating_sub(PAGE64), &Pool::default());
    Locator::decode(page.as_deref()).is_ok()
}

/// A replica's files, open, and what its metadata said.
#[derive(Debug)]
pub struct Opened {
    pub backings: Vec<Backing>,
    pub area: Backing,
    pub at: u64,
    pub undo: Option<UndoLog>,
    pub store: Store,
    pub recovery: Recovery,
}

impl Opened {
    /// Gives the replica another name, durably: to its peers it is one that they know nothing of.
    ///
    /// # Errors
    /// [`AreaError::Io`].
    pub fn rename(&mut self, incarnation: Incarnation) -> Result<(), AreaError> {
        let path = PathBuf::from("the metadata");
        for page in self.store.rename(incarnation) {
            write_pages(self.area.disk(), &path, self.at, vec![page], &Pool::default())?;
        }
        Ok(())
    }

    /// What this replica has completed as primary does not count any more, durably: it is resynced by whoever leads.
    ///
    /// # Errors
    /// [`AreaError::Io`].
    pub fn give_up(&mut self) -> Result<(), AreaError> {
        let path = PathBuf::from("the metadata");
        for page in self.store.give_up() {
            write_pages(self.area.disk(), &path, self.at, vec![page], &Pool::default())?;
        }
        Ok(())
    }

    /// Says that the image is whole again, as it was when the resync began, and under another name: its peers know nothing of it, so
    /// all of it is compared by whoever comes to copy to it, or is copied to by it.
    ///
    /// # Errors
    /// [`AreaError::Io`].
    pub fn roll_back(&mut self, incarnation: Incarnation) -> Result<(), AreaError> {
        self.store.change(|superblock| {
            if let Some(undo) = superblock.undo.take() {
                (superblock.state, superblock.generations) = (DataState::Whole, undo.generations);
                superblock.peers = Default::default();
            }
        });
        self.rename(incarnation)
    }
}

/// The metadata's place, as one thread writes it.
pub struct Area {
    disk: Box<dyn Device>,
    at: u64,
}

impl Area {
    #[must_use]
    pub fn new(disk: Box<dyn Device>, at: u64) -> Self {
        Self { disk, at }
    }

    /// `through`: durable when it is answered.
    pub(super) fn write(&self, at: u64, page: Bytes, through: bool, done: Done) {
        self.disk.submit(Request::Write { at: self.at + at, data: page, fua: through }, done);
    }

    pub(super) fn flush(&self, done: Done) {
        self.disk.submit(Request::Flush, done);
    }

    pub(super) fn kick(&self) {
        self.disk.kick();
    }
}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area").field("at", &self.at).finish_non_exhaustive()
    }
}

/// `None`: it can not be read.
pub(super) fn read_page(disk: &Disk, at: u64, pool: &Pool) -> Option<Bytes> {
    if at.checked_add(PAGE64)? > disk.geometry().size_bytes {
        return None;
    }
    let mut page = pool.take(PAGE);
    disk.read(at, page.as_mut()).ok()?;
    Some(page.freeze())
}

fn is_blank(disk: &Disk, from: u64, to: u64, pool: &Pool) -> bool {
    (from..to).step_by(PAGE).all(|at| read_page(disk, at, pool).is_some_and(|page| page.iter().all(|byte| *byte == 0)))
}

pub(super) fn write_pages(
    disk: &Disk,
    path: &Path,
    base: u64,
    pages: Vec<(u64, Bytes)>,
    pool: &Pool,
) -> Result<(), AreaError> {
    let refused = |refusal: crate::request::Refusal| io::Error::other(refusal.to_string());
    for (at, page) in pages {
        #[cfg(test)]
        resize::tests::crash::writes(path, base + at, &page)?;
        let mut aligned = pool.take(PAGE);
        aligned.as_mut().copy_from_slice(&page);
        disk.write(base + at, aligned.as_ref(), false).map_err(refused).map_err(failed(path, "written"))?;
    }
    disk.flush().map_err(refused).map_err(failed(path, "made durable"))?;
    #[cfg(test)]
    resize::tests::crash::flushed();
    Ok(())
}

/// A new file is there after a crash only once its folder says so.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all())
}
