//! What became of one conditional write. `Unknown` is a value of its own: a write without an answer is never "not done".

use crate::change::{Expect, Write};
use crate::ids::Rev;
use crate::record::Row;

/// What is known of a [`Write`] when its time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied, at some time between the send of its first try and now. The row as it was then.
    Applied(Box<Row>),
    /// It was not applied and cannot be any more: the row was found at another version, and no try of this write can
    /// have led there. `None`: there is no row (any more); had it been applied before, nothing of it is left.
    Refused { found: Option<Box<Row>> },
    /// The row has moved past the version it needs, after a try without an answer: it was applied and overwritten, or
    /// it was not; it cannot be applied any more.
    Superseded { found: Box<Row> },
    /// It was not applied and cannot be any more, because no try was processed (throttled, not permitted, not valid), or
    /// because the row that was found in its way cannot be read. Nothing is known of the row.
    NotApplied { problem: String },
    /// No answer. It may have been applied, may be later, or never.
    Unknown { problem: String },
}

impl Outcome {
    /// The outcome of a write whose condition did not hold on the row `found`.
    /// `unanswered`: some earlier try of the very same write got no answer.
    #[must_use]
    pub fn of_conflict(write: &Write, found: Option<Box<Row>>, unanswered: bool) -> Self {
        let Some(found) = found else { return Self::Refused { found: None } };
        if found.nonce == write.row.nonce && found.lineage == write.row.lineage {
            // An earlier try was applied, and nobody has written since.
            return Self::Applied(found);
        }
        let expected = match &write.expect {
            Expect::Absent => Rev(0),
            Expect::Version(row) => row.rev,
        };
        // Every write raises rev by exactly one, so whoever made rev + 1 has taken the only place this write could have.
        let place_taken = found.rev == expected.next() && found.lineage == write.row.lineage;
        if unanswered && !place_taken { Self::Superseded { found } } else { Self::Refused { found: Some(found) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Founding, Terms};
    use crate::ids::{BootId, Incarnation, Nonce};
    use crate::record::{Holder, Nominee, Pause};
    use crate::rules::Rule;
    use crate::time::Millis;

    fn nonce(text: &str) -> Nonce {
        Nonce::new(text).expect("a valid nonce")
    }

    fn founding() -> Write {
        let a = Holder {
            node: "a".parse().expect("a valid name"),
            incarnation: Incarnation::new("a-1").expect("a valid name"),
            instance: "i-0a".parse().expect("a valid id"),
            boot: BootId::new("boot-1").expect("a valid id"),
            launched: "2026-01-31T23:59:59Z".into(),
        };
        let nominee = Nominee {
            node: a.node,
            incarnation: a.incarnation,
            epoch: crate::ids::Epoch(0),
            beat: crate::ids::Beat(0),
            rule: Rule::R050,
            reason: "first".into(),
            proof: None,
            lossy: false,
        };
        let terms = Terms { ttl_ms: Millis(3_000), lossy_ok: false };
        let cluster = "web".parse().expect("a valid name");
        Founding { cluster, lineage: "line-1".parse().expect("a valid name"), terms, nominee }.write(nonce("n1"))
    }

    /// The next write on `row`, by somebody.
    fn next(row: &Row, mark: &str) -> Write {
        let change = if row.paused.is_some() { Change::Resume } else { Change::Pause(Pause { reason: "r".into() }) };
        change.on(row, nonce(mark)).expect("a legal change")
    }

    fn found(row: &Row) -> Option<Box<Row>> {
        Some(Box::new(row.clone()))
    }

    #[test]
    fn an_earlier_try_that_was_applied_is_known_by_its_nonce() {
        let write = next(&founding().row, "mine");
        for unanswered in [false, true] {
            let outcome = Outcome::of_conflict(&write, found(&write.row), unanswered);
            assert_eq!(outcome, Outcome::Applied(Box::new(write.row.clone())));
        }
    }

    /// A row that was deleted and made again is nobody's earlier try, whatever its mark.
    #[test]
    fn a_nonce_in_another_lineage_is_not_mine() {
        let write = next(&founding().row, "mine");
        let stranger = Row { lineage: "line-2".parse().expect("a valid name"), ..write.row.clone() };
        assert_eq!(Outcome::of_conflict(&write, found(&stranger), false), Outcome::Refused { found: found(&stranger) });
        assert_eq!(
            Outcome::of_conflict(&write, found(&stranger), true),
            Outcome::Superseded { found: Box::new(stranger) },
            "its rev is of another count: whether mine was applied before is not known"
        );
    }

    #[test]
    fn whoever_took_the_only_place_of_a_write_proves_that_it_was_not_applied() {
        let before = founding().row;
        let (write, other) = (next(&before, "mine"), next(&before, "theirs").row);
        for unanswered in [false, true] {
            let outcome = Outcome::of_conflict(&write, found(&other), unanswered);
            assert_eq!(outcome, Outcome::Refused { found: found(&other) });
        }
    }

    #[test]
    fn a_row_that_has_moved_further_hides_whether_an_unanswered_try_was_applied() {
        let write = next(&founding().row, "mine");
        let later = next(&write.row, "theirs").row;
        let refused = Outcome::Refused { found: found(&later) };
        assert_eq!(Outcome::of_conflict(&write, found(&later), false), refused, "every try was answered");
        let superseded = Outcome::Superseded { found: Box::new(later.clone()) };
        assert_eq!(Outcome::of_conflict(&write, found(&later), true), superseded);
    }

    #[test]
    fn no_row_refuses() {
        let write = next(&founding().row, "mine");
        for unanswered in [false, true] {
            assert_eq!(Outcome::of_conflict(&write, None, unanswered), Outcome::Refused { found: None });
        }
    }

    /// The first row has rev 1: it takes the place after "absent".
    #[test]
    fn a_founding_that_lost_the_race_is_refused_for_certain() {
        let mine = founding();
        let theirs = Row { nonce: nonce("n2"), ..mine.row.clone() };
        assert_eq!(Outcome::of_conflict(&mine, found(&theirs), true), Outcome::Refused { found: found(&theirs) });
        let later = next(&theirs, "n3").row;
        assert_eq!(Outcome::of_conflict(&mine, found(&later), true), Outcome::Superseded { found: Box::new(later) });
    }
}
