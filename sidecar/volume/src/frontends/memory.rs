//! What a process needs that the kernel writes dirty pages to: memory that it has already, and none that is to be had by writing
//! dirty pages first, which would wait for itself.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::configure_io_flusher_behavior;

/// Keeps the process in memory, and its allocations from waiting for its own device. What was asked for holds for this thread and
/// for those that it starts from now on: to be called before the first of them. Who may not have it is told, and serves anyway.
pub(super) fn prepare() {
    if let Err(error) = configure_io_flusher_behavior(true) {
        tracing::warn!(
            %error,
            "PR_SET_IO_FLUSHER is refused (it needs CAP_SYS_RESOURCE): short of memory, this server can come to wait for its own device"
        );
    }
    // What is touched stays; what is only reserved, as most of a thread's stack, is not filled for it.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(
            %error,
            "memory cannot be locked (raise LimitMEMLOCK): short of memory, this server can come to wait for its own device"
        );
    }
}
