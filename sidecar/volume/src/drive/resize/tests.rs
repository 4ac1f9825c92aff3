//! Disks grow, and the resize is cut off at each of its writes: what is there then is usable or says what to do, and nothing that it had
//! promised or marked is forgotten.

use super::super::area::{AreaError, Files, Shape, write_pages};
use super::{Resized, journal_of};
use crate::backing::disk::Disk;
use crate::buffer::Pool;
use crate::ids::{Span, VolumeNo};
use crate::metadata::{Store, Ungrown};
use lease::ids::{Epoch, Incarnation, Lineage};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A process that ends at its nth write, with that page torn; and of what it wrote since the last flush any part stays.
pub(in super::super) mod crash {
    use super::super::super::area::AreaError;
    use std::cell::RefCell;
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};

    struct Plan {
        left: usize,
        luck: u64,
        unflushed: Vec<(PathBuf, u64, Vec<u8>)>,
    }

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(in super::super::super) fn at(left: usize, luck: u64) {
        PLAN.set(Some(Plan { left, luck, unflushed: Vec::new() }));
    }

    /// Not any more. How many writes were left.
    pub(in super::super::super) fn off() -> usize {
        PLAN.take().map_or(0, |plan| plan.left)
    }

    pub(in super::super::super) fn point(path: &Path) -> Result<(), AreaError> {
        step(path, None)
    }

    pub(in super::super::super) fn writes(path: &Path, at: u64, page: &[u8]) -> Result<(), AreaError> {
        step(path, Some((at, page)))
    }

    pub(in super::super::super) fn flushed() {
        PLAN.with_borrow_mut(|plan| plan.iter_mut().for_each(|plan| plan.unflushed.clear()));
    }

    fn step(path: &Path, write: Option<(u64, &[u8])>) -> Result<(), AreaError> {
        PLAN.with_borrow_mut(|plan| {
            let Some(plan) = plan else { return Ok(()) };
            if let Some((at, page)) = write {
                let mut old = vec![0; page.len()];
                let file = File::open(path).expect("it is there");
                let read = file.read_at(&mut old, at).expect("it can be read");
                old[read..].fill(0);
                plan.unflushed.push((path.to_owned(), at, old));
            }
            if let Some(left) = plan.left.checked_sub(1) {
                plan.left = left;
                return Ok(());
            }
            let open = |path: &Path| OpenOptions::new().write(true).open(path).expect("it is there");
            if let Some((at, page)) = write {
                let torn = usize::try_from(plan.luck % 8).expect("small") * 512;
                open(path).write_all_at(&page[..torn], at).expect("written");
                plan.unflushed.pop();
            }
            for (path, at, old) in plan.unflushed.drain(..) {
                plan.luck = plan.luck.rotate_right(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if plan.luck & 2 == 0 {
                    open(&path).write_all_at(&old, at).expect("taken back");
                }
            }
            Err(AreaError::Io {
                path: path.to_owned(),
                what: "written",
                source: io::Error::other("the process ends here"),
            })
        })
    }
}

const BEFORE: u64 = 3 << 20;
const AFTER: u64 = 5 << 20;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("leasehold-resize-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn files(folder: &Path, tail: bool) -> Files {
    Files {
        backings: vec![folder.join("disk")],
        metadata: (!tail).then(|| folder.join("meta")),
        undo: None,
        buffered: true,
    }
}

fn name(text: &str) -> Incarnation {
    Incarnation::new(text).expect("a name")
}

fn set_len(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).expect("a file").set_len(bytes).expect("resized");
}

/// A replica that has promised something and knows a peer, of which one chunk differs and another may have been being written.
fn replica(folder: &Path, tail: bool) -> Files {
    let files = files(folder, tail);
    let mut disk = fs::File::create(&files.backings[0]).expect("a file");
    disk.set_len(BEFORE).expect("enlarged");
    let shape = Shape { chunk_shift: 12, slots: 4 };
    files.create(Lineage::new("l").expect("a name"), name("me"), &shape).expect("created");
    let opened = files.open(None, &Pool::default()).expect("a replica");
    let path = files.metadata.as_ref().unwrap_or(&files.backings[0]);
    let (mut store, area, at) = (opened.store, opened.area, opened.at);
    let save = |store: &mut Store, waiting: &[[u32; 1]]| {
        while let Some(batch) = store.next_batch(waiting.iter().map(|one| &one[..]), true) {
            write_pages(area.disk(), path, at, batch.pages, &Pool::default()).expect("written");
            store.persisted(batch.number);
        }
    };
    save(&mut store, &[]);
    let peer = store.slot(&name("peer"), |_| false).expect("room");
    store.clear_all(peer);
    store.mark(peer, Span { volume: VolumeNo(0), at: 5 << 12, len: 4096 });
    store.change(|superblock| superblock.promised = Epoch(7));
    save(&mut store, &[]);
    save(&mut store, &[[3]]);
    assert!(store.is_hot(3));
    disk.write_all(&vec![0xa5; 1 << 20]).expect("data");
    files
}

