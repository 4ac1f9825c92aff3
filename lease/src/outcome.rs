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
