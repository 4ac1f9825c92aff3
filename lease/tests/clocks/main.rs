//! At most one node serves, on any two clocks that policy allows: a holder and a watcher with the real authority, vigil and
//! changes, against a table and links that lose, delay and reorder, with pauses, suspensions and restarts.
//!
//! Each planted mistake (a mutant) must be caught by the same runs, else they would prove nothing.

mod world;

use world::{Mistake, World};

/// Runs in the ordinary test; each simulates 25 s.
const RUNS: u64 = 1_500;
/// A mutant that survives this many runs is a hole in the runs.
const RUNS_TO_CATCH: u64 = 4_000;

#[test]
fn never_do_two_nodes_serve() {
    let mut taken_over = 0;
    for seed in 0..RUNS {
        let mut world = World::new(seed, None);
        if let Some(both) = world.run() {
            panic!("seed {seed}: {both}");
        }
        taken_over += u64::from(world.watcher_served());
    }
    assert!(taken_over > RUNS / 8, "in only {taken_over} of {RUNS} runs the watcher ever took over");
    assert!(taken_over < RUNS, "in no run the holder kept the lease");
}

fn is_caught(mistake: Mistake) {
    let caught = (0..RUNS_TO_CATCH).find(|seed| World::new(*seed, Some(mistake)).run().is_some());
    let seed = caught.unwrap_or_else(|| panic!("{mistake:?} survives {RUNS_TO_CATCH} runs"));
    println!("{mistake:?} is caught by run {seed}");
}

macro_rules! mutants {
    ($($name:ident = $mistake:ident),* $(,)?) => { $(#[test] fn $name() { is_caught(Mistake::$mistake); })* };
}

mutants! {
    a_lease_that_counts_from_the_answer_is_caught = LeaseFromAnswer,
    a_promise_that_counts_from_the_answer_is_caught = PromiseFromAnswer,
    a_promise_that_counts_in_full_is_caught = PromiseInFull,
    a_wait_of_only_the_ttl_is_caught = WaitOnlyTtl,
    a_wait_from_when_the_read_was_asked_for_is_caught = WaitFromAsking,
    a_promise_during_an_acceptance_is_caught = PromiseWhileAccepting,
    an_acceptance_despite_a_promise_is_caught = AcceptDespitePromise,
    a_holder_that_believes_the_clock_that_stops_in_suspension_is_caught = HolderIgnoresSuspension,
    serving_at_once_on_an_old_process_s_acceptance_is_caught = ServeDespitePromise,
    promises_where_a_lossy_nominee_promised_nothing_are_caught = PromisesThoughLossy,
}
