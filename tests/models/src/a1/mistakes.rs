//! The rules that a mutant of A1 leaves out. None of them exists in a shipping crate.

use super::A1;
use crate::runner::Mutant;

/// One rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    OldFramesTaken,
    GrowNeedsLate,
    ReadAsProof,
    ShrinkCompletesEarly,
    ConditionOnEpoch,
    EpochAdded,
    StaleRead,
    PromotedByAnother,
    ResyncInSet,
    FormatKeepsName,
    AcksByNode,
    GrowWithoutHandshake,
    RestartKeepsEpoch,
    AcceptKeepsSet,
    AnyLineage,
    ConditionOnRevAlone,
    NonceReused,
    FramesWhileAccepting,
    ClaimForgotten,
    RestartKeepsSet,
}

/// Every mutant of A1.
#[must_use]
pub fn mutants() -> Vec<Mutant> {
    use Mistake as M;
    let two = |max_rev: u8, formats: u8, writes: usize| A1 { formats, ..A1::real(2, max_rev, writes) };
    let mutant = |mistake: Mistake, name, trap, left_out, bounds: A1| {
        // A repeated frame number loses a write; that the old epoch goes on would already show in what is read.
        let judged_by: &[&str] = match mistake {
            M::RestartKeepsEpoch => &["I3"],
            M::ConditionOnRevAlone => &["I1"],
            _ => &["I3", "I4", "I7"],
        };
        let a1 = A1 { mistake: Some(mistake), judged_by, ..bounds };
        Mutant::new("a1", name, trap, left_out, move || A1 { mistake: None, ..a1 }, move || a1)
    };
    vec![
        mutant(
            M::OldFramesTaken,
            "old-frames-taken",
            2,
            "a copy takes frames of older epochs than it promised",
            two(5, 0, 1),
        ),
        mutant(M::GrowNeedsLate, "grow-needs-late", 5, "a new member is needed only from the answer on", two(6, 0, 2)),
        mutant(
            M::ReadAsProof,
            "read-as-proof",
            6,
            "a read that shows no grow counts as proof against it",
            two(6, 0, 1),
        ),
        mutant(
            M::ShrinkCompletesEarly,
            "shrink-completes-early",
            7,
            "completes without the peer before the shrink is proven",
            two(6, 0, 1),
        ),
        mutant(
            M::ConditionOnEpoch,
            "condition-on-epoch",
            9,
            "writes are conditional on epoch, not on rev",
            two(6, 0, 1),
        ),
        mutant(M::EpochAdded, "epoch-added", 10, "an acceptance adds one to whatever epoch it finds", two(6, 0, 1)),
        mutant(M::StaleRead, "stale-read", 11, "need follows an eventually consistent read", two(6, 0, 1)),
        mutant(M::PromotedByAnother, "promoted-by-another", 15, "somebody else makes a node the holder", two(5, 0, 1)),
        mutant(M::ResyncInSet, "resync-in-set", 18, "a member is resynced without leaving the set first", two(5, 0, 1)),
        mutant(
            M::FormatKeepsName,
            "format-keeps-name",
            19,
            "a wiped or restored replica keeps its incarnation",
            two(5, 1, 1),
        ),
        mutant(
            M::AcksByNode,
            "acks-by-node",
            19,
            // Alone it does no harm here: what the new disk must not take, it refuses by the claim, which goes by node.
            "acknowledgements are counted by node, not by incarnation, and a new disk fears no acceptance of the old one",
            two(5, 1, 1),
        ),
        mutant(
            M::GrowWithoutHandshake,
            "grow-without-handshake",
            20,
            "a member is taken in on what an older epoch showed",
            two(6, 0, 1),
        ),
        mutant(
            M::RestartKeepsEpoch,
            "restart-keeps-epoch",
            21,
            "a restarted holder goes on in its old epoch",
            two(4, 0, 2),
        ),
        mutant(
            M::AcceptKeepsSet,
            "accept-keeps-set",
            24,
            "an acceptance keeps the set, without reconciling",
            A1 { formats: 0, ..A1::real(3, 4, 1) },
        ),
        mutant(
            M::AnyLineage,
            "any-lineage",
            35,
            "a row of another lineage is followed",
            A1 { remade: true, ..two(5, 0, 1) },
        ),
        mutant(
            M::ConditionOnRevAlone,
            "condition-on-rev-alone",
            35,
            "a write meant for a deleted row lands on the one made anew",
            A1 { remade: true, ..two(5, 0, 1) },
        ),
        mutant(M::NonceReused, "nonce-reused", 40, "a nonce is used again while an old request lives", two(6, 0, 1)),
        mutant(
            M::FramesWhileAccepting,
            "frames-while-accepting",
            0,
            "a copy takes frames while its own acceptance is on its way",
            two(5, 0, 1),
        ),
        mutant(
            M::ClaimForgotten,
            "claim-forgotten",
            0,
            "a restarted standby takes frames though its acceptance may still land",
            two(5, 0, 1),
        ),
        mutant(
            M::RestartKeepsSet,
            "restart-keeps-set",
            0,
            "a holder restarted after a crash keeps the set",
            two(5, 0, 1),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Each invariant catches something: none is there for show.
    #[test]
    fn every_invariant_falls_to_a_mutant() {
        let mistakes = [
            Mistake::NonceReused,
            Mistake::GrowNeedsLate,
            Mistake::FormatKeepsName,
            Mistake::OldFramesTaken,
            Mistake::PromotedByAnother,
            Mistake::RestartKeepsSet,
        ];
        let fallen: BTreeSet<&str> = mistakes
            .into_iter()
            .filter_map(|mistake| {
                let a1 = A1 { mistake: Some(mistake), ..A1::real(2, 6, 1) };
                Mutant::new("a1", "any", 0, "any", move || A1 { mistake: None, ..a1 }, move || a1)
                    .hunt()
                    .map(|killed| &killed.property[..2])
            })
            .collect();
        assert_eq!(fallen, BTreeSet::from(["I1", "I2", "I3", "I4", "I5", "I7"]));
    }
}
