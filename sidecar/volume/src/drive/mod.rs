//! What moves a [`crate::core::Replica`]: disks, sockets and the clock, in one event loop on one thread, so that a write that
//! needs nobody else's thread waits for none.
//!
//! ```text
//!  front end (lane) ──Ask──▶ ┌─────────┐ ──Submit───▶ a lane per volume ──┐
//!  peers (link) ──Received─▶ │ driver  │ ──Persist──▶ metadata (area) ────┤
//!  node ──Order────────────▶ │ machine │ ──Send─────▶ an outbox per link  │
//!  clock ──Tick────────────▶ └─────────┘ ◀─────── inbox ◀─────────────────┘
//! ```

pub mod area;
mod clock;
mod complaints;
mod compress;
mod driver;
pub mod group;
mod lane;
mod link;
mod log;
mod progress;
pub mod resize;
pub mod undo;
mod vigil;

pub(crate) use clock::now;
pub use compress::Compress;
pub use driver::{Admission, Driver};
pub use group::{Group, Order, Parts, Security};
pub use lane::Lane;
pub use log::hex;
