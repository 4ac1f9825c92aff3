//! What two histories say of each other.

use crate::ids::Generation;
use crate::wire::Verdict;

/// Whether everything that the standby has ever completed as a primary is at this primary: its history knows the epoch in
/// which the standby last did, up to that turn or a later one. Both sides compute it; a side that finds another answer hangs up.
///
/// A primary completes nothing in a generation before every member of `need` has that generation in its history, durably. So
/// whoever was promoted by the rules knows it, and who does not know it was promoted without those writes. One process gives
/// out all turns of an epoch: who knows a later one has all that was completed in those before. An epoch older than all that
/// the primary remembers can not be judged, and is treated as diverged: refused, until somebody says that the data may go.
#[must_use]
pub fn verdict(primary: &[Generation], completed: Option<Generation>) -> Verdict {
    let knows = |last: Generation| primary.iter().any(|one| one.epoch == last.epoch && one.turn >= last.turn);
    match completed {
        Some(last) if !knows(last) => Verdict::Diverged,
        Some(_) | None => Verdict::Descends,
    }
}
