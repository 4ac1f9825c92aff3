//! An NBD server: fixed newstyle, TLS, structured replies, `base:allocation`; judged by the clients of libnbd, QEMU, nbdkit and fio.
//!
//! [`handshake`] and [`transmission`] are pure: bytes in, bytes and requests out. [`connection`] and [`server`] move the
//! bytes.

mod budget;
pub mod connection;
pub mod gate;
pub mod handshake;
pub mod listen;
pub mod server;
pub mod spec;
pub mod tls;
pub mod transmission;

pub use budget::{Budget, MEMORY_MAX_BYTES, Memory};
