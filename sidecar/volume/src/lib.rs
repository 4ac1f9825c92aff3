//! The volume: what serves a block device to a workload, and what keeps it.
//!
//! ```text
//!   frontends::kernel_nbd, qemu, WNBD ──▶ nbd ──┬▶ request::{Request, Done} ──┬──────────▶ backing ──▶ a file or a block device
//!   frontends::ublk ────────────────────────────┘                             └──▶ drive (core) ──▲──▶ wire ──▶ peers
//! ```
//!
//! [`operate`] is what an operator asks of running volumes: status, verification, resync. What a verification does and what becomes of
//! a copy that differs, how a read error is repaired, and what is not there says [`core`].
//!
//! [`request`] is the border: a front end knows nothing of what is behind it, and the other way round.

pub mod backing;
pub mod buffer;
mod by_number;
pub mod core;
pub mod create;
pub mod discard;
pub mod drive;
pub mod frontends;
pub mod ids;
pub mod metadata;
pub mod nbd;
pub mod operate;
mod readiness;
pub mod replicate;
pub mod request;
pub mod resize;
pub mod rollback;
pub mod serve;
pub mod wire;
