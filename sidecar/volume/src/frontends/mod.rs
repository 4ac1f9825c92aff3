//! How a workload sees a volume as a block device of its own kernel: a [`device`], by one of the kernel's drivers. The border to what
//! is behind is [`crate::request`], the same as for clients of the NBD server.

pub mod device;
pub mod kernel_nbd;
mod memory;
mod netlink;
mod record;
mod sysfs;
#[cfg(feature = "ublk")]
pub mod ublk;
