//! The border between a front end (NBD, ublk) and what serves it (the local backing, a replicated volume): requests, answers,
//! refusals.
//!
//! A front end calls [`Device::submit`] with a [`Request`] and a [`Done`], and goes on. Whoever serves calls
//! [`Done::answer`] once, on any thread, in any order. Nothing here allocates for a request, and nothing waits.

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// What a volume looks like from the outside. It does not change while it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes that can be addressed: `0..size_bytes`.
    pub size_bytes: u64,
    /// Requests that begin and end on multiples of this are served without reading what is around them. A power of two;
    /// others are served too, slower.
    pub block_bytes: u32,
    /// Nothing that changes data is accepted; it is refused as [`Refusal::NotPermitted`].
    pub read_only: bool,
}

/// One request. Ranges are in bytes and may begin and end anywhere; a range beyond [`Geometry::size_bytes`] is refused as
/// [`Refusal::NoSpace`] where it would write, as [`Refusal::Invalid`] elsewhere. A length of 0 is answered and does nothing.
#[derive(Clone, Debug)]
pub enum Request {
    Read {
        at: u64,
        len: u32,
    },
    /// `fua`: answered only when this data is on stable storage.
    Write {
        at: u64,
        data: Bytes,
        fua: bool,
    },
    /// Answered when every change that was *answered* before this was submitted, on any connection, is on stable storage.
    Flush,
    /// What the range reads as afterwards is not defined. Parts of it may be left as they are.
    Trim {
        at: u64,
        len: u32,
        fua: bool,
    },
    /// The range reads as zeroes afterwards. `may_unmap`: its space may be given back; without it, writing there later
    /// never fails for want of space. `fast_only`: refused as [`Refusal::NotSupported`], without having changed
    /// anything, where it would take as long as writing.
    WriteZeroes {
        at: u64,
        len: u32,
        fua: bool,
        may_unmap: bool,
        fast_only: bool,
    },
    /// A hint that the range will be read soon.
    Cache {
        at: u64,
        len: u32,
    },
    /// Which parts of the range are holes, which read as zeroes. `one`: only the first part is wanted.
    Status {
        at: u64,
        len: u32,
        one: bool,
    },
}

/// What a request that was served gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Read`]: exactly as many bytes as were asked for.
    Data(Bytes),
    /// To [`Request::Status`]: from the range's start on, without gaps, none empty, within the range. They may end before the
    /// range does.
    Extents(Vec<Extent>),
    /// To everything else.
    Done,
}

/// A part of a volume, in the words of NBD's `base:allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub len: u32,
    /// No space is allocated: a write there may fail for want of it.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// Why a request was not served. These are the errors that NBD knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("not permitted")]
    NotPermitted,
    #[error("input or output failed")]
    Io,
    #[error("out of memory")]
    NoMemory,
    #[error("invalid request")]
    Invalid,
    #[error("no space left")]
    NoSpace,
    #[error("too large")]
    TooLarge,
    #[error("not supported")]
    NotSupported,
    #[error("shutting down")]
    ShuttingDown,
}

pub type Answer = Result<Reply, Refusal>;

/// Where a front end takes answers.
pub trait Mailbox: Send + Sync {
    /// Takes the answer to the request that was submitted with `tag`. Called once for each, from any thread; it must not
    /// block.
    fn deliver(&self, tag: u64, answer: Answer);
}

/// The duty to answer one request. Dropped without an answer it answers [`Refusal::Io`]: whatever breaks behind the
/// border, no request is forgotten.
pub struct Done {
    mailbox: Option<Arc<dyn Mailbox>>,
    tag: u64,
}

impl Done {
    #[must_use]
    pub fn new(mailbox: Arc<dyn Mailbox>, tag: u64) -> Done {
        Done { mailbox: Some(mailbox), tag }
    }

    pub fn answer(mut self, answer: Answer) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.deliver(self.tag, answer);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.deliver(self.tag, Err(Refusal::Io));
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// Something that can be served, as the threads of a front end share it.
pub trait Volume: Send + Sync {
    fn geometry(&self) -> Geometry;

    /// The volume as one thread sees it. Called on that thread, inside its tokio runtime, once; what the thread needs for
    /// itself (a ring of `io_uring`) lives in the lane, so that no request takes a lock another thread holds for long.
    ///
    /// # Errors
    /// Where the thread's own resources cannot be had.
    fn lane(&self) -> std::io::Result<Box<dyn Device>>;
}

/// A volume's lane. Not `Send`: it stays on its thread.
pub trait Device {
    /// Begins to serve a request. Never blocks on a disk, or only where that is quicker than to hand the request on.
    /// Requests that are outstanding together are served in any order.
    fn submit(&self, request: Request, done: Done);

    /// What was submitted is started now, at the latest. A front end calls it after each batch.
    fn kick(&self) {}
}

#[cfg(test)]
mod tests {
    use super::{Answer, Done, Mailbox, Refusal, Reply};
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Seen(Mutex<Vec<(u64, Answer)>>);

    impl Mailbox for Seen {
        fn deliver(&self, tag: u64, answer: Answer) {
            self.0.lock().unwrap().push((tag, answer));
        }
    }

    #[test]
    fn a_request_is_answered_once_and_never_forgotten() {
        let seen = Arc::new(Seen::default());
        Done::new(seen.clone(), 1).answer(Ok(Reply::Done));
        drop(Done::new(seen.clone(), 2));
        assert_eq!(*seen.0.lock().unwrap(), [(1, Ok(Reply::Done)), (2, Err(Refusal::Io))]);
    }
}
