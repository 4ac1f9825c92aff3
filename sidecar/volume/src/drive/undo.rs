//! The undo log: a file into which chunks go as they were before a resync overwrites them.
//!
//! ```text
//!  slot 0: header (one page) | chunk      slot 1: header | chunk      …      up to the limit
//!  header: magic | number | volume | length | offset | first, sure: slots | CRC32C of the chunk | CRC32C of the header
//! ```
//! A chunk counts if its header names the number that the superblock does, and both sums are right: what a crash tore had not been
//! confirmed, so nothing was overwritten for it. Each process begins at a slot `first`, and says with each chunk up to where it is `sure`
//! of what it has written: a chunk that is missing there was lost later, and with it the image. Where nobody waits any more it says so in
//! a slot without a chunk, of length 0. Of several under one number the one in the first slot counts. The file is written by a thread of
//! its own, in the order in which it is asked, and made durable once for all that wait.

use crate::ids::{Span, VolumeNo};
use crate::metadata::PAGE;
use crate::request::{Done, Refusal, Reply};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

const MAGIC: u64 = u64::from_le_bytes(*b"LHundo\x00\x01");
/// How large an undo log may get, in MiB, unless somebody says otherwise; and at the most: what the largest group has.
pub const UNDO_MIB: u64 = 16 << 10;
pub const UNDO_MIB_MOST: u64 = 64 << 20;
/// Of the header, before its own sum.
const HEADER: usize = 52;
const PAGE64: u64 = PAGE as u64;

/// Why there is no undo log. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    #[error("the undo log {path} cannot be {what}: {source}")]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    #[error("the undo log {path} is used by another process: each replica needs its own")]
    InUse { path: PathBuf },
    #[error(
        "the undo log {path} lacks what was confirmed to be in it: it was damaged, and the image of before the resync cannot be had again"
    )]
    Damaged { path: PathBuf },
    #[error("the undo log {path} holds something else: name a file that does not exist yet")]
    NotOurs { path: PathBuf },
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> UndoError + use<> {
    let path = path.to_owned();
    move |source| UndoError::Io { path, what, source }
}

/// Where it is, and how much of the disk it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// In bytes. A resync that overwrites more goes on without.
    pub limit: u64,
}

/// A kept chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub span: Span,
    slot: u64,
    /// Slots of which whoever wrote it was sure.
    sure: (u64, u64),
    sum: u32,
}

/// The file, locked for this process.
#[derive(Debug)]
pub struct UndoFile {
    file: File,
    path: PathBuf,
    /// Of one slot.
    stride: u64,
}

impl UndoFile {
    /// Opens it; makes it where it is missing. `chunk`: bytes of one.
    ///
    /// # Errors
    /// [`UndoError`]. A file that holds something else is left as it is.
    pub fn open(path: &Path, chunk: u64) -> Result<Self, UndoError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed(path, "opened"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(UndoError::InUse { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(path, "locked")(source)),
        }
        let log = Self { file, path: path.to_owned(), stride: PAGE64 + chunk };
        let mut magic = [0; 8];
        let found = (&log.file).read(&mut magic).map_err(failed(path, "read"))?;
        // Zeros: made by us, and a crash came before its first header.
        if found > 0 && magic != MAGIC.to_le_bytes() && magic != [0; 8] {
            return Err(UndoError::NotOurs { path: path.to_owned() });
        }
        if found == 0 {
            super::area::sync_folder(path).map_err(failed(path, "made durable"))?;
        }
        Ok(log)
    }

    fn slots(&self) -> Result<u64, UndoError> {
        let bytes = (&self.file).seek(SeekFrom::End(0)).map_err(failed(&self.path, "read"))?;
        Ok(bytes.div_ceil(self.stride))
    }

    fn header(&self, slot: u64, number: u64) -> Option<Entry> {
        let mut header = [0; HEADER + 4];
        self.file.read_exact_at(&mut header, slot * self.stride).ok()?;
        let (body, sum) = header.split_at(HEADER);
        let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight"));
        let half = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four"));
        let is_valid = sum == crc32c::crc32c(body).to_le_bytes() && word(0) == MAGIC && word(8) == number;
        let span = Span { volume: VolumeNo(half(16)), at: word(24), len: u64::from(half(20)) };
        (is_valid && span.len <= self.stride - PAGE64).then(|| Entry {
            span,
            slot,
            sure: (word(32), word(40)),
            sum: half(48),
        })
    }

