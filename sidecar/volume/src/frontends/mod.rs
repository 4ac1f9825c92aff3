//! How a workload sees a volume as a block device of its own kernel. The border to what is behind is [`crate::request`], the same
//! as for clients of the NBD server; another front end (ublk) is another user of it beside [`kernel_nbd`].

pub mod kernel_nbd;
mod memory;
mod netlink;
mod record;
mod sysfs;
