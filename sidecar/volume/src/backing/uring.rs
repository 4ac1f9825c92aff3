//! The engine on `io_uring`: a ring for each thread of a front end, in the thread's own event loop. A request costs no
//! system call of its own where several come together, and no other thread.

use super::Operation;
use super::disk::Disk;
use super::threads::Workers;
use crate::readiness;
use crate::request::Done;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;
use slab::Slab;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// Requests handed to the kernel by one system call, at most.
const SUBMISSIONS: u32 = 256;
/// Requests of one thread that the kernel has at a time; more wait in line. The ring for completions holds them all, so
/// that none can be lost.
const OUTSTANDING_MAX: usize = 1024;
const RWF_DSYNC: i32 = 2;

/// Whether this kernel lets this process use what the engine needs.
///
/// # Errors
/// What it said: not permitted (`kernel.io_uring_disabled`, a seccomp profile), not implemented, or lacking operations.
pub(super) fn probe() -> io::Result<()> {
    let ring = IoUring::new(2)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
    if needed.iter().all(|code| probe.is_supported(*code)) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "it cannot read, write or fsync by io_uring"))
    }
}

/// One thread's ring.
#[derive(Debug)]
pub(super) struct Ring {
    inner: RefCell<Inner>,
}

struct Inner {
    disk: Arc<Disk>,
    /// Takes over what the kernel did only in part.
    workers: Arc<Workers>,
    ring: IoUring,
    flying: Slab<(Operation, Done)>,
    waiting: VecDeque<(Operation, Done)>,
    unsubmitted: bool,
    /// Kept for its memory.
    spare: Finished,
}

impl Ring {
    /// A ring in the calling thread's event loop, which must be a `LocalSet` of tokio's.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub(super) fn new(disk: Arc<Disk>, workers: Arc<Workers>) -> io::Result<Rc<Ring>> {
        let completions = u32::try_from(OUTSTANDING_MAX).expect("a small number");
        let ring = IoUring::builder().setup_cqsize(completions).setup_clamp().build(SUBMISSIONS)?;
        let readiness = readiness::of(&ring)?;
        let inner = Inner {
            disk,
            workers,
            ring,
            flying: Slab::new(),
            waiting: VecDeque::new(),
            unsubmitted: false,
            spare: Vec::new(),
        };
        let lane = Rc::new(Ring { inner: RefCell::new(inner) });
        tokio::task::spawn_local(reap(Rc::downgrade(&lane), readiness));
        Ok(lane)
    }

    pub(super) fn start(&self, operation: Operation, done: Done) {
        let mut inner = self.inner.borrow_mut();
        if inner.flying.len() >= OUTSTANDING_MAX {
            inner.waiting.push_back((operation, done));
        } else {
            inner.push(operation, done);
        }
    }

    pub(super) fn kick(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.submit();
        let mut finished = inner.finished();
        drop(inner);
        // Outside of the borrow: who is told may submit again.
        for (done, answer) in finished.drain(..) {
            done.answer(answer);
        }
        self.inner.borrow_mut().spare = finished;
    }
}

type Finished = Vec<(Done, crate::request::Answer)>;

async fn reap(ring: Weak<Ring>, readiness: AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut ready) = readiness.readable().await else { return };
        let Some(ring) = ring.upgrade() else { return };
        // Before the look: a completion that comes after it makes the descriptor ready again.
        ready.clear_ready();
        ring.kick();
    }
}

