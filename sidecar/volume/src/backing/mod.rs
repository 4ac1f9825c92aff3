//! A file or a block device as a [`Volume`], by `O_DIRECT`.
//!
//! ```text
//!   request ──┬─ whole blocks, read, flush ──▶ engine: io_uring (a ring per thread), or threads
//!             ├─ in memory and short ────────▶ at once, on the calling thread
//!             └─ all else ───────────────────▶ a worker thread: parts of blocks, trim, zeroes, status
//! ```

pub mod disk;
mod lock;
mod threads;
mod uring;

use crate::buffer::{Buffer, Pool};
use crate::request::{Answer, Device, Done, Geometry, Refusal, Reply, Request, Volume};
use bytes::Bytes;
use disk::{Disk, OpenError, Options};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use threads::Workers;
use uring::Ring;

/// What a file system in memory does at once, on the calling thread: to hand it on would take longer than to copy it.
const AT_ONCE_MAX_BYTES: usize = 32 << 10;
/// Requests that the engine of threads has in the kernel at a time: what an EBS volume wants to reach its IOPS.
const DISK_THREADS: usize = 32;
/// With `io_uring`, threads do the rare requests only.
const RARE_THREADS: usize = 4;

/// Which engine does the reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// `io_uring`; some kernels forbid it
    Uring,
    /// Threads that block in the kernel; works everywhere
    Threads,
}

/// Why a backing does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "this kernel does not let us use io_uring ({0}): allow it (sysctl kernel.io_uring_disabled=0), or take --engine threads"
    )]
    NoUring(io::Error),
    #[error("no threads can be started: {0}")]
    Threads(io::Error),
}

/// An open backing.
#[derive(Clone)]
pub struct Backing {
    disk: Arc<Disk>,
    workers: Arc<Workers>,
    engine: Engine,
}

impl Backing {
    /// Opens and locks a backing. Without an engine asked for it takes `io_uring` where the kernel has it and the data is
    /// not in memory anyway.
    ///
    /// # Errors
    /// Where it cannot be served as asked.
    pub fn open(options: &Options, engine: Option<Engine>, pool: Pool) -> Result<Backing, StartError> {
        let disk = Arc::new(Disk::open(options, pool)?);
        let engine = match (engine, uring::probe()) {
            (Some(Engine::Uring), Err(error)) => return Err(StartError::NoUring(error)),
            (Some(engine), _) => engine,
            (None, Ok(())) if !disk.in_memory() => Engine::Uring,
            (None, _) => Engine::Threads,
        };
        let count = match engine {
            // Threads that only copy: more of them than cores would push each other's data out of the caches before it is
            // sent, and the front end wants its share of the cores.
            _ if disk.in_memory() => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
            Engine::Uring => RARE_THREADS,
            Engine::Threads => DISK_THREADS,
        };
        let workers = Arc::new(Workers::start(&disk, count).map_err(StartError::Threads)?);
        Ok(Backing { disk, workers, engine })
    }

    /// The disk itself, for what blocks and may: before it is served.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }
}

impl Volume for Backing {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn lane(&self) -> io::Result<Box<dyn Device>> {
        let ring = match self.engine {
            Engine::Uring => Some(Ring::new(Arc::clone(&self.disk), Arc::clone(&self.workers))?),
            Engine::Threads => None,
        };
        Ok(Box::new(Lane { disk: Arc::clone(&self.disk), workers: Arc::clone(&self.workers), ring }))
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backing").field("disk", &self.disk).field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// What an engine does: the frequent requests, of whole blocks and aligned memory.
#[derive(Debug)]
enum Operation {
    /// Fills the buffer from `at` on; `skip` and `len` are the part of it that was asked for.
    Read {
        at: u64,
        buffer: Buffer,
        skip: usize,
        len: usize,
    },
    /// The range is held until the operation is over. `None`: it is taken when the operation runs. What waits in a queue
    /// holds nothing, or threads that wait for it could be all that there are to run it.
    Write {
        at: u64,
        data: Bytes,
        fua: bool,
        held: Option<lock::Held>,
    },
    Flush,
}

impl Operation {
    /// The plain way, on the calling thread, which waits for the range if it must.
    fn run(mut self, disk: &Disk) -> Answer {
        match &mut self {
            Operation::Read { at, buffer, .. } => disk.read(*at, buffer.as_mut())?,
            Operation::Write { at, data, fua, held } => {
                // Where every byte is a block of its own, no write touches what is around it.
                if disk.geometry().block_bytes > 1 {
                    held.get_or_insert_with(|| disk.changing.together(*at..*at + data.len() as u64));
                }
                disk.write(*at, data, *fua)?;
            }
            Operation::Flush => disk.flush()?,
        }
        Ok(self.reply())
    }

    /// The same, to be put into a queue.
    fn queued(mut self) -> Operation {
        if let Operation::Write { held, .. } = &mut self {
            *held = None;
        }
        self
    }