/// What an open replica must know: it is the old one, or the new one.
fn judge(files: &Files, grown: bool) {
    let opened = files.open(None, &Pool::default()).expect("a replica");
    let store = &opened.store;
    let geometry = store.geometry();
    assert_eq!(store.superblock().promised, Epoch(7), "a promise is forgotten");
    assert_eq!(store.superblock().incarnation, name("me"));
    let peer = store.superblock().slot_of(&name("peer")).expect("it is known");
    let old = old_size(files);
    let size = geometry.volumes()[0];
    assert!(size > old || !grown, "{size}");
    for chunk in 0..size >> 12 {
        let (extent, bit) = (u32::try_from(chunk / 64).expect("small"), chunk % 64);
        let marked = store.marked(peer, extent) & 1 << bit != 0;
        let must = chunk == 5 || (3 * 64..4 * 64).contains(&chunk) || chunk << 12 >= old;
        assert!(marked == must, "chunk {chunk} of {} is marked: {marked}", size >> 12);
    }
    let disk = fs::read(&files.backings[0]).expect("data");
    assert!(disk[..1 << 20].iter().all(|byte| *byte == 0xa5), "data has changed");
}

/// What the volume had: with the metadata at its end less than its disk.
fn old_size(files: &Files) -> u64 {
    if files.metadata.is_some() { BEFORE } else { BEFORE - (75 + 1) * 4096 }
}

fn resized(files: &Files) -> Result<Resized, AreaError> {
    files.resize(None)
}

fn is_cut_off(error: &AreaError) -> bool {
    matches!(error, AreaError::CutOff { .. } | AreaError::NoLocator { .. })
}

fn at_every_write(tail: bool) {
    let folder = Folder::new();
    let files_here = replica(&folder.0, tail);
    judge(&files_here, false);
    set_len(&files_here.backings[0], AFTER);
    crash::at(usize::MAX, 0);
    let made = resized(&files_here).expect("resized");
    let writes = usize::MAX - crash::off();
    assert_eq!(made.before, [old_size(&files_here)]);
    assert!(writes > 70, "{writes}");
    judge(&files_here, true);
    let again = resized(&files_here).expect("nothing is left to do");
    assert_eq!((again.before, again.now.clone()), (made.now.clone(), made.now));
    for (point, luck) in (0..writes).flat_map(|point| [(point, 3), (point, 0x5bd1_e995), (point, 0)]) {
        let folder = Folder::new();
        let files = replica(&folder.0, tail);
        set_len(&files.backings[0], AFTER);
        crash::at(point, luck);
        let cut = resized(&files);
        crash::off();
        assert!(cut.is_err(), "it went on behind write {point}");
        match files.open(None, &Pool::default()) {
            Ok(opened) => {
                drop(opened);
                judge(&files, false);
            }
            Err(error) => assert!(is_cut_off(&error), "write {point}: {error}"),
        }
        resized(&files).unwrap_or_else(|error| panic!("write {point}: {error}"));
        judge(&files, true);
    }
}

#[test]
fn cut_off_at_every_write_with_a_file_of_its_own() {
    at_every_write(false);
}

#[test]
fn cut_off_at_every_write_with_the_metadata_at_the_end() {
    at_every_write(true);
}

#[test]
fn the_metadata_file_keeps_its_inode_and_nothing_is_left_beside_it() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = Folder::new();
    let files = replica(&folder.0, false);
    let metadata = files.metadata.clone().expect("a file");
    let inode = fs::metadata(&metadata).expect("it is there").ino();
    set_len(&files.backings[0], AFTER);
    assert_eq!(resized(&files).expect("resized"), Resized { before: vec![BEFORE], now: vec![AFTER] });
    assert_eq!(fs::metadata(&metadata).expect("it is there").ino(), inode);
    assert!(!journal_of(&metadata).exists());
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 2);
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = Folder::new();
    let with_file = replica(&folder.0, false);
    set_len(&with_file.backings[0], BEFORE - 4096);
    let told = resized(&with_file).expect_err("smaller").to_string();
    assert!(told.contains("a volume never is: give it its size back"), "{told}");
    let opened = |files: &Files| files.open(None, &Pool::default()).expect("a replica").store;
    set_len(&with_file.backings[0], BEFORE);
    let told = crate::metadata::grown(&opened(&with_file), vec![BEFORE - 4096]).expect_err("smaller");
    assert_eq!(told, Ungrown::Smaller { number: 0, known: BEFORE, asked: BEFORE - 4096 });

    let folder = Folder::new();
    let with_tail = replica(&folder.0, true);
    set_len(&with_tail.backings[0], BEFORE + (64 << 10));
    let told = resized(&with_tail).expect_err("too little").to_string();
    assert!(told.contains("make it at least") && told.contains("bytes larger"), "{told}");
    let told = with_tail.open(None, &Pool::default()).expect_err("it is not found").to_string();
    assert!(told.contains("if it was made larger since, run `leasehold volume resize` first"), "{told}");
    // At no MiB: only who knows the size can say where it ended.
    let folder = Folder::new();
    let odd = replica(&folder.0, true);
    let disk = Disk::open(&odd.options(&odd.backings[0]), Pool::default()).expect("a disk");
    drop(disk);
    set_len(&odd.backings[0], AFTER);
    assert!(odd.resize(Some(BEFORE - 4096)).is_err());
    odd.resize(Some(BEFORE)).expect("there it is");
    judge(&odd, true);
}