impl Inner {
    #[expect(unsafe_code, reason = "io_uring takes raw pointers, and uses them until the completion")]
    fn push(&mut self, operation: Operation, done: Done) {
        let fd = types::Fd(self.disk.file().as_raw_fd());
        let slot = self.flying.vacant_entry();
        let tag = u64::try_from(slot.key()).expect("a usize fits a u64");
        let (operation, _) = slot.insert((operation, done));
        let entry = match operation {
            Operation::Read { at, buffer, .. } => {
                let bytes = buffer.as_mut();
                let len = u32::try_from(bytes.len()).expect("a request is bounded");
                opcode::Read::new(fd, bytes.as_mut_ptr(), len).offset(*at).build()
            }
            Operation::Write { at, data, fua, .. } => {
                let len = u32::try_from(data.len()).expect("a request is bounded");
                let flags = if *fua { RWF_DSYNC } else { 0 };
                opcode::Write::new(fd, data.as_ptr(), len).offset(*at).rw_flags(flags).build()
            }
            Operation::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let entry = entry.user_data(tag);
        // SAFETY: the memory belongs to the operation in `flying`, where it stays, unmoved (a buffer's and a `Bytes`'s memory is
        // on the heap) and untouched until the completion with this tag is seen; `Drop` waits for all of them. The file is
        // open as long as `disk`, which lives longer than the ring.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
        self.unsubmitted = true;
    }

    fn submit(&mut self) {
        if !self.unsubmitted {
            return;
        }
        match self.ring.submit() {
            Ok(_) => self.unsubmitted = !self.ring.submission().is_empty(),
            // Short of memory, or the kernel wants completions taken first: it is tried again after the next ones.
            Err(error) => tracing::debug!(%error, "io_uring takes no submissions now"),
        }
    }

    /// Takes what the kernel has finished.
    fn finished(&mut self) -> Finished {
        let mut finished = std::mem::take(&mut self.spare);
        let Inner { disk, workers, ring, flying, .. } = self;
        for entry in ring.completion() {
            let key = usize::try_from(entry.user_data()).expect("a key of `flying`");
            let (operation, done) = flying.remove(key);
            match operation.completed(disk, entry.result()) {
                Completed::Answer(answer) => finished.push((done, answer)),
                // Done in part, or interrupted: rare, so the plain way does it anew from the start.
                Completed::Again(operation) => {
                    let operation = operation.queued();
                    workers.submit(Box::new(move |disk| done.answer(operation.run(disk))));
                }
            }
        }
        while self.flying.len() < OUTSTANDING_MAX
            && let Some((operation, done)) = self.waiting.pop_front()
        {
            self.push(operation, done);
        }
        self.submit();
        finished
    }
}

/// What a completion means.
enum Completed {
    Answer(crate::request::Answer),
    Again(Operation),
}

impl Operation {
    fn completed(self, disk: &Disk, result: i32) -> Completed {
        let error = Errno::from_raw_os_error(-result.min(-1));
        if result < 0 && matches!(error, Errno::INTR | Errno::AGAIN) {
            return Completed::Again(self);
        }
        let expected = match &self {
            Operation::Read { buffer, .. } => buffer.as_ref().len(),
            Operation::Write { data, .. } => data.len(),
            Operation::Flush => 0,
        };
        match self {
            _ if result >= 0 && usize::try_from(result) != Ok(expected) => Completed::Again(self),
            Operation::Flush => {
                let flushed = disk.flushed(if result < 0 { Err(error) } else { Ok(()) });
                Completed::Answer(flushed.map(|()| crate::request::Reply::Done))
            }
            Operation::Read { at, .. } if result < 0 => Completed::Answer(Err(disk.failed("read", at, error))),
            Operation::Write { at, fua, .. } if result < 0 => Completed::Answer(Err(disk.write_failed(at, error, fua))),
            done => Completed::Answer(Ok(done.reply())),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The kernel uses the memory of what is flying until it says that it does not.
        while !self.flying.is_empty() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // Never seen; memory that the kernel may write to is better lost than used twice.
                tracing::error!(%error, "io_uring does not end");
                std::mem::forget(std::mem::take(&mut self.flying));
                return;
            }
            let tags: Vec<u64> = self.ring.completion().map(|entry| entry.user_data()).collect();
            for tag in tags {
                self.flying.remove(usize::try_from(tag).expect("a key of `flying`"));
            }
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("flying", &self.flying.len())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
