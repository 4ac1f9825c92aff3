//! The protocol as models: small clusters, every order of events, the shipping rules.
//!
//! * [`a1`]: the row and the in-sync set, without any clock: no acknowledged write is lost, whatever is late, lost or repeated.
//! * [`a2`]: leases and promises on clocks of different rates: at most one node serves.
//! * [`a3`]: the functions and the routes.
//! * [`a4`]: resync and activity log: no difference between two disks is forgotten.
//!
//! What is a pure function in the shipping crates is called, not written again. Each model can leave out one rule at a
//! time (a mutant); each mutant must violate an invariant, or the search would prove nothing about that rule.

pub mod a1;
pub mod a2;
pub mod a3;
pub mod a4;
pub mod report;
pub mod rows;
pub mod runner;

use runner::{Exhaustive, Mutant, Size};

/// Searches of the real rules: all of them, or those of one model.
#[must_use]
pub fn exhaustive(size: Size, only: Option<&str>) -> Vec<Exhaustive> {
    let all = [a1::exhaustive(size), a2::exhaustive(size), a3::exhaustive(size), a4::exhaustive(size)];
    all.into_iter().flatten().filter(|search| only.is_none_or(|only| only == search.model)).collect()
}

/// All mutants, or those of one model.
#[must_use]
pub fn mutants(only: Option<&str>) -> Vec<Mutant> {
    let all = [a1::mutants(), a2::mutants(), a3::mutants(), a4::mutants()];
    all.into_iter().flatten().filter(|mutant| only.is_none_or(|only| only == mutant.model)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_smallest_searches_hold() {
        for search in exhaustive(Size::Test, None) {
            let report = search.run();
            assert!(report.holds(), "{}", report::model_lines(&report).join("\n"));
        }
    }

    #[test]
    fn a_mutant_s_name_names_one_mutant() {
        let all = mutants(None);
        let names: BTreeSet<_> = all.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
