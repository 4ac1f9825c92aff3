//! What two histories say of each other.

use crate::ids::Generation;
use crate::wire::Verdict;

/// Whether everything that the standby has ever completed as a primary is at this primary: the generation in which it last
/// did is part of the primary's history. Both sides compute it; a side that finds another answer hangs up.
///
/// A primary completes nothing in a generation before every member of `need` has that generation in its history, durably. So
/// whoever was promoted by the rules knows it, and who does not know it was promoted without those writes. A generation
/// older than all that the primary remembers can not be judged, and is treated as diverged: refused, until somebody says that
/// the data may go.
#[must_use]
pub fn verdict(primary: &[Generation], completed: Option<Generation>) -> Verdict {
    match completed {
        Some(last) if !primary.contains(&last) => Verdict::Diverged,
        Some(_) | None => Verdict::Descends,
    }
}