    /// The answer once it has succeeded. A range that was held is free again.
    fn reply(self) -> Reply {
        match self {
            Operation::Read { buffer, skip, len, .. } => Reply::Data(buffer.freeze().slice(skip..skip + len)),
            Operation::Write { held, .. } => {
                drop(held);
                Reply::Done
            }
            Operation::Flush => Reply::Done,
        }
    }
}

/// A backing as one thread sees it.
struct Lane {
    disk: Arc<Disk>,
    workers: Arc<Workers>,
    ring: Option<Rc<Ring>>,
}

impl Lane {
    fn start(&self, operation: Operation, done: Done) {
        let is_short = match &operation {
            Operation::Read { len, .. } => *len <= AT_ONCE_MAX_BYTES,
            Operation::Write { data, .. } => data.len() <= AT_ONCE_MAX_BYTES,
            Operation::Flush => true,
        };
        if is_short && self.disk.in_memory() {
            done.answer(operation.run(&self.disk));
        } else if let Some(ring) = &self.ring {
            ring.start(operation, done);
        } else {
            self.later(done, move |disk| operation.run(disk));
        }
    }

    fn later(&self, done: Done, work: impl FnOnce(&Disk) -> Answer + Send + 'static) {
        self.workers.submit(Box::new(move |disk| done.answer(work(disk))));
    }

    fn write(&self, at: u64, data: Bytes, fua: bool, done: Done) {
        let end = at + data.len() as u64;
        let range = self.disk.cover(at, end);
        if range != (at..end) {
            return self.later(done, move |disk| disk.write_parts(at, &data, fua).map(|()| Reply::Done));
        }
        let block = usize::try_from(self.disk.geometry().block_bytes).expect("at most 4096");
        let data = if data.as_ptr().addr().is_multiple_of(block) {
            data
        } else {
            // Not from our pool: a caller's own memory.
            let mut copy = self.disk.pool.take(data.len());
            copy.as_mut().copy_from_slice(&data);
            copy.freeze()
        };
        let held = if self.ring.is_some() {
            match self.disk.changing.try_together(range) {
                Some(held) => Some(held),
                // Somebody changes a part of one of these blocks just now: a thread waits for it.
                None => return self.later(done, move |disk| Operation::Write { at, data, fua, held: None }.run(disk)),
            }
        } else {
            None
        };
        self.start(Operation::Write { at, data, fua, held }, done);
    }
}

impl Device for Lane {
    fn submit(&self, request: Request, done: Done) {
        if let Err(refusal) = check(&self.disk.geometry(), &request) {
            return done.answer(Err(refusal));
        }
        match request {
            Request::Read { len: 0, .. } => done.answer(Ok(Reply::Data(Bytes::new()))),
            Request::Read { at, len } => {
                let cover = self.disk.cover(at, at + u64::from(len));
                let bytes = |count: u64| usize::try_from(count).expect("a request is bounded");
                let buffer = self.disk.pool.take(bytes(cover.end - cover.start));
                let (skip, len) = (bytes(at - cover.start), bytes(u64::from(len)));
                self.start(Operation::Read { at: cover.start, buffer, skip, len }, done);
            }
            Request::Write { data, .. } if data.is_empty() => done.answer(Ok(Reply::Done)),
            Request::Write { at, data, fua } => self.write(at, data, fua, done),
            Request::Flush => self.start(Operation::Flush, done),
            Request::Trim { at, len, fua } => {
                self.later(done, move |disk| disk.trim(at, len, fua).map(|()| Reply::Done));
            }
            Request::WriteZeroes { len: 0, .. } => done.answer(Ok(Reply::Done)),
            Request::WriteZeroes { at, len, fua, may_unmap, fast_only } => {
                self.later(done, move |disk| {
                    disk.write_zeroes(at, len, fua, may_unmap, fast_only).map(|()| Reply::Done)
                });
            }
            Request::Cache { at, len } => {
                self.disk.cache(at, len);
                done.answer(Ok(Reply::Done));
            }
            Request::Status { at, len, one } => {
                self.later(done, move |disk| disk.status(at, len, one).map(Reply::Extents))
            }
        }
    }

    fn kick(&self) {
        if let Some(ring) = &self.ring {
            ring.kick();
        }
    }
}

/// Front ends check too, and name the error as their protocol wants it; a range that is wrong goes nowhere.
fn check(geometry: &Geometry, request: &Request) -> Result<(), Refusal> {
    let (at, len, changes) = match request {
        Request::Read { at, len } | Request::Cache { at, len } | Request::Status { at, len, .. } => {
            (*at, u64::from(*len), false)
        }
        Request::Write { at, data, .. } => (*at, data.len() as u64, true),
        Request::Trim { at, len, .. } | Request::WriteZeroes { at, len, .. } => (*at, u64::from(*len), true),
        Request::Flush => return Ok(()),
    };
    if changes && geometry.read_only {
        return Err(Refusal::NotPermitted);
    }
    if at.checked_add(len).is_none_or(|end| end > geometry.size_bytes) {
        return Err(if changes { Refusal::NoSpace } else { Refusal::Invalid });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
