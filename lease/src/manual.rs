//! The manual: the protocol as built, for whoever must change it. Read in this order.
//!
//! 1. [`protocol`]: words, the row, each transition and why each of its guards exists, routes.
//! 2. [`clocks`]: what rests on clocks and what does not; the arithmetic of leases and promises, with numbers.
//! 3. [`counter_examples`]: what happens without a guard, step by step, as a model or the simulator found it.
//! 4. [`verification`]: what models, simulator and planted bugs show, and what they do not.
//!
//! It is part of the crate so that its links are checked with the code: `cargo doc -p lease` fails on one that is broken.

#[doc = include_str!("manual/clocks.md")]
pub mod clocks {}

#[doc = include_str!("manual/counter_examples.md")]
pub mod counter_examples {}

#[doc = include_str!("manual/protocol.md")]
pub mod protocol {}

#[doc = include_str!("manual/verification.md")]
pub mod verification {}
