//! The rules that a mutant of A2 leaves out. None of them exists in a shipping crate.

use super::A2;
use crate::runner::Mutant;

/// One rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    LeaseFromAnswer,
    PromiseFromAnswer,
    PromiseInFull,
    WaitOnlyTtl,
    WaitFromAsking,
    HolderIgnoresSuspension,
    GrowNeedsLate,
    ConditionOnEpoch,
    JudgedByFunction,
    OnePromiseIsEnough,
    PromisesThoughLossy,
    PromiseForgotten,
    ServeOnLateAcceptance,
    LateAcceptanceAtOnce,
    RightComesBack,
    AcceptDespitePromise,
    PromiseWhileAccepting,
    PromiseForEver,
    NeverAlone,
}

/// Every mutant of A2.
#[must_use]
pub fn mutants() -> Vec<Mutant> {
    use Mistake as M;
    let mutant = |mistake: Mistake, name, trap, left_out, bounds: A2| {
        let a2 = A2 { mistake: Some(mistake), ..bounds };
        // With this one the bounds themselves are what is left out.
        let reopens = a2.reopens && mistake != M::RightComesBack;
        Mutant::new("a2", name, trap, left_out, move || A2 { mistake: None, reopens, ..a2 }, move || a2)
    };
    let pair = A2 { restarts: 0, ..A2::real(2, 4) };
    let restarts = A2 { restarts: 1, ..pair };
    let set = A2 { members_change: true, ..A2::real(2, 5) };
    let three = A2 { restarts: 0, ..A2::real(3, 3) };
    vec![
        mutant(M::LeaseFromAnswer, "lease-from-answer", 1, "the lease counts from the answer, not the send", pair),
        mutant(
            M::PromiseFromAnswer,
            "promise-from-answer",
            1,
            "a promise counts from its arrival, not the ping's send",
            A2 { delays: true, ..pair },
        ),
        mutant(M::PromiseInFull, "promise-in-full", 3, "a promise counts as long as it was given for", pair),
        mutant(M::WaitOnlyTtl, "wait-only-ttl", 3, "the wait is the ttl, as if all clocks ran alike", pair),
        mutant(
            M::HolderIgnoresSuspension,
            "holder-ignores-suspension",
            3,
            "the holder believes the clock that stands in suspension",
            A2 { sleeps: 3, ..pair },
        ),
        mutant(
            M::GrowNeedsLate,
            "alone-though-growing",
            5,
            "alone until a grow is answered",
            A2 { restarts: 0, ..set },
        ),
        mutant(M::ConditionOnEpoch, "accept-on-epoch", 9, "an acceptance is conditional on epoch, not on rev", pair),
        mutant(M::JudgedByFunction, "judged-by-function", 12, "a function judges that the lease is over", pair),
        mutant(M::OnePromiseIsEnough, "one-promise-of-two", 13, "one of two standbys' promises is enough", three),
        mutant(
            M::PromisesThoughLossy,
            "promises-though-lossy",
            13,
            "promises count where one that gave none may accept",
            A2 { lossy: true, ..three },
        ),
        mutant(
            M::PromiseForgotten,
            "promise-forgotten",
            14,
            "a restarted standby forgets its promise and not what it saw",
            restarts,
        ),
        mutant(
            M::ServeOnLateAcceptance,
            "serve-on-late-acceptance",
            14,
            "serves at once on an acceptance of an earlier process",
            restarts,
        ),
        mutant(
            M::LateAcceptanceAtOnce,
            "late-acceptance-at-once",
            14,
            "follows a late acceptance without waiting for what a process between may have promised",
            A2 { restarts: 2, ..pair },
        ),
        mutant(
            M::RightComesBack,
            "right-comes-back",
            2,
            "a holder whose right has ended serves again on a promise that arrives then",
            A2 { restarts: 2, ..pair },
        ),
        mutant(M::AcceptDespitePromise, "accept-despite-promise", 15, "a nominee accepts past its promise", pair),
        mutant(
            M::PromiseWhileAccepting,
            "promise-while-accepting",
            15,
            "a standby promises with its acceptance on its way",
            pair,
        ),
        mutant(
            M::PromiseForEver,
            "promise-for-ever",
            17,
            "a standby promises to who never hears it",
            A2 { one_way: true, ..pair },
        ),
        mutant(
            M::NeverAlone,
            "never-alone",
            41,
            "who is alone by proof still needs a lease",
            A2 { restarts: 0, ..set },
        ),
        mutant(M::WaitFromAsking, "wait-from-asking", 0, "the wait counts from when the read was asked for", pair),
    ]
}
