//! When a ring of `io_uring` has completions, as an event loop of tokio's hears it.

use io_uring::IoUring;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Readable while the ring has completions that nobody has taken.
///
/// # Errors
/// Where descriptors are short.
#[expect(unsafe_code, reason = "tokio wants a promise that the descriptor stays the same one")]
pub(crate) fn of(ring: &IoUring) -> io::Result<AsyncFd<OwnedFd>> {
    // A descriptor of its own: the ring's is closed with the ring, whenever that is.
    let descriptor = duplicate(ring)?;
    // SAFETY: an `OwnedFd` is one descriptor for as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

fn duplicate(ring: &IoUring) -> io::Result<OwnedFd> {
    struct Borrowed(RawFd);
    #[expect(unsafe_code, reason = "io-uring gives its descriptor as a bare number")]
    impl std::os::fd::AsFd for Borrowed {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            // SAFETY: the ring that was asked for the number is alive while this is.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
        }
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(Borrowed(ring.as_raw_fd()), 0)?)
}
