//! A3: the functions and the routes. Two models, as they share the row and nothing else.
//!
//! `decisions`: nodes, the row, and runs of `failover` and `watch` from what woke them to the moment the lease is taken.
//! `routes`: a row that moves by any legal change at any time, and runs from there to routes that lead to the holder.
//! A run may be late at each of its steps (another step comes first), be begun twice, or end anywhere. The routes' model
//! lets the row do more than the decisions' could bring about, so what holds in it holds of both together.
//!
//! # What is the shipping code, and what is not
//!
//! Called as it is: [`lambdas::decide::decide`], [`lambdas::routing::plan`], `lease::change::Change::on`,
//! `lease::accept::Vigil::may_accept`. Written again, one step for each await: the order of a run's reads, looks and
//! writes, from `lambdas::failover`, `lambdas::watch` and `lambdas::converge`. Whoever changes the order of awaits there
//! must change it in `routes/executor.rs` or `decisions/run.rs`.
//!
//! # What is left out, and why that loses nothing
//!
//! * **Clocks.** Any step may take any time. That a nominee's wait is over only once the holder's gate is closed is what A2
//!   shows for all allowed clocks; the decisions' model takes it from there, and lets the gate close at any moment.
//! * **Who hears whom, and who reaches the table**, is no state: at each look everybody may be heard or not, and everybody
//!   who lives may be late. A real network does less.
//! * **Events** are not sent: each that could ever have been sent may come at any time, any number of times. That covers
//!   late, repeated and lost ones.
//! * **The row's own races** (unanswered writes of nodes, the in-sync set) are A1's. Here a node's write is one step; a
//!   function's may stay unanswered and be applied later. In the routes' model everybody is in sync.
//! * **EC2** describes each table, and the nodes' interfaces, as they are or as they were before their last change; a run
//!   may keep a description for as long as it likes, so older ones are met as well. One unanswered call at a time is on its way.
//! * **The later looks** of a failover's run carry nothing from one to the next, so each is a run of its own.
//! * **Why a holder hands over.** It does so when it likes, to whom it likes, with a request or without; the rows that follow
//!   are the row's own rules. How old a request is before it is taken back: any may be.
//!
//! # What is claimed of routes (I8), and how
//!
//! EC2 takes no fencing token: a late run does move a route away from the holder (that it happens is a check). So the
//! claim is about what follows: in every state in which no run and no unanswered call is left, one visit of `watch` makes
//! every route lead to the holder, and a second changes nothing. A run ends when its function's time is over, whatever it
//! does, and so does a call; so every execution in which nothing new goes wrong comes to such a state. Likewise for the
//! lease: from every such state three visits of `watch` find a holder, if a member in sync lives.
//!
//! Routes move when the row has a holder, not when that holder is active. That is meant: with the acceptance nobody else
//! may serve, and a node that is not active yet drops what reaches it, so nothing is lost and time is won. What must not
//! happen is moving them earlier, to a nominee that may never accept (the mutant for trap 32).

mod decisions;
mod lease;
mod routes;

use crate::runner::{Exhaustive, Limits, Mutant, Size};
use decisions::{Decisions, Wakes};
use routes::Routes;

/// Searches of the real rules.
#[must_use]
pub fn exhaustive(size: Size) -> Vec<Exhaustive> {
    let deciding = |nodes, revs, runs, deaths, wakes| decisions::Bounds { nodes, revs, runs, deaths, wakes };
    let routing = |nodes, epochs, meddling, unanswered, step_by_step| routes::Bounds {
        nodes,
        epochs,
        meddling,
        unanswered,
        step_by_step,
    };
    let (decisions, routes, limits) = match size {
        Size::Test => {
            (vec![deciding(3, 3, 1, 0, Wakes::Suspicions)], vec![routing(2, 3, 0, false, false)], Limits::none())
        }
        Size::Ci => (
            vec![
                deciding(2, 4, 1, 1, Wakes::Events),
                deciding(2, 3, 2, 0, Wakes::Suspicions),
                deciding(3, 3, 1, 1, Wakes::Suspicions),
                deciding(2, 4, 1, 0, Wakes::ByHand),
            ],
            vec![
                routing(2, 3, 0, true, false),
                routing(2, 2, 1, true, false),
                routing(2, 3, 0, false, true),
                routing(3, 3, 0, false, false),
            ],
            Limits::none(),
        ),
        Size::Big => (
            vec![deciding(3, 6, 2, 2, Wakes::Events), deciding(3, 5, 2, 1, Wakes::ByHand)],
            vec![routing(3, 3, 1, true, true), routing(2, 4, 2, true, false)],
            Limits::at_most(10, 200_000_000),
        ),
    };
    let decisions = decisions
        .into_iter()
        .map(|bounds| Exhaustive::new("a3", bounds.to_string(), move || Decisions::new(bounds, None), limits));
    let routes = routes
        .into_iter()
        .map(|bounds| Exhaustive::new("a3", bounds.to_string(), move || Routes::new(bounds, None), limits));
    decisions.chain(routes).collect()
}

