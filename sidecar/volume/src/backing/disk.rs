//! The file or block device itself: found out about, opened for one server alone, read and written by plain system calls
//! that block. The engines do the frequent part of this in other ways; everything rare is done here only.

use super::lock::RangeLock;
use crate::buffer::{ALIGN_BYTES, Pool};
use crate::request::{Extent, Geometry, Refusal};
use rustix::fs::{self, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fmt;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Zeroes that are written where the disk cannot be told to make them.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
/// Extents told in one answer; the client asks again from where they end.
const EXTENTS_MAX: usize = 2048;
/// A process that was killed lets go of its files only when the kernel has ended its last request on them.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// `statfs` of file systems that keep everything in memory.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// How to open a backing.
#[derive(Clone, Debug)]
pub struct Options {
    pub path: PathBuf,
    pub read_only: bool,
    /// Through the page cache, where the file system has no `O_DIRECT`.
    pub buffered: bool,
}

/// Why a backing cannot be served. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} cannot be opened: {source}")]
    Open { path: PathBuf, source: Errno },
    #[error("{path} is neither a file nor a block device")]
    Kind { path: PathBuf },
    #[error(
        "{path} has no O_DIRECT ({source}): put it on a file system that has (ext4, XFS), or go through the page cache with --buffered"
    )]
    NoDirect { path: PathBuf, source: Errno },
    #[error("{path} is in use: another server has locked it")]
    Locked { path: PathBuf },
    #[error("{path} is in use: it is mounted, or part of another device (see lsblk)")]
    Busy { path: PathBuf },
    #[error(
        "{path} has {size_bytes} bytes, which is no multiple of its block of {block_bytes}: truncate --size=%{block_bytes} {path}"
    )]
    Ragged { path: PathBuf, size_bytes: u64, block_bytes: u32 },
    #[error("{path} is empty: give it a size (truncate --size=10G {path})")]
    Empty { path: PathBuf },
    #[error("{path} has blocks of {block_bytes} bytes; up to 4096 are served")]
    Blocks { path: PathBuf, block_bytes: u32 },
}

/// An open file or block device, locked for this process.
pub struct Disk {
    file: File,
    geometry: Geometry,
    is_block_device: bool,
    direct: bool,
    in_memory: bool,
    /// A flush has failed: what was written before may be lost, and the kernel says so only once. From then on no flush
    /// succeeds, because it could not know.
    is_broken: AtomicBool,
    pub(super) changing: Arc<RangeLock>,
    pub(super) pool: Pool,
}

