//! The whole cluster in one thread, with the code that ships: the node's machine, the functions, the rules of the lease;
//! around them a world from a seed that does to them what the real one may do, and somebody who sees everything.
//!
//! ```text
//!  Weather (a seed's subset of faults) ─▶ World ─▶ Queue: what is due, in order of simulated time
//!     hosts: node::Node, volume::core::Replica, clocks, address,     functions: lambdas::operate, lambdas::watch
//!            disks, workload
//!     network, wires, store (the row), ec2, bus, clients, operator   checks: I1-I8, history, liveness
//! ```
//! Nothing in here reads a clock or has a thread; the binary does. The same seed gives the same run, to the last event.
//!
//! A quarter of the clusters has no volumes, as where none are configured: there the lease, the addresses and the routes are all
//! that there is to judge. In the others each node has a replica on disks that lose and tear what was not flushed, see [`data`].
//!
//! What is abstracted: the peer link's TLS and pins; the table's encoding; the workload is one resource; reads of the
//! configuration by nodes (they have it at their start); a replaced instance (its id never changes); a disk that is put back
//! in place together with its incarnation (see [`lost`]).

pub mod bus;
pub mod checks;
pub mod client;
pub mod clock;
pub mod cloud;
pub mod data;
pub mod deploy;
pub mod dice;
pub mod disk;
pub mod ec2;
pub mod faults;
pub mod heal;
pub mod history;
pub mod host;
pub mod lost;
pub mod network;
pub mod operator;
pub mod queue;
pub mod report;
pub mod run;
pub mod store;
pub mod stories;
pub mod trace;
pub mod weather;
pub mod wires;
pub mod world;

#[cfg(test)]
mod tests;

pub use checks::{Violation, i1, i3, i4};
use dice::Dice;
use report::Counts;
use std::panic::{AssertUnwindSafe, catch_unwind};
use weather::Weather;
use world::World;

/// What one seed came to.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub counts: Counts,
    pub hash: u64,
    pub violation: Option<Violation>,
    /// Empty unless it was asked for.
    pub trace: String,
}

/// Runs one seed to its end, or to the first violation. A panic of the code under test is one too.
#[must_use]
pub fn run(seed: u64, keep_trace: bool) -> Outcome {
    let mut dice = Dice::of(seed);
    let weather = Weather::of(&mut dice);
    run_in(seed, weather, dice, keep_trace)
}

/// The same in a given weather.
#[must_use]
pub fn run_in(seed: u64, weather: Weather, dice: Dice, keep_trace: bool) -> Outcome {
    let mut world = World::new(seed, weather, dice, keep_trace);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        world.counts.simulated = world.now;
        world.broken("panic", text.unwrap_or("without words").to_owned());
    }
    let trace = if keep_trace {
        let w = &world.weather;
        format!(
            "seed {seed}: {} nodes {} volumes, ttl {} ms, {:.0} s of faults, one every {:.1} s, of: {}\n{}",
            w.nodes,
            if w.volumes { "with" } else { "without" },
            w.ttl_ms,
            w.length as f64 / 1e6,
            w.every as f64 / 1e6,
            w.kinds().join(", "),
            world.trace.text()
        )
    } else {
        String::new()
    };
    let (counts, hash) = (world.counts.clone(), world.trace.hash());
    // After a panic in the middle of a step the world is in pieces: it is not looked at any more.
    let violation = world.violation.take();
    Outcome { seed, counts, hash, violation, trace }
}
