//! The contract that a node's daemon and the control plane's functions both sign: the lease row and its legal changes,
//! who may serve when, every timer, and the events. Pure: no clock, I/O, randomness or AWS types in here, so that the
//! same code runs in the daemon, in the functions, in models and in simulations. Only `table` (feature `dynamodb`)
//! knows how a row is stored.
//!
//! Start with [`record::Row`], then [`change::Change`], then [`authority::Authority`] and [`accept::Vigil`]. Why each guard is
//! there is in the [`manual`].

pub mod accept;
pub mod authority;
pub mod change;
pub mod config;
pub mod events;
pub mod fields;
pub mod heartbeat;
pub mod ids;
pub mod manual;
pub mod outcome;
pub mod policy;
pub mod record;
pub mod rules;
#[cfg(feature = "dynamodb")]
pub mod table;
pub mod time;
