//! The connections of one client that sends what was not answered on one of them again on another: the kernel's, which closes a
//! socket whose request takes too long. What came by the old socket may still be on its way to the disk, or even be unread; were it
//! to reach the disk *after* its repetition was answered, it would undo what the client has written there since.
//!
//! So a connection asks before it hands on what it has read. The kernel closes the old socket before it repeats a request, so who
//! has read a repetition sees that the old socket is closed: from then on its connection hands on nothing, and the others wait until
//! what it had handed on is done.
//!
//! ```text
//!   all open ──a socket is closed──▶ its connection: hands on nothing more   ──all it asked is done──▶ it leaves: all open
//!                                    the others: hand on nothing until it has left
//! ```
//!
//! It all rests on one thread: between asking and handing on nobody else runs, so nothing is handed on unseen.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use slab::Slab;
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Shared by the connections of one client.
#[derive(Debug, Default)]
pub struct Gate {
    members: RefCell<Slab<Member>>,
}

#[derive(Debug)]
struct Member {
    /// The same socket as the connection's.
    socket: OwnedFd,
    /// The client has closed it.
    is_closed: bool,
    waker: Option<Waker>,
}

impl Member {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A connection's part in it; when it is dropped nothing of the connection is outstanding any more.
#[derive(Debug)]
pub struct Pass {
    gate: Rc<Gate>,
    key: usize,
}

/// The client has closed this connection's socket: what was read of it and not yet handed on comes again by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Gate {
    /// `socket`: a duplicate of the connection's.
    #[must_use]
    pub fn enter(self: &Rc<Gate>, socket: OwnedFd) -> Pass {
        let key = self.members.borrow_mut().insert(Member { socket, is_closed: false, waker: None });
        Pass { gate: Rc::clone(self), key }
    }

    /// Closes all of them on both ends, whatever is under way.
    pub fn cut(&self) {
        for (_, member) in self.members.borrow().iter() {
            // Closed already: fine.
            let _ = shutdown(&member.socket, Shutdown::Both);
        }
    }

    /// Looks which sockets the client has closed by now.
    fn look(&self) {
        let mut members = self.members.borrow_mut();
        let mut asked: Vec<PollFd<'_>> =
            members.iter().map(|(_, member)| PollFd::new(&member.socket, PollFlags::RDHUP)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let outcome = poll(&mut asked, Some(&now));
        // What cannot be looked at counts as closed: that costs time only.
        let closed: Vec<bool> = asked.iter().map(|one| outcome.is_err() || !one.revents().is_empty()).collect();
        for ((_, member), is_closed) in members.iter_mut().zip(closed) {
            if is_closed && !member.is_closed {
                member.is_closed = true;
                // It may wait for something that this gate keeps from coming.
                member.wake();
            }
        }
    }
}

impl Pass {
    /// Ready when what was read may be handed on, at once.
    ///
    /// # Errors
    /// [`Closed`]: it must not, ever.
    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        self.gate.look();
        let mut members = self.gate.members.borrow_mut();
        let own = &mut members[self.key];
        if own.is_closed {
            return Poll::Ready(Err(Closed));
        }
        own.waker = Some(cx.waker().clone());
        if members.iter().any(|(_, member)| member.is_closed) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut members = self.gate.members.borrow_mut();
        members.remove(self.key);
        for (_, member) in members.iter_mut() {
            member.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Closed, Gate};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn who_has_read_a_repetition_waits_for_the_first() {
        let gate = Rc::new(Gate::default());
        let mut cx = Context::from_waker(Waker::noop());
        let ((one, their_one), (two, _their_two)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let pass_one = gate.enter(one.try_clone().unwrap().into());
        let pass_two = gate.enter(two.try_clone().unwrap().into());
        assert_eq!(pass_one.poll_open(&mut cx), Poll::Ready(Ok(())));
        assert_eq!(pass_two.poll_open(&mut cx), Poll::Ready(Ok(())));
        // The kernel closes by `shutdown`, and keeps the socket.
        their_one.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(pass_two.poll_open(&mut cx), Poll::Pending);
        assert_eq!(pass_one.poll_open(&mut cx), Poll::Ready(Err(Closed)));
        drop(pass_one);
        assert_eq!(pass_two.poll_open(&mut cx), Poll::Ready(Ok(())));
        gate.cut();
        assert_eq!(pass_two.poll_open(&mut cx), Poll::Ready(Err(Closed)));
    }
}