impl Disk {
    /// Opens and locks a backing.
    ///
    /// # Errors
    /// Where it cannot be served as asked.
    pub fn open(options: &Options, pool: Pool) -> Result<Disk, OpenError> {
        let path = || options.path.clone();
        let failed = |source| OpenError::Open { path: path(), source };
        // A look before it is opened for good: FIFOs block, and only block devices know O_EXCL.
        let kind = FileType::from_raw_mode(fs::stat(&options.path).map_err(failed)?.st_mode);
        let is_block_device = match kind {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(OpenError::Kind { path: path() }),
        };
        let mut flags = OFlags::CLOEXEC | if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        if is_block_device {
            flags |= OFlags::EXCL;
        }
        if !options.buffered {
            flags |= OFlags::DIRECT;
        }
        let file = match within(LOCK_WAIT, Errno::BUSY, || fs::open(&options.path, flags, Mode::empty())) {
            Ok(fd) => File::from(fd),
            Err(Errno::BUSY) => return Err(OpenError::Busy { path: path() }),
            Err(source @ Errno::INVAL) if !options.buffered => {
                return Err(OpenError::NoDirect { path: path(), source });
            }
            Err(source) => return Err(failed(source)),
        };
        let lock = if options.read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match within(LOCK_WAIT, Errno::WOULDBLOCK, || fs::flock(&file, lock)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked { path: path() }),
            Err(source) => return Err(failed(source)),
        }
        let size_bytes = fs::seek(&file, SeekFrom::End(0)).map_err(failed)?;
        let in_memory = !is_block_device && is_in_memory(&file);
        let block_bytes =
            if options.buffered || in_memory { 1 } else { direct_alignment(&options.path, &file, is_block_device) };
        if usize::try_from(block_bytes).unwrap_or(usize::MAX) > ALIGN_BYTES {
            return Err(OpenError::Blocks { path: path(), block_bytes });
        }
        if size_bytes == 0 {
            return Err(OpenError::Empty { path: path() });
        }
        if size_bytes % u64::from(block_bytes) != 0 {
            return Err(OpenError::Ragged { path: path(), size_bytes, block_bytes });
        }
        Ok(Disk {
            file,
            geometry: Geometry { size_bytes, block_bytes, read_only: options.read_only },
            is_block_device,
            direct: !options.buffered,
            in_memory,
            is_broken: AtomicBool::new(false),
            changing: Arc::default(),
            pool,
        })
    }

    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Data lies in this machine's memory: reading and writing is copying, and never waits.
    #[must_use]
    pub fn in_memory(&self) -> bool {
        self.in_memory
    }

    /// Reads all of `into`.
    ///
    /// # Errors
    /// As the kernel told it; an end of the file before the end of the volume is an error too.
    pub fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), Refusal> {
        while !into.is_empty() {
            let read = rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(into)], at, ReadWriteFlags::empty());
            match read {
                Ok(0) => return Err(self.failed("read", at, Errno::IO)),
                Ok(read) => {
                    into = &mut into[read..];
                    at += u64::try_from(read).expect("a usize fits a u64");
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", at, error)),
            }
        }
        Ok(())
    }

    /// Writes all of `data`. `fua`: it is on stable storage when this returns.
    ///
    /// # Errors
    /// As the kernel told it. A part may have been written.
    pub fn write(&self, mut at: u64, mut data: &[u8], fua: bool) -> Result<(), Refusal> {
        let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        while !data.is_empty() {
            match rustix::io::pwritev2(&self.file, &[IoSlice::new(data)], at, flags) {
                Ok(0) => return Err(self.failed("write", at, Errno::IO)),
                Ok(written) => {
                    data = &data[written..];
                    at += u64::try_from(written).expect("a usize fits a u64");
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.write_failed(at, error, fua)),
            }
        }
        Ok(())
    }

    /// Writes any range: blocks that it covers in part are read, changed and written back, while nobody else changes them.
    ///
    /// # Errors
    /// As the kernel told it. A part may have been written.
    pub fn write_parts(&self, at: u64, data: &[u8], fua: bool) -> Result<(), Refusal> {
        let end = at + len64(data);
        let cover = self.cover(at, end);
        let _held = self.changing.alone(cover.clone());
        let mut blocks = self.pool.take(usize::try_from(cover.end - cover.start).map_err(|_| Refusal::TooLarge)?);
        let blocks = blocks.as_mut();
        let block = usize::try_from(self.geometry.block_bytes).expect("at most 4096");
        let last = blocks.len() - block;
        let from = usize::try_from(at - cover.start).expect("less than a block");
        if from > 0 || data.len() < block {
            self.read(cover.start, &mut blocks[..block])?;
        }
        if end < cover.end && last > 0 {
            self.read(cover.end - u64::from(self.geometry.block_bytes), &mut blocks[last..])?;
        }
        blocks[from..from + data.len()].copy_from_slice(data);
        self.write(cover.start, blocks, fua)
    }

    /// Everything whose write has returned is on stable storage when this returns.
    ///
    /// # Errors
    /// As the kernel told it; and always after it has failed once.
    pub fn flush(&self) -> Result<(), Refusal> {
        let flushed = fs::fdatasync(&self.file);
        self.flushed(flushed)
    }

    /// Judges the end of a flush.
    pub(super) fn flushed(&self, flushed: Result<(), Errno>) -> Result<(), Refusal> {
        if let Err(error) = flushed {
            self.is_broken.store(true, Ordering::SeqCst);
            return Err(self.failed("flush", 0, error));
        }
        if self.is_broken.load(Ordering::SeqCst) { Err(Refusal::Io) } else { Ok(()) }
    }

    /// A write's error in the words of the border. A write through to stable storage that fails is a flush that failed.
    pub(super) fn write_failed(&self, at: u64, error: Errno, fua: bool) -> Refusal {
        if fua && error == Errno::IO {
            self.is_broken.store(true, Ordering::SeqCst);
        }
        self.failed("write", at, error)
    }

    /// An error of the kernel's in the words of the border.
    pub(super) fn failed(&self, what: &'static str, at: u64, error: Errno) -> Refusal {
        tracing::error!(what, at, %error, "the backing failed");
        match error {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Refusal::NoSpace,
            Errno::NOMEM => Refusal::NoMemory,
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Refusal::NotPermitted,
            _ => Refusal::Io,
        }
    }

    /// Gives back the whole blocks of a range. A disk that cannot is left as it is: it was a hint.
    ///
    /// # Errors
    /// As the kernel told it.
    pub fn trim(&self, at: u64, len: u32, fua: bool) -> Result<(), Refusal> {
        let inner = self.inner(at, at + u64::from(len));
        if !inner.is_empty() {
            let _held = self.changing.together(inner.clone());
            let trimmed = if self.is_block_device {
                discard(&self.file, inner.start, inner.end - inner.start)
            } else {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fs::fallocate(&self.file, punch, inner.start, inner.end - inner.start)
            };
            match trimmed {
                Err(error) if !is_unsupported(error) => return Err(self.failed("trim", at, error)),
                _ => {}
            }
        }
        if fua { self.flush() } else { Ok(()) }
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// As the kernel told it; not supported where it was to be fast and is not.
    pub fn write_zeroes(&self, at: u64, len: u32, fua: bool, may_unmap: bool, fast_only: bool) -> Result<(), Refusal> {
        let end = at + u64::from(len);
        let inner = self.inner(at, end);
        {
            let _held = self.changing.together(inner.clone());
            if inner.is_empty() {
                if fast_only {
                    return Err(Refusal::NotSupported);
                }
            } else if !self.zero_blocks(inner.start, inner.end - inner.start, may_unmap)? {
                if fast_only {
                    return Err(Refusal::NotSupported);
                }
                let mut position = inner.start;
                while position < inner.end {
                    let part =
                        usize::try_from(inner.end - position).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
                    let zeroes = self.aligned_zeroes(part);
                    self.write(position, zeroes.as_ref(), false)?;
                    position += len64(zeroes.as_ref());
                }
            }
        }
        // Where the range begins or ends amid a block.
        let edges = if inner.is_empty() { [at..end, end..end] } else { [at..inner.start, inner.end..end] };
        for edge in edges.into_iter().filter(|edge| !edge.is_empty()) {
            let len = usize::try_from(edge.end - edge.start).expect("at most two blocks");
            self.write_parts(edge.start, &ZEROES[..len], false)?;
        }
        if fua { self.flush() } else { Ok(()) }
    }

    /// Has the disk make zeroes of whole blocks. False: it cannot, and nothing has changed.
    fn zero_blocks(&self, at: u64, len: u64, may_unmap: bool) -> Result<bool, Refusal> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // On a block device this also falls back to written zeroes inside the kernel, so it is not tried there: it could
        // take as long as writing, which a fast request must not.
        let range = (!self.is_block_device).then_some(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE);
        for mode in may_unmap.then_some(punch).into_iter().chain(range) {
            match fs::fallocate(&self.file, mode, at, len) {
                Ok(()) => return Ok(true),
                Err(error) if is_unsupported(error) => {}
                Err(error) => return Err(self.failed("write zeroes", at, error)),
            }
        }
        Ok(false)
    }

    fn aligned_zeroes(&self, len: usize) -> crate::buffer::Buffer {
        let mut buffer = self.pool.take(len);
        buffer.as_mut().fill(0);
        buffer
    }

    /// A hint that a range will be read.
    pub fn cache(&self, at: u64, len: u32) {
        if !self.direct
            && let Some(len) = std::num::NonZeroU64::new(u64::from(len))
        {
            // A hint that fails is a hint that was not taken.
            let _ = fs::fadvise(&self.file, at, Some(len), fs::Advice::WillNeed);
        }
    }

    /// Which parts of a range are holes. A disk that cannot tell has none.
    ///
    /// # Errors
    /// As the kernel told it.
    pub fn status(&self, at: u64, len: u32, one: bool) -> Result<Vec<Extent>, Refusal> {
        let data = |len| Extent { len, hole: false, zero: false };
        if self.is_block_device {
            return Ok(vec![data(len)]);
        }
        let end = at + u64::from(len);
        let mut extents = Vec::new();
        let mut position = at;
        while position < end && extents.len() < if one { 1 } else { EXTENTS_MAX } {
            // Which is next, the end of a hole or of data? At `position` itself it is inside the other.
            let begins = match fs::seek(&self.file, SeekFrom::Data(position)) {
                Ok(begins) => begins.clamp(position, end),
                // None from here on.
                Err(Errno::NXIO) => end,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![data(len)]),
                Err(error) => return Err(self.failed("find data", position, error)),
            };
            let hole = begins > position;
            let until = if hole {
                begins
            } else {
                match fs::seek(&self.file, SeekFrom::Hole(position)) {
                    // A hole that another client made meanwhile: it begins one byte later at the earliest, for an answer
                    // must tell something.
                    Ok(until) => until.clamp(position + 1, end),
                    Err(Errno::NXIO) => end,
                    Err(error) => return Err(self.failed("find a hole", position, error)),
                }
            };
            extents.push(Extent {
                len: u32::try_from(until - position).expect("within the request"),
                hole,
                zero: hole,
            });
            position = until;
        }
        Ok(extents)
    }

    /// The blocks that a range touches.
    #[must_use]
    pub fn cover(&self, at: u64, end: u64) -> std::ops::Range<u64> {
        let block = u64::from(self.geometry.block_bytes);
        at / block * block..end.div_ceil(block) * block
    }

    /// The blocks that lie wholly in a range.
    fn inner(&self, at: u64, end: u64) -> std::ops::Range<u64> {
        let block = u64::from(self.geometry.block_bytes);
        let start = at.div_ceil(block) * block;
        start..(end / block * block).max(start)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("geometry", &self.geometry)
            .field("direct", &self.direct)
            .field("in_memory", &self.in_memory)
            .finish_non_exhaustive()
    }
}

