//! The node's machine: pure. Events come in with the moment of their arrival, effects come out.

pub mod effect;
pub mod event;

use lease::time::Millis;

/// The machine must see a `Tick` at least this often: half the smallest margin that it acts within.
pub const TICK: Millis = Millis(25);
