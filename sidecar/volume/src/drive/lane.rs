//! A volume of the group as a front end sees it.

use super::Driver;
use crate::core::Ask;
use crate::ids::{Span, VolumeNo};
use crate::request::{Answer, Device, Done, Mailbox, Refusal, Reply, Request};
use crate::wire::MAX_SPAN;
use bytes::Bytes;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// One volume, for one front end on the group's thread.
pub struct Lane {
    driver: Rc<Driver>,
    volume: VolumeNo,
    /// The disk itself: it alone knows where its holes are.
    disk: Box<dyn Device>,
}

impl Lane {
    #[must_use]
    pub fn new(driver: Rc<Driver>, volume: VolumeNo, disk: Box<dyn Device>) -> Self {
        Self { driver, volume, disk }
    }

    /// Asks for a range in parts that fit a frame.
    fn ask_parts(&self, at: u64, len: u32, done: Done, ask: impl Fn(Span) -> Ask) {
        let (volume, end) = (self.volume, at + u64::from(len));
        let starts: Vec<u64> = (at..end).step_by(usize::try_from(MAX_SPAN).expect("32 MiB")).collect();
        let joint = Joint::new(starts.len(), done);
        for at in starts {
            let len = (end - at).min(MAX_SPAN);
            self.driver.ask(ask(Span { volume, at, len }), Done::new(Arc::clone(&joint) as Arc<dyn Mailbox>, 0));
        }
    }
}

impl Device for Lane {
    fn submit(&self, request: Request, done: Done) {
        let volume = self.volume;
        match request {
            Request::Read { len: 0, .. } => done.answer(Ok(Reply::Data(Bytes::new()))),
            Request::Write { data, .. } if data.is_empty() => done.answer(Ok(Reply::Done)),
            Request::Trim { len: 0, .. } | Request::WriteZeroes { len: 0, .. } | Request::Cache { .. } => {
                done.answer(Ok(Reply::Done));
            }
            Request::Read { at, len } => {
                self.driver.ask(Ask::Read(Span { volume, at, len: u64::from(len) }), done);
            }
            Request::Write { at, data, fua } => self.driver.ask(Ask::Write { volume, at, data, fua }, done),
            Request::Flush => self.driver.ask(Ask::Flush, done),
            Request::Trim { at, len, fua } => self.ask_parts(at, len, done, |span| Ask::Trim { span, fua }),
            // Nobody knows how long it takes on each of the disks.
            Request::WriteZeroes { fast_only: true, .. } => done.answer(Err(Refusal::NotSupported)),
            Request::WriteZeroes { at, len, fua, may_unmap, .. } => {
                self.ask_parts(
                    at,
                    len,
                    done,
                    |span| {
                        if may_unmap { Ask::Trim { span, fua } } else { Ask::Zero { span, fua } }
                    },
                )
            }
            Request::Status { .. } => self.disk.submit(request, done),
        }
    }

    fn kick(&self) {
        self.driver.kick();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("volume", &self.volume).finish_non_exhaustive()
    }
}

/// One request in several parts: answered with the last, as the worst.
struct Joint {
    parts: Mutex<(usize, Answer, Option<Done>)>,
}

impl Joint {
    fn new(parts: usize, done: Done) -> Arc<Self> {
        Arc::new(Self { parts: Mutex::new((parts, Ok(Reply::Done), Some(done))) })
    }
}

impl Mailbox for Joint {
    fn deliver(&self, _: u64, answer: Answer) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.0 -= 1;
        if answer.is_err() {
            parts.1 = answer;
        }
        if parts.0 == 0
            && let Some(done) = parts.2.take()
        {
            done.answer(parts.1.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Joint;
    use crate::request::{Answer, Done, Mailbox, Refusal, Reply};
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Seen(Mutex<Vec<Answer>>);

    impl Mailbox for Seen {
        fn deliver(&self, _: u64, answer: Answer) {
            self.0.lock().unwrap().push(answer);
        }
    }

    #[test]
    fn parts_are_answered_once_as_the_worst_of_them() {
        let seen = Arc::new(Seen::default());
        let joint = Joint::new(3, Done::new(seen.clone(), 7));
        joint.deliver(0, Ok(Reply::Done));
        joint.deliver(0, Err(Refusal::Io));
        assert!(seen.0.lock().unwrap().is_empty());
        joint.deliver(0, Ok(Reply::Done));
        assert_eq!(*seen.0.lock().unwrap(), [Err(Refusal::Io)]);
    }
}