fn len64(data: &[u8]) -> u64 {
    u64::try_from(data.len()).expect("a usize fits a u64")
}

fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY)
}

fn is_in_memory(file: &File) -> bool {
    fs::fstatfs(file).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| MEMORY_FILE_SYSTEMS.contains(&kind)))
}

/// What `O_DIRECT` wants ranges to be multiples of: as the kernel tells it (6.1 and later), else a device's logical block, else a page,
/// which every file system takes.
fn direct_alignment(path: &Path, file: &File, is_block_device: bool) -> u32 {
    if is_block_device && let Ok(block_bytes) = fs::ioctl_blksszget(file) {
        return block_bytes;
    }
    match fs::statx(file.as_fd(), "", fs::AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if stat.stx_dio_offset_align.is_power_of_two() => stat.stx_dio_offset_align,
        Ok(_) => 4096,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the kernel does not tell the alignment of O_DIRECT");
            4096
        }
    }
}

/// Tries again while it fails in this way, for so long.
#[expect(clippy::disallowed_methods, reason = "opening a disk blocks anyway, and nothing is served by then")]
fn within<T>(wait: Duration, busy: Errno, mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut left = wait;
    loop {
        match attempt() {
            Err(error) if error == busy && !left.is_zero() => {
                std::thread::sleep(PAUSE);
                left = left.saturating_sub(PAUSE);
            }
            done => return done,
        }
    }
}

/// `BLKDISCARD`.
#[expect(unsafe_code, reason = "this ioctl has no safe wrapper")]
fn discard(device: &File, at: u64, len: u64) -> Result<(), Errno> {
    const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);
    // SAFETY: the ioctl reads two u64, the range's start and length, from where the argument points.
    unsafe { rustix::ioctl::ioctl(device, rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([at, len])) }
}
