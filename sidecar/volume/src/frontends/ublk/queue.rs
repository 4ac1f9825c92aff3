//! A ublk device's queue, served by the calling thread's event loop: requests off the kernel, answers to it.
//!
//! ```text
//!   with the kernel ──a request──▶ asked of the device ──its answer: COMMIT_AND_FETCH──▶ with the kernel
//!          │                              │ the device ends: EIO, whatever the answer            ▲
//!          │                              └──────────────────────────────────────────────────────┘
//!          ├──a request while this server leaves──▶ held: never answered, the next server's
//!          └──taken back (ENODEV)──▶ gone
//! ```
//!
//! The kernel lets one thread serve a queue, from its first FETCH to its end. Data is copied by `pread` and `pwrite` on the queue's
//! character device: so memory is taken as long as a request is, not as long as the longest, and the kernel writes to none of ours by
//! itself.

use super::abi::{self, Asked, DEPTH, DESCRIPTOR_BYTES, REQUEST_MAX_BYTES, What};
use crate::buffer::Pool;
use crate::readiness;
use crate::request::{Answer, Device, Done, Mailbox, Refusal, Reply, Request};
use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::cell::RefCell;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Before what the kernel did not take, short of memory, is handed to it again.
const AGAIN: Duration = Duration::from_millis(10);

/// How it stands between this server and the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Every request gets an error.
    Refusing,
    /// What is under way is answered; what comes is the next server's.
    Leaving,
    /// Nothing is answered.
    Left,
}

/// One of the queue's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    WithKernel,
    Asked(Asked),
    Held,
    Gone,
}

/// Serves a queue. It goes on as long as [`Server::work`] is polled.
pub(super) struct Server {
    queue: RefCell<Queue>,
    answers: Arc<Answers>,
    changed: Notify,
}

struct Queue {
    mode: Mode,
    slots: Vec<Slot>,
    /// Requests that the device has not answered.
    at_device: usize,
    ring: IoUring,
    is_unsubmitted: bool,
    descriptors: Descriptors,
    /// The queue's character device.
    file: File,
    device: Rc<dyn Device>,
    pool: Pool,
    answers: Arc<Answers>,
    /// Kept for its memory.
    spare: Vec<(u64, Answer)>,
}

impl Server {
    /// Offers the kernel to serve the queue: from now on it may be started.
    ///
    /// # Errors
    /// What the kernel does not let this process have.
    pub(super) fn new(file: File, device: Rc<dyn Device>, pool: Pool) -> io::Result<(Rc<Server>, AsyncFd<OwnedFd>)> {
        let descriptors = Descriptors::map(&file)?;
        let ring = IoUring::new(u32::from(DEPTH))?;
        let readiness = readiness::of(&ring)?;
        let answers = Arc::new(Answers::default());
        let mut queue = Queue {
            mode: Mode::Serving,
            slots: vec![Slot::WithKernel; usize::from(DEPTH)],
            at_device: 0,
            ring,
            is_unsubmitted: false,
            descriptors,
            file,
            device,
            pool,
            answers: Arc::clone(&answers),
            spare: Vec::new(),
        };
        for tag in 0..DEPTH {
            queue.push(abi::FETCH, tag, 0);
        }
        queue.ring.submit()?;
        Ok((Rc::new(Server { queue: RefCell::new(queue), answers, changed: Notify::new() }), readiness))
    }

    /// Serves for ever.
    pub(super) async fn work(&self, readiness: AsyncFd<OwnedFd>) {
        loop {
            let is_unsubmitted = self.queue.borrow().is_unsubmitted;
            tokio::select! {
                ready = readiness.readable() => match ready {
                    // Before the look: a completion that comes after it makes the descriptor ready again.
                    Ok(mut ready) => ready.clear_ready(),
                    Err(error) => return tracing::error!(%error, "the device's queue cannot be waited for any more"),
                },
                () = self.answers.come.notified() => {}
                () = tokio::time::sleep(AGAIN), if is_unsubmitted => {}
            }
            self.queue.borrow_mut().turn();
            self.changed.notify_waiters();
        }
    }

    /// From now on everything that the kernel asks, or has asked, gets an error.
    pub(super) fn refuse(&self) {
        let mut queue = self.queue.borrow_mut();
        queue.mode = Mode::Refusing;
        for tag in 0..DEPTH {
            if matches!(queue.slots[usize::from(tag)], Slot::Asked(_) | Slot::Held) {
                queue.commit(tag, Err(Errno::IO));
            }
        }
        queue.submit();
    }