/// What a step changed, in words: the parts of the state after it that were not there before.
fn changed(before: &[String], after: &[String]) -> String {
    let new: Vec<&str> = after.iter().filter(|part| !before.contains(part)).map(String::as_str).collect();
    if new.is_empty() { String::new() } else { format!(" ⇒ {}", new.join(" | ")) }
}

/// The rules with one left out.
#[must_use]
pub fn mutants() -> Vec<Mutant> {
    use decisions::Mutation as Decides;
    use routes::Mutation as Leads;
    let deciding = |name, trap, left_out, mutation, wakes| {
        let bounds = decisions::Bounds { nodes: 2, revs: 6, runs: 2, deaths: 1, wakes };
        let model = move |mutation| move || Decisions::new(bounds, mutation);
        Mutant::new("a3", name, trap, left_out, model(None), model(Some(mutation)))
    };
    let asking = |name, left_out, mutation, runs| {
        let bounds = decisions::Bounds { nodes: 2, revs: 5, runs, deaths: 0, wakes: Wakes::ByHand };
        let model = move |mutation| move || Decisions::new(bounds, mutation);
        Mutant::new("a3", name, 0, left_out, model(None), model(Some(mutation)))
    };
    let routing = |name, trap, left_out, mutation| {
        let bounds = routes::Bounds { nodes: 2, epochs: 3, meddling: 0, unanswered: true, step_by_step: true };
        let model = move |mutation| move || Routes::new(bounds, mutation);
        Mutant::new("a3", name, trap, left_out, model(None), model(Some(mutation)))
    };
    let orphaned = |mutation| {
        let bounds = decisions::Bounds { nodes: 3, revs: 3, runs: 1, deaths: 2, wakes: Wakes::Suspicions };
        move || Decisions::new(bounds, mutation)
    };
    vec![
        deciding("adds-epoch", 10, "raises the epoch by adding one, on any row", Decides::AddsEpoch, Wakes::Events),
        deciding(
            "old-read",
            11,
            "decides on an old read, and writes if the epoch is the same",
            Decides::ReadsOldRow,
            Wakes::Suspicions,
        ),
        deciding(
            "function-takes-lease",
            12,
            "waits for the lease's end itself, and takes it for the nominee",
            Decides::TakesForNominee,
            Wakes::Suspicions,
        ),
        deciding(
            "order-is-proof",
            15,
            "an operator's word stands for proof that the holder is dead",
            Decides::OrderIsProof,
            Wakes::ByHand,
        ),
        deciding(
            "event-is-proof",
            39,
            "EC2's event is proof of death, without asking EC2",
            Decides::TrustsTheEvent,
            Wakes::Events,
        ),
        deciding(
            "deaf",
            0,
            "no standby is asked whether it hears the holder",
            Decides::DeafToHearing,
            Wakes::Suspicions,
        ),
        deciding(
            "outlives-renewal",
            0,
            "a nomination is bound to the epoch, not to the beat",
            Decides::OutlivesRenewal,
            Wakes::Suspicions,
        ),
        Mutant::new(
            "a3",
            "waits-for-nominee",
            0,
            "a nominee that does not accept is waited for",
            orphaned(None),
            orphaned(Some(Decides::WaitsForNominee)),
        ),
        asking("keeps-requests", "watch takes no request back", Decides::KeepsRequests, 1),
        routing("calls-on-old-read", 30, "the row is not read right before the calls", Leads::NoReadBeforeCalls),
        routing(
            "finishes-old-plan",
            30,
            "a run that sees the epoch move finishes what it began",
            Leads::FinishesOldPlan,
        ),
        routing("clean-up", 31, "a run deletes routes that lead to an older holder", Leads::CleansUp),
        routing(
            "routes-to-nominee",
            32,
            "routes move at the nomination, not at the acceptance",
            Leads::RoutesToNominee,
        ),
        routing("trusts-a-match", 33, "watch looks no more at an epoch whose routes it saw match", Leads::TrustsAMatch),
        routing("no-sweep", 39, "routes are looked at only when an event comes", Leads::NoWatch),
        routing("every-table", 0, "each described table gets the route", Leads::EveryTable),
    ]
}