    /// Behind the last slot that is used under this number.
    ///
    /// # Errors
    /// [`UndoError::Io`].
    pub fn end(&self, number: u64) -> Result<u64, UndoError> {
        let used = (0..self.slots()?).rev().find(|slot| self.header(*slot, number).is_some());
        Ok(used.map_or(0, |slot| slot + 1))
    }

    /// The bytes of a kept chunk; `None`: they are not what was written.
    ///
    /// # Errors
    /// [`UndoError::Io`].
    pub fn read(&self, entry: &Entry) -> Result<Option<Vec<u8>>, UndoError> {
        let mut bytes = vec![0; usize::try_from(entry.span.len).expect("a chunk")];
        match self.file.read_exact_at(&mut bytes, entry.slot * self.stride + PAGE64) {
            Ok(()) => Ok(Some(bytes).filter(|bytes| crc32c::crc32c(bytes) == entry.sum)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(failed(&self.path, "read")(error)),
        }
    }

    /// What is kept under this number: each chunk once, as it was first.
    ///
    /// # Errors
    /// [`UndoError::Io`], [`UndoError::Damaged`]: what is kept is not known.
    pub fn entries(&self, number: u64) -> Result<Vec<Entry>, UndoError> {
        let (mut found, mut seen, mut valid, mut sure) =
            (Vec::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for entry in (0..self.slots()?).filter_map(|slot| self.header(slot, number)) {
            if self.read(&entry)?.is_none() {
                continue;
            }
            valid.insert(entry.slot);
            sure.insert(entry.sure);
            let is_chunk = entry.span.len > 0;
            if is_chunk && seen.insert((entry.span.volume.0, entry.span.at)) {
                found.push(entry);
            }
        }
        let mut confirmed = sure.into_iter().flat_map(|(first, sure)| first..sure);
        if found.is_empty() || confirmed.any(|slot| !valid.contains(&slot)) {
            return Err(UndoError::Damaged { path: self.path.clone() });
        }
        Ok(found)
    }

    fn write(&self, slot: u64, number: u64, span: Span, sure: (u64, u64), data: &[u8]) -> io::Result<()> {
        let mut page = vec![0; PAGE + data.len()];
        let fields: [&[u8]; 8] = [
            &MAGIC.to_le_bytes(),
            &number.to_le_bytes(),
            &span.volume.0.to_le_bytes(),
            &u32::try_from(span.len).expect("a chunk").to_le_bytes(),
            &span.at.to_le_bytes(),
            &sure.0.to_le_bytes(),
            &sure.1.to_le_bytes(),
            &crc32c::crc32c(data).to_le_bytes(),
        ];
        let header = fields.concat();
        page[..HEADER].copy_from_slice(&header);
        page[HEADER..HEADER + 4].copy_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        page[PAGE..].copy_from_slice(data);
        self.file.write_all_at(&page, slot * self.stride)
    }

    /// Empties it.
    ///
    /// # Errors
    /// [`UndoError::Io`].
    pub fn clear(&self) -> Result<(), UndoError> {
        self.file.set_len(0).map_err(failed(&self.path, "emptied"))
    }
}

#[derive(Debug)]
enum Task {
    Keep { number: u64, span: Span, data: Bytes, done: Done },
    Drop,
}

/// The file at work, with its thread. Dropped, it ends when what was asked is done.
#[derive(Debug)]
pub struct UndoLog {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl UndoLog {
    /// `number`: under which the superblock says that something is kept.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn start(file: UndoFile, limit: u64, number: Option<u64>) -> Result<Self, UndoError> {
        let next = match number {
            Some(number) => file.end(number)?,
            None => {
                file.clear()?;
                0
            }
        };
        let path = file.path.clone();
        let mut writer = Writer { limit: limit / file.stride, file, number, next, first: next, sure: next, said: next };
        let (tasks, asked) = mpsc::channel();
        let thread = std::thread::Builder::new().name("undo log".into()).spawn(move || writer.run(&asked));
        let thread = thread.map_err(failed(&path, "written to: no thread"))?;
        Ok(Self { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Keeps a chunk; answered once it is durable.
    pub fn keep(&self, number: u64, span: Span, data: Bytes, done: Done) {
        // Without the thread `done` is dropped, which answers that it failed.
        let _ = self.tasks.as_ref().map(|tasks| tasks.send(Task::Keep { number, span, data, done }));
    }

    /// What was kept before is of no use any more.
    pub fn drop_kept(&self) {
        let _ = self.tasks.as_ref().map(|tasks| tasks.send(Task::Drop));
    }
}

impl Drop for UndoLog {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Writer {
    file: UndoFile,
    /// Slots at most.
    limit: u64,
    number: Option<u64>,
    next: u64,
    /// Where this process began under this number, and up to where all of it is durable.
    first: u64,
    sure: u64,
    /// The last `sure` that was written without a chunk.
    said: u64,
}

impl Writer {
    fn run(&mut self, asked: &mpsc::Receiver<Task>) {
        while let Some(first) = asked.try_recv().ok().or_else(|| {
            self.say_sure();
            asked.recv().ok()
        }) {
            let mut written = Vec::new();
            for task in std::iter::once(first).chain(asked.try_iter()) {
                match task {
                    Task::Keep { number, span, data, done } => {
                        if let Some(done) = self.keep(number, span, &data, done) {
                            written.push(done);
                        }
                    }
                    Task::Drop => {
                        self.begin(None);
                        if let Err(error) = self.file.clear() {
                            tracing::warn!(%error, "what is not needed any more stays on the disk until the next resync");
                        }
                    }
                }
            }
            if written.is_empty() {
                continue;
            }
            let synced = self.file.file.sync_data();
            if let Err(error) = &synced {
                tracing::error!(path = %self.file.path.display(), %error, "the undo log cannot be made durable");
            }
            if synced.is_ok() {
                self.sure = self.next;
            }
            for done in written {
                done.answer(if synced.is_ok() { Ok(Reply::Done) } else { Err(Refusal::Io) });
            }
        }
    }

    /// Nothing waits: what is confirmed so far is said in the file, where no later chunk may ever say it. Nobody relies on it.
    fn say_sure(&mut self) {
        let Some(number) = self.number.filter(|_| self.said < self.sure && self.next < self.limit) else { return };
        let nothing = Span { volume: VolumeNo(0), at: 0, len: 0 };
        match self.file.write(self.next, number, nothing, (self.first, self.sure), &[]) {
            // The next chunk comes into the same slot.
            Ok(()) => self.said = self.sure,
            Err(error) => tracing::warn!(%error, "what is confirmed of the undo log is not written into it"),
        }
    }

    fn begin(&mut self, number: Option<u64>) {
        (self.number, self.next, self.first, self.sure, self.said) = (number, 0, 0, 0, 0);
    }

    /// Returns whom to answer once it is durable.
    fn keep(&mut self, number: u64, span: Span, data: &[u8], done: Done) -> Option<Done> {
        if self.number != Some(number) {
            self.begin(Some(number));
        }
        if self.next >= self.limit {
            done.answer(Err(Refusal::NoSpace));
            return None;
        }
        if let Err(error) = self.file.write(self.next, number, span, (self.first, self.sure), data) {
            tracing::error!(path = %self.file.path.display(), %error, "the undo log cannot be written");
            done.answer(Err(Refusal::Io));
            return None;
        }
        self.next += 1;
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, UndoError, UndoFile, UndoLog};
    use crate::ids::{Span, VolumeNo};
    use crate::request::{Answer, Done, Mailbox, Refusal, Reply};
    use bytes::Bytes;
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, mpsc};

    const CHUNK: u64 = 8192;

    /// A folder that is gone after the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("leasehold-undo-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    struct Answers(mpsc::Sender<(u64, Answer)>);

    impl Mailbox for Answers {
        fn deliver(&self, tag: u64, answer: Answer) {
            let _ = self.0.send((tag, answer));
        }
    }

    fn span(at: u64) -> Span {
        Span { volume: VolumeNo(1), at, len: CHUNK }
    }

    fn open(path: &Path) -> UndoFile {
        UndoFile::open(path, CHUNK).expect("it opens")
    }

    /// Keeps these (number, place, byte), in order; what came of each.
    fn keep(path: &Path, slots: u64, known: Option<u64>, what: &[(u64, u64, u8)]) -> Vec<Answer> {
        let log = UndoLog::start(open(path), slots * (CHUNK + PAGE as u64), known).expect("it starts");
        let (told, answers) = mpsc::channel();
        let mailbox = Arc::new(Answers(told));
        for (tag, (number, at, byte)) in what.iter().enumerate() {
            let data = Bytes::from(vec![*byte; usize::try_from(CHUNK).expect("small")]);
            log.keep(*number, span(*at), data, Done::new(mailbox.clone(), tag as u64));
        }
        drop((log, mailbox));
        let mut all: Vec<_> = answers.iter().collect();
        all.sort_by_key(|(tag, _)| *tag);
        all.into_iter().map(|(_, answer)| answer).collect()
    }

    fn kept(path: &Path, number: u64) -> Vec<(u64, u8)> {
        let file = open(path);
        let entries = file.entries(number).expect("readable");
        entries.iter().map(|entry| (entry.span.at, file.read(entry).expect("readable").expect("valid")[0])).collect()
    }

    #[test]
    fn the_first_of_several_counts_and_only_under_its_number() {
        let folder = Scratch::new("first");
        let path = folder.file("undo");
        assert!(keep(&path, 9, None, &[(3, 0, 1), (3, CHUNK, 2)]).iter().all(Result::is_ok));
        // A new process keeps again what it touches, behind what is there.
        assert!(keep(&path, 9, Some(3), &[(3, 0, 7), (3, 2 * CHUNK, 3)]).iter().all(Result::is_ok));
        assert_eq!(kept(&path, 3), [(0, 1), (CHUNK, 2), (2 * CHUNK, 3)]);
        assert!(matches!(open(&path).entries(4), Err(UndoError::Damaged { .. })));
        assert!(keep(&path, 9, Some(3), &[(5, CHUNK, 9)]).iter().all(Result::is_ok));
        assert_eq!(kept(&path, 5), [(CHUNK, 9)]);
    }

    #[test]
    fn a_full_log_says_so_and_what_is_torn_does_not_count() {
        let folder = Scratch::new("full");
        let path = folder.file("undo");
        let answers = keep(&path, 2, None, &[(3, 0, 1), (3, CHUNK, 2), (3, 2 * CHUNK, 3)]);
        assert_eq!(answers, [Ok(Reply::Done), Ok(Reply::Done), Err(Refusal::NoSpace)]);
        // The last one may have been torn by a crash before it was confirmed.
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
        file.write_all_at(&[0xff], 2 * PAGE as u64 + CHUNK + 100).expect("written");
        assert_eq!(kept(&path, 3), [(0, 1)]);
        file.set_len(2 * PAGE as u64 + CHUNK).expect("cut off");
        assert_eq!(kept(&path, 3), [(0, 1)]);
        file.set_len(0).expect("cut off");
        assert!(matches!(open(&path).entries(3), Err(UndoError::Damaged { .. })));
    }

    #[test]
    fn what_was_confirmed_and_is_missing_is_noticed() {
        let folder = Scratch::new("missing");
        let path = folder.file("undo");
        assert!(keep(&path, 9, None, &[(3, 0, 1), (3, CHUNK, 2)]).iter().all(Result::is_ok));
        // By the same process, later: it was sure of the first two.
        let log = UndoLog::start(open(&path), 1 << 20, None).expect("it starts");
        let (told, answers) = mpsc::channel();
        let mailbox = Arc::new(Answers(told));
        for at in 0..3 {
            let data = Bytes::from(vec![1; usize::try_from(CHUNK).expect("small")]);
            log.keep(7, span(at * CHUNK), data, Done::new(mailbox.clone(), at));
            assert_eq!(answers.recv().expect("an answer").1, Ok(Reply::Done));
        }
        drop(log);
        assert_eq!(kept(&path, 7).len(), 3);
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
        for slot in 0..3 {
            let at = slot * (PAGE as u64 + CHUNK) + PAGE as u64 + 9;
            file.write_all_at(&[0xff], at).expect("written");
            assert!(matches!(open(&path).entries(7), Err(UndoError::Damaged { .. })), "slot {slot}");
            file.write_all_at(&[1], at).expect("written");
        }
        // Another process, which keeps all in one go.
        let all: Vec<_> = (0..3).map(|at| (7, at * CHUNK, 2)).collect();
        assert!(keep(&path, 9, Some(7), &all).iter().all(Result::is_ok));
        assert_eq!(kept(&path, 7), [(0, 1), (CHUNK, 1), (2 * CHUNK, 1)]);
        file.write_all_at(&[0xff], 4 * (PAGE as u64 + CHUNK) + PAGE as u64 + 9).expect("written");
        assert!(matches!(open(&path).entries(7), Err(UndoError::Damaged { .. })), "the first of the other process");
    }

    #[test]
    fn what_is_not_ours_is_left_alone_and_one_process_has_it() {
        let folder = Scratch::new("ours");
        let (path, other) = (folder.file("undo"), folder.file("other"));
        std::fs::write(&other, "letters to a friend").expect("written");
        assert!(matches!(UndoFile::open(&other, CHUNK), Err(UndoError::NotOurs { .. })));
        assert_eq!(std::fs::read(&other).expect("there"), b"letters to a friend");
        let first = open(&path);
        assert!(matches!(UndoFile::open(&path, CHUNK), Err(UndoError::InUse { .. })));
        drop(first);
        keep(&path, 2, None, &[(3, 0, 1)]);
        // Nothing is kept, says the superblock.
        keep(&path, 2, None, &[]);
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 0);
    }
}