    /// From now on nothing new is taken.
    pub(super) fn leave(&self) {
        self.queue.borrow_mut().mode = Mode::Leaving;
    }

    /// From now on nothing is answered, and the kernel has the queue back when this thread ends, not before: what came in between was
    /// handed to a server that is there, and would be lost with a queue that is closed under it.
    pub(super) fn abandon(self: &Rc<Server>) {
        self.queue.borrow_mut().mode = Mode::Left;
        std::mem::forget(Rc::clone(self));
    }

    /// The device has answered everything.
    pub(super) async fn is_quiet(&self) {
        self.until(|queue| queue.at_device == 0).await;
    }

    /// The kernel has taken all requests back: the device is no more.
    pub(super) async fn is_over(&self) {
        self.until(|queue| queue.slots.iter().all(|slot| *slot == Slot::Gone)).await;
    }

    async fn until(&self, holds: impl Fn(&Queue) -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds(&self.queue.borrow()) {
                return;
            }
            changed.await;
        }
    }
}

impl Queue {
    /// Takes answers and requests until there is neither.
    fn turn(&mut self) {
        loop {
            let mut answers = self.answers.take(std::mem::take(&mut self.spare));
            let is_idle = answers.is_empty();
            for (tag, answer) in answers.drain(..) {
                self.answered(u16::try_from(tag).expect("a tag"), answer);
            }
            self.spare = answers;
            let has_asked = self.reap();
            if has_asked {
                self.device.kick();
            }
            self.submit();
            if is_idle && !has_asked {
                return;
            }
        }
    }

    /// Takes what has come from the kernel. Whether the device was asked.
    fn reap(&mut self) -> bool {
        let mut has_asked = false;
        while let Some(entry) = { self.ring.completion().next() } {
            let tag = u16::try_from(entry.user_data()).expect("a tag");
            let at = usize::from(tag);
            match (entry.result(), self.mode) {
                (0, Mode::Serving) => {
                    let asked = Asked::parse(&self.descriptors.read(tag));
                    match self.request(tag, asked) {
                        Ok(request) => {
                            self.slots[at] = Slot::Asked(asked);
                            self.at_device += 1;
                            let done = Done::new(Arc::clone(&self.answers) as Arc<dyn Mailbox>, u64::from(tag));
                            self.device.submit(request, done);
                            has_asked = true;
                        }
                        Err(error) => self.commit(tag, Err(error)),
                    }
                }
                (0, Mode::Refusing) => self.commit(tag, Err(Errno::IO)),
                (0, Mode::Leaving | Mode::Left) => self.slots[at] = Slot::Held,
                (error, _) => {
                    if error != -Errno::NODEV.raw_os_error() {
                        let error = Errno::from_raw_os_error(-error);
                        tracing::error!(%error, tag, "the kernel does not let this request of the device's be served");
                    }
                    self.slots[at] = Slot::Gone;
                }
            }
        }
        has_asked
    }

    /// What the kernel asks, with a write's data.
    fn request(&self, tag: u16, asked: Asked) -> Result<Request, Errno> {
        let Asked { what, at, len } = asked;
        Ok(match what {
            What::Read | What::Write { .. } if len > REQUEST_MAX_BYTES => return Err(Errno::INVAL),
            What::Read => Request::Read { at, len },
            What::Write { fua } => {
                let mut data = self.pool.take(usize::try_from(len).expect("a request is bounded"));
                // Where the kernel has taken the request back: it hears of no answer.
                self.file.read_exact_at(data.as_mut(), abi::data_at(tag)).map_err(|_| Errno::IO)?;
                Request::Write { at, data: data.freeze(), fua }
            }
            What::Flush => Request::Flush,
            What::Discard => Request::Trim { at, len, fua: false },
            What::Zero { may_unmap } => Request::WriteZeroes { at, len, fua: false, may_unmap, fast_only: false },
            What::Other(_) => return Err(Errno::OPNOTSUPP),
        })
    }

