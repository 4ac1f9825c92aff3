//! A3: executors and routes.

mod lease;
mod routes;

use crate::runner::{Exhaustive, Limits, Mutant, Size};
use routes::{Bounds, Mutation, Routes};

pub fn exhaustive(size: Size) -> Vec<Exhaustive> {
    let bounds = |nodes, epochs, meddling, unanswered, step_by_step| Bounds {
        nodes,
        epochs,
        meddling,
        unanswered,
        step_by_step,
    };
    let (searches, limits) = match size {
        Size::Test => (vec![bounds(2, 3, 0, false, false)], Limits::none()),
        Size::Ci => (
            vec![bounds(2, 3, 0, true, false), bounds(2, 2, 1, true, false), bounds(3, 3, 0, false, true)],
            Limits::none(),
        ),
        Size::Big => (vec![bounds(3, 3, 1, true, false), bounds(2, 4, 2, true, false)], Limits::at_most(30, 400_000_000)),
    };
    let searches = searches.into_iter();
    searches.map(|bounds| Exhaustive::new("a3", bounds.to_string(), move || Routes::new(bounds, None), limits)).collect()
}

pub fn mutants() -> Vec<Mutant> {
    let mutant = |name, trap, left_out, mutation| {
        let bounds = Bounds { nodes: 2, epochs: 3, meddling: 0, unanswered: true, step_by_step: true };
        Mutant::new("a3", name, trap, left_out, move || Routes::new(bounds, Some(mutation)))
    };
    vec![
        mutant("calls-on-old-read", 30, "the row is not read again right before the calls", Mutation::NoReadBeforeCalls),
        mutant("finishes-old-plan", 30, "a run that sees the epoch move finishes what it began", Mutation::FinishesOldPlan),
        mutant("clean-up", 31, "after its calls a run deletes routes that lead to an older holder", Mutation::CleansUp),
        mutant("routes-to-nominee", 32, "routes move at the nomination, not at the acceptance", Mutation::RoutesToNominee),
        mutant("trusts-a-match", 33, "watch looks no more at an epoch whose routes it saw match", Mutation::TrustsAMatch),
        mutant("no-sweep", 39, "routes are looked at only when an event comes", Mutation::NoWatch),
        mutant("every-table", 0, "each described table gets the route, also one that never carried it", Mutation::EveryTable),
    ]
}