    fn answered(&mut self, tag: u16, answer: Answer) {
        self.at_device -= 1;
        let Slot::Asked(asked) = self.slots[usize::from(tag)] else { return };
        if self.mode == Mode::Left {
            return;
        }
        let result = match answer {
            Ok(Reply::Data(data)) => {
                self.file.write_all_at(&data, abi::data_at(tag)).map(|()| asked.len).map_err(|_| Errno::IO)
            }
            // Only reads and writes are answered by how much it was; others by nothing: their lengths are beyond the number.
            Ok(_) => Ok(if matches!(asked.what, What::Write { .. }) { asked.len } else { 0 }),
            Err(refusal) => Err(errno(refusal)),
        };
        self.commit(tag, result);
    }

    fn commit(&mut self, tag: u16, result: Result<u32, Errno>) {
        let result = match result {
            Ok(bytes) => i32::try_from(bytes).expect("a request is bounded"),
            Err(error) => -error.raw_os_error(),
        };
        self.slots[usize::from(tag)] = Slot::WithKernel;
        self.push(abi::COMMIT_AND_FETCH, tag, result);
    }

    #[expect(unsafe_code, reason = "io_uring wants a promise about the memory that an entry leads to")]
    fn push(&mut self, code: u32, tag: u16, result: i32) {
        let entry = opcode::UringCmd16::new(types::Fd(self.file.as_raw_fd()), code)
            .cmd(abi::about(tag, result))
            .build()
            .user_data(u64::from(tag));
        // SAFETY: the entry leads to no memory; the file is open as long as the ring, which is dropped before it.
        unsafe { self.ring.submission().push(&entry) }.expect("there is room for each tag, and each is there once");
        self.is_unsubmitted = true;
    }

    fn submit(&mut self) {
        if !self.is_unsubmitted {
            return;
        }
        if let Err(error) = self.ring.submit() {
            // Short of memory: it is tried again soon.
            tracing::debug!(%error, "io_uring takes no submissions now");
        }
        self.is_unsubmitted = !self.ring.submission().is_empty();
    }
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotPermitted => Errno::PERM,
        Refusal::Io | Refusal::ShuttingDown => Errno::IO,
        Refusal::NoMemory => Errno::NOMEM,
        Refusal::Invalid | Refusal::TooLarge => Errno::INVAL,
        Refusal::NoSpace => Errno::NOSPC,
        Refusal::NotSupported => Errno::OPNOTSUPP,
    }
}

/// Where the queue finds the device's answers.
#[derive(Default)]
struct Answers {
    list: Mutex<Vec<(u64, Answer)>>,
    come: Notify,
}

impl Answers {
    fn take(&self, empty: Vec<(u64, Answer)>) -> Vec<(u64, Answer)> {
        std::mem::replace(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner), empty)
    }
}

impl Mailbox for Answers {
    fn deliver(&self, tag: u64, answer: Answer) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((tag, answer));
        let is_first = list.len() == 1;
        drop(list);
        if is_first {
            self.come.notify_one();
        }
    }
}

/// The kernel's descriptions of the queue's requests, one for each tag.
struct Descriptors {
    memory: NonNull<c_void>,
}

impl Descriptors {
    const BYTES: usize = DESCRIPTOR_BYTES * DEPTH as usize;

    #[expect(unsafe_code, reason = "memory that the kernel shares comes as a raw pointer")]
    fn map(file: &File) -> io::Result<Descriptors> {
        // SAFETY: at a place of the kernel's choosing, which nobody else has.
        let memory = unsafe {
            mmap(std::ptr::null_mut(), Self::BYTES, ProtFlags::READ, MapFlags::SHARED | MapFlags::POPULATE, file, 0)
        }?;
        Ok(Descriptors { memory: NonNull::new(memory).ok_or(Errno::NOMEM)? })
    }

    #[expect(unsafe_code, reason = "the kernel writes there, so it is no memory of Rust's")]
    fn read(&self, tag: u16) -> [u8; DESCRIPTOR_BYTES] {
        assert!(tag < DEPTH);
        // SAFETY: within what is mapped, which is aligned to a page; bytes need no more. The kernel writes to a tag's description only
        // before it hands the tag over, and not while this side has it.
        unsafe { self.memory.cast::<[u8; DESCRIPTOR_BYTES]>().add(usize::from(tag)).read_volatile() }
    }
}

impl Drop for Descriptors {
    #[expect(unsafe_code, reason = "what was mapped by hand is unmapped by hand")]
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nobody has a reference to it.
        if let Err(error) = unsafe { munmap(self.memory.as_ptr(), Self::BYTES) } {
            tracing::error!(%error, "the device's descriptors stay mapped");
        }
    }
}
